/* linear_s8_neondot.c - the linear layer on planes of nibbles with the dot product of ARMv8.2 (udot). */
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

DOT_INLINE void dot(uint32x4_t *sum, uint8x16_t w, uint8x16_t a) { *sum = vdotq_u32(*sum, w, a); }
DOT_INLINE uint32x4_t total(const uint32x4_t *sum) { return *sum; }

#include "kernels/linear_s8_neon_template.h"

const dn_linear_s8 dn_linear_s8_neondot = {.isa = "neondot", .run = run};

#endif
