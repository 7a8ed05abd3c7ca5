/* linear_s8_neon.c - the linear layer on planes of nibbles for 64-bit ARM without the dot product: umull and uadalp, as many as conv_s8 takes. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#define TARGET
#define PART_INLINE static inline __attribute__((always_inline))

enum { PARTS = 2 };

PART_INLINE void dot(uint32x4_t *sum, uint8x16_t w, uint8x16_t a) {
    sum[0] = vpadalq_u16(sum[0], vmull_u8(vget_low_u8(w), vget_low_u8(a)));
    sum[1] = vpadalq_u16(sum[1], vmull_high_u8(w, a));
}

PART_INLINE uint32x4_t total(const uint32x4_t *sum) { return vpaddq_u32(sum[0], sum[1]); }

#include "kernels/linear_s8_neon_template.h"

const dn_linear_s8 dn_linear_s8_neon = {.isa = "neon", .run = run};

#endif
