/* convgrad_f32_neon.c - gradient of a convolution's weights for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/convgrad_f32_template.h"

/* Every count of channels has a body of its own; the last vector is loaded under a mask only where it has to be, and vectors without outputs are left out. */
#define ONE(MR, VECTORS, WHOLE) \
    case MR: tile(job, 0, MR, VECTORS, WHOLE); break;
#define UP_TO_6(NAME, VECTORS, WHOLE)                                                                                                                         \
    static void NAME(const dn_convgrad_f32_job *job) {                                                                                                        \
        switch (job->channels) {                                                                                                                              \
            ONE(6, VECTORS, WHOLE) ONE(5, VECTORS, WHOLE) ONE(4, VECTORS, WHOLE) ONE(3, VECTORS, WHOLE) ONE(2, VECTORS, WHOLE) ONE(1, VECTORS, WHOLE)         \
        }                                                                                                                                                     \
    }
UP_TO_6(whole_1, 1, true) UP_TO_6(whole_2, 2, true) UP_TO_6(whole_3, 3, true) UP_TO_6(whole_4, 4, true)
UP_TO_6(part_1, 1, false) UP_TO_6(part_2, 2, false) UP_TO_6(part_3, 3, false) UP_TO_6(part_4, 4, false)

static void run_6x1(const dn_convgrad_f32_job *job) {
    static void (*const body[2][4])(const dn_convgrad_f32_job *) = {{part_1, part_2, part_3, part_4}, {whole_1, whole_2, whole_3, whole_4}};
    body[job->last % 4 == 0][(job->last - 1) / 4](job);
}

static const dn_convgrad_f32_variant variants[] = {{run_6x1, 6, 1}};

const dn_convgrad_f32 dn_convgrad_f32_neon = {"neon", variants, sizeof variants / sizeof *variants};
#endif
