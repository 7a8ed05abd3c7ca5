/* conv_f32_neon.c - float convolution tiles for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/elem_f32_template.h"
#include "kernels/conv_float_template.h"

/* 32 registers: 6 pixels x 4 vectors + 4 weights + 1 activation. Where the panel has at most 8 channels, its upper half is left out. */
static void row_6x1(const dn_conv_f32_job *job) {
    if (job->last <= 8) tile(job, 6, 2, false);
    else tile(job, 6, 4, false);
}
static void pointer_6x1(const dn_conv_f32_job *job) {
    if (job->last <= 8) tile(job, 6, 2, true);
    else tile(job, 6, 4, true);
}
TILE_BOTH(4, 1)
/* One pixel (linear layers): the sum over panels of weights hides the latency that pixels hide elsewhere. */
TILE_ROW(1, 2)
TILE_ROW(1, 1)

static const dn_conv_f32_variant variants[] = {VARIANT_BOTH(6, 1), VARIANT_BOTH(4, 1), VARIANT_ROW(1, 2), VARIANT_ROW(1, 1)};

const dn_conv_f32 dn_conv_f32_neon = {.isa = "neon", .variants = variants, .variant_count = sizeof variants / sizeof *variants};
#endif
