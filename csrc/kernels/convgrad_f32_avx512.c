/* convgrad_f32_avx512.c - gradient of a convolution's weights for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/convgrad_f32_template.h"

/* Fewer channels than a tile has are done in powers of two. */
#define PART(MR, NR) \
    for (; job->channels - first >= MR; first += MR) { \
        if (job->last == 16) tile(job, first, MR, (NR) * VECS, true); \
        else tile(job, first, MR, (NR) * VECS, false); \
    }

static VEC_TARGET void run_16x1(const dn_convgrad_f32_job *job) {
    ptrdiff_t first = 0;
    PART(16, 1) PART(8, 1) PART(4, 1) PART(2, 1) PART(1, 1)
}
static VEC_TARGET void run_8x2(const dn_convgrad_f32_job *job) {
    ptrdiff_t first = 0;
    PART(8, 2) PART(4, 2) PART(2, 2) PART(1, 2)
}
static VEC_TARGET void run_8x3(const dn_convgrad_f32_job *job) {
    ptrdiff_t first = 0;
    PART(8, 3) PART(4, 3) PART(2, 3) PART(1, 3)
}
static VEC_TARGET void run_4x4(const dn_convgrad_f32_job *job) {
    ptrdiff_t first = 0;
    PART(4, 4) PART(2, 4) PART(1, 4)
}

/* Of equal estimates the first is taken: one load per multiply-add, as 16 x 1 has, is the slowest. */
static const dn_convgrad_f32_variant variants[] = {{run_8x2, 8, 2}, {run_8x3, 8, 3}, {run_4x4, 4, 4}, {run_16x1, 16, 1}};

const dn_convgrad_f32 dn_convgrad_f32_avx512 = {"avx512", variants, sizeof variants / sizeof *variants};
#endif
