/* conv_f32_avx512.c - float convolution tiles for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/elem_f32_template.h"
#include "kernels/conv_float_template.h"

/* 32 registers: 24 sums, the weights of one channel and one activation. Each pixel takes a general register, which ends at 12 (10 where only one fma shares a load). */
TILE_BOTH(12, 2)
TILE_BOTH(8, 3)
TILE_BOTH(6, 4)
TILE_BOTH(8, 2)
TILE_BOTH(10, 1)
/* One pixel (linear layers). */
TILE_ROW(1, 4)
TILE_ROW(1, 2)
TILE_ROW(1, 1)

static const dn_conv_f32_variant variants[] = {
    VARIANT_BOTH(12, 2), VARIANT_BOTH(8, 3), VARIANT_BOTH(6, 4), VARIANT_BOTH(8, 2), VARIANT_BOTH(10, 1), VARIANT_ROW(1, 4), VARIANT_ROW(1, 2), VARIANT_ROW(1, 1),
};

const dn_conv_f32 dn_conv_f32_avx512 = {"avx512", variants, sizeof variants / sizeof *variants, NULL, NULL};
#endif
