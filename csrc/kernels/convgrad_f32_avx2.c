/* convgrad_f32_avx2.c - gradient of a convolution's weights for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx2.h"
#include "kernels/convgrad_f32_template.h"

/* Every count of channels has a body of its own: 16 are best done as 6 + 5 + 5, the 3 of an image as one. */
#define ONE(MR, VECTORS, WHOLE) \
    case MR: tile(job, 0, MR, VECTORS, WHOLE); break;
#define UP_TO_3(VECTORS, WHOLE) ONE(3, VECTORS, WHOLE) ONE(2, VECTORS, WHOLE) ONE(1, VECTORS, WHOLE)
#define UP_TO_6(VECTORS, WHOLE) ONE(6, VECTORS, WHOLE) ONE(5, VECTORS, WHOLE) ONE(4, VECTORS, WHOLE) UP_TO_3(VECTORS, WHOLE)

/* Masked loads cost what the fma they belong to save, so they are kept to the vector that needs one, and a vector without outputs is left out. */
static VEC_TARGET void run_6x1(const dn_convgrad_f32_job *job) {
    if (job->last == 16) {
        switch (job->channels) { UP_TO_6(2, true) }
    } else if (job->last > 8) {
        switch (job->channels) { UP_TO_6(2, false) }
    } else if (job->last == 8) {
        switch (job->channels) { UP_TO_6(1, true) }
    } else {
        switch (job->channels) { UP_TO_6(1, false) }
    }
}
static VEC_TARGET void run_3x2(const dn_convgrad_f32_job *job) {
    if (job->last == 16) {
        switch (job->channels) { UP_TO_3(4, true) }
    } else if (job->last > 8) {
        switch (job->channels) { UP_TO_3(4, false) }
    } else if (job->last == 8) {
        switch (job->channels) { UP_TO_3(3, true) }
    } else {
        switch (job->channels) { UP_TO_3(3, false) }
    }
}

static const dn_convgrad_f32_variant variants[] = {{run_6x1, 6, 1}, {run_3x2, 3, 2}};

const dn_convgrad_f32 dn_convgrad_f32_avx2 = {"avx2", variants, sizeof variants / sizeof *variants};
#endif
