/* conv_s8_neon.c - exact int8 convolution for 64-bit ARM without the dot product.
 *
 * smull makes 16-bit products of bytes, sadalp adds neighbours to 32-bit sums: two instructions for 8 products, as many as a float kernel takes. Products of two steps cannot be
 * added in 16 bits first, since -128 * -128 twice is too large. A group of 4 outputs takes two registers of partial sums, so 4 pixels x 8 outputs fill 16. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define TARGET
#define PART_INLINE static inline __attribute__((always_inline))

enum { PARTS = 2 };

PART_INLINE int8x16_t spread(int8x16_t a, const int k) {
    const int32x4_t words = vreinterpretq_s32_s8(a);
    switch (k) {
    case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 0));
    case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 1));
    case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 2));
    default: return vreinterpretq_s8_s32(vdupq_laneq_s32(words, 3));
    }
}

PART_INLINE void dot(int32x4_t *sum, int8x16_t w, int8x16_t a, const int k) {
    const int8x16_t four = spread(a, k);
    sum[0] = vpadalq_s16(sum[0], vmull_s8(vget_low_s8(w), vget_low_s8(four)));
    sum[1] = vpadalq_s16(sum[1], vmull_high_s8(w, four));
}

PART_INLINE int32x4_t total(const int32x4_t *sum) { return vpaddq_s32(sum[0], sum[1]); }
PART_INLINE int32x4_t weight_sums(int32x4_t sums, int8x16_t w) { return vpadalq_s16(sums, vpaddlq_s8(w)); }

#include "kernels/conv_s8_neon_template.h"

SHAPE(4, 2) SHAPE(1, 4)

static const dn_conv_s8_variant variants[] = {LINES(4, 2) LINES(1, 4)};

const dn_conv_s8 dn_conv_s8_neon = {.isa = "neon", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
