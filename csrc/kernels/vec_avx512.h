/* vec_avx512.h - float vectors of 16 as the kernel templates use them. */
#ifndef DN_KERNELS_VEC_AVX512_H
#define DN_KERNELS_VEC_AVX512_H

#include <immintrin.h>

#define VEC_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define VEC_INLINE static inline __attribute__((always_inline)) VEC_TARGET

enum { VEC = 16, VECS = 1 }; /* floats in a vector, vectors in a panel of 16 */
typedef __m512 vec;
typedef __mmask16 vec_mask;

VEC_INLINE vec vec_zero(void) { return _mm512_setzero_ps(); }
VEC_INLINE vec vec_set(float x) { return _mm512_set1_ps(x); }
VEC_INLINE vec vec_spread(const float *x) { return _mm512_set1_ps(*x); }
VEC_INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
VEC_INLINE void vec_store(float *x, vec v) { _mm512_storeu_ps(x, v); }
/* Lanes below n; lanes outside a mask are neither read (they count as 0) nor written. */
VEC_INLINE vec_mask vec_first(int n) { return (vec_mask)(n >= VEC ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }
VEC_INLINE vec vec_load_mask(const float *x, vec_mask m) { return _mm512_maskz_loadu_ps(m, x); }
VEC_INLINE void vec_store_mask(float *x, vec v, vec_mask m) { _mm512_mask_storeu_ps(x, m, v); }

VEC_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
/* *sum += a * b, one fma. As assembly: gcc 12 moves the accumulators of an unrolled loop between registers, and spills some, when it may choose the form. */
VEC_INLINE void vec_sum(vec *sum, vec a, vec b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b)); }
/* The same with one float for all lanes of a. */
VEC_INLINE void vec_sum_spread(vec *sum, const float *x, vec b) { __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(*sum) : "v"(b), "m"(*x)); }
/* Nothing, at the end of an unrolled loop, for every sum: without it gcc 12 lets some of them change registers within the loop, and copies them back. */
VEC_INLINE void vec_settle(vec *sum) { __asm__("" : "+v"(*sum)); }
VEC_INLINE void vec_fence(void) {} /* see vec_neon.h */
/* a > b ? a : b and a < b ? a : b, so b where either is NaN. */
VEC_INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
/* a < b ? x : y; a is NaN ? x : y. */
VEC_INLINE vec vec_select_less(vec a, vec b, vec x, vec y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
VEC_INLINE vec vec_select_nan(vec a, vec x, vec y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), y, x); }
VEC_INLINE vec vec_minus_abs(vec a) { return _mm512_or_ps(a, _mm512_set1_ps(-0.0f)); }
/* 2^n, where the low bits of z hold n. */
VEC_INLINE vec vec_power(vec z) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_castps_si512(z), _mm512_set1_epi32(127)), 23)); }

#endif
