/* vec_neon.h - float vectors of 4 as the kernel templates use them. */
#ifndef DN_KERNELS_VEC_NEON_H
#define DN_KERNELS_VEC_NEON_H

#include <arm_neon.h>

#define VEC_TARGET
#define VEC_INLINE static inline __attribute__((always_inline))

enum { VEC = 4, VECS = 4 }; /* floats in a vector, vectors in a panel of 16 */
typedef float32x4_t vec;
typedef int vec_mask; /* how many lanes, 0 to 4 */

VEC_INLINE vec vec_zero(void) { return vdupq_n_f32(0); }
VEC_INLINE vec vec_set(float x) { return vdupq_n_f32(x); }
VEC_INLINE vec vec_spread(const float *x) { return vld1q_dup_f32(x); }
VEC_INLINE vec vec_load(const float *x) { return vld1q_f32(x); }
VEC_INLINE void vec_store(float *x, vec v) { vst1q_f32(x, v); }
/* Lanes below n; lanes outside a mask are neither read (they count as 0) nor written. */
VEC_INLINE vec_mask vec_first(int n) { return n >= VEC ? VEC : n <= 0 ? 0 : n; }
VEC_INLINE vec vec_load_mask(const float *x, vec_mask m) {
    if (m == 4) return vld1q_f32(x);
    vec v = vdupq_n_f32(0);
    if (m & 2) v = vcombine_f32(vld1_f32(x), vdup_n_f32(0));
    if (m == 1) v = vsetq_lane_f32(x[0], v, 0);
    if (m == 3) v = vsetq_lane_f32(x[2], v, 2);
    return v;
}
VEC_INLINE void vec_store_mask(float *x, vec v, vec_mask m) {
    if (m == 4) vst1q_f32(x, v);
    if (m == 2 || m == 3) vst1_f32(x, vget_low_f32(v));
    if (m == 1) x[0] = vgetq_lane_f32(v, 0);
    if (m == 3) x[2] = vgetq_lane_f32(v, 2);
}

VEC_INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return vfmaq_f32(c, a, b); }
/* *sum += a * b, one fma. */
VEC_INLINE void vec_sum(vec *sum, vec a, vec b) { *sum = vfmaq_f32(*sum, a, b); }
/* The same with one float for all lanes of a. */
VEC_INLINE void vec_sum_spread(vec *sum, const float *x, vec b) { vec_sum(sum, vec_spread(x), b); }
VEC_INLINE void vec_settle(vec *sum) { (void)sum; } /* see vec_avx512.h */
/* No load moves up past it: gcc 12 fetches what the next step of an unrolled loop needs so early that the sums no longer fit into the registers. */
VEC_INLINE void vec_fence(void) { __asm__ volatile("" : : : "memory"); }
/* a > b ? a : b and a < b ? a : b, so b where either is NaN. fmax and fmin would give a NaN there and order the zeros. */
VEC_INLINE vec vec_max(vec a, vec b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
/* a < b ? x : y; a is NaN ? x : y. */
VEC_INLINE vec vec_select_less(vec a, vec b, vec x, vec y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
VEC_INLINE vec vec_select_nan(vec a, vec x, vec y) { return vbslq_f32(vceqq_f32(a, a), y, x); }
VEC_INLINE vec vec_minus_abs(vec a) { return vnegq_f32(vabsq_f32(a)); }
/* 2^n, where the low bits of z hold n. */
VEC_INLINE vec vec_power(vec z) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vreinterpretq_s32_f32(z), vdupq_n_s32(127)), 23)); }

#endif
