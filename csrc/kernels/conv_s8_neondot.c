/* conv_s8_neondot.c - int8 convolution with the dot product of ARMv8.2 (sdot), four channels at a time picked out of a register by its lane.
 *
 * 32 registers: 8 pixels x 8 outputs or 4 pixels x 16 are 16 sums, with 2 or 4 sums of weights beside them, 8 or 4 registers of activations, and weights as they come. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#if defined(__ARM_FEATURE_DOTPROD)
#define TARGET
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define DOT_INLINE static inline __attribute__((always_inline)) TARGET

enum { PARTS = 1 };

DOT_INLINE void dot(int32x4_t *sum, int8x16_t w, int8x16_t a, const int k) {
    switch (k) {
    case 0: *sum = vdotq_laneq_s32(*sum, w, a, 0); break;
    case 1: *sum = vdotq_laneq_s32(*sum, w, a, 1); break;
    case 2: *sum = vdotq_laneq_s32(*sum, w, a, 2); break;
    default: *sum = vdotq_laneq_s32(*sum, w, a, 3); break;
    }
}

DOT_INLINE int32x4_t total(const int32x4_t *sum) { return *sum; }
DOT_INLINE int32x4_t weight_sums(int32x4_t sums, int8x16_t w) { return vdotq_s32(sums, w, vdupq_n_s8(1)); }

#include "kernels/conv_s8_neon_template.h"

SHAPE(8, 2) SHAPE(4, 4) SHAPE(1, 4)

static const dn_conv_s8_variant variants[] = {LINES(8, 2) LINES(4, 4) LINES(1, 4)};

const dn_conv_s8 dn_conv_s8_neondot = {.isa = "neondot", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
