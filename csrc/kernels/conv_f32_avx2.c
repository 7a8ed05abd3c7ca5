/* conv_f32_avx2.c - float convolution tiles for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx2.h"
#include "kernels/elem_f32_template.h"
#include "kernels/conv_float_template.h"

/* 16 registers: 6 pixels x 2 vectors + 2 weights + 1 activation, or 4 x 2, whose 8 sums just cover 2 fma a cycle of 4 cycles each. Wider tiles (3 x 4) do not fit. Where
 * the panel has at most 8 channels, its second vector is left out. */
static VEC_TARGET void row_6x1(const dn_conv_f32_job *job) {
    if (job->last <= VEC) tile(job, 6, 1, false);
    else tile(job, 6, 2, false);
}
static VEC_TARGET void pointer_6x1(const dn_conv_f32_job *job) {
    if (job->last <= VEC) tile(job, 6, 1, true);
    else tile(job, 6, 2, true);
}
TILE_BOTH(4, 1)
/* One pixel (linear layers): the sum over panels of weights hides the latency that pixels hide elsewhere. */
TILE_ROW(1, 4)
TILE_ROW(1, 2)
TILE_ROW(1, 1)

static const dn_conv_f32_variant variants[] = {VARIANT_BOTH(6, 1), VARIANT_BOTH(4, 1), VARIANT_ROW(1, 4), VARIANT_ROW(1, 2), VARIANT_ROW(1, 1)};

const dn_conv_f32 dn_conv_f32_avx2 = {"avx2", variants, sizeof variants / sizeof *variants, NULL, NULL};
#endif
