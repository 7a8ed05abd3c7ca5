/* vec_avx2.h - float vectors of 8 as the kernel templates use them. */
#ifndef DN_KERNELS_VEC_AVX2_H
#define DN_KERNELS_VEC_AVX2_H

#include <immintrin.h>

#define VEC_TARGET __attribute__((target("avx2,fma")))
#define VEC_INLINE static inline __attribute__((always_inline)) VEC_TARGET

enum { VEC = 8, VECS = 2 }; /* floats in a vector, vectors in a panel of 16 */
typedef __m256 vec;
typedef __m256i vec_mask;

VEC_INLINE vec vec_zero(void) { return _mm256_setzero_ps(); }
VEC_INLINE vec vec_set(float x) { return _mm256_set1_ps(x); }
VEC_INLINE vec vec_spread(const float *x) { return _mm256_broadcast_ss(x); }
VEC_INLINE vec vec_load(const float *x) { return _mm256_loadu_ps(x); }
VEC_INLINE void vec_store(float *x, vec v) { _mm256_storeu_ps(x, v); }
/* Lanes below n; lanes outside a mask are neither read (they count as 0) nor written. */
VEC_INLINE vec_mask vec_first(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
VEC_INLINE vec vec_load_mask(const float *x, vec_mask m) { return _mm256_maskload_ps(x, m); }
VEC_INLINE void vec_store_mask(float *x, vec v, vec_mask m) { _mm256_maskstore_ps(x, m, v); }

VEC_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
VEC_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
VEC_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
VEC_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
VEC_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
/* *sum += a * b, one fma. As assembly: gcc 12 moves the accumulators of an unrolled loop between registers, and spills some, when it may choose the form. */
VEC_INLINE void vec_sum(vec *sum, vec a, vec b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b)); }
/* The same with one float for all lanes of a. */
VEC_INLINE void vec_sum_spread(vec *sum, const float *x, vec b) { vec_sum(sum, vec_spread(x), b); }
VEC_INLINE void vec_settle(vec *sum) { (void)sum; } /* see vec_avx512.h; here it would cause what it prevents there */
VEC_INLINE void vec_fence(void) {} /* see vec_neon.h */
/* a > b ? a : b and a < b ? a : b, so b where either is NaN. */
VEC_INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
VEC_INLINE vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
/* a < b ? x : y; a is NaN ? x : y. */
VEC_INLINE vec vec_select_less(vec a, vec b, vec x, vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
VEC_INLINE vec vec_select_nan(vec a, vec x, vec y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, a, _CMP_UNORD_Q)); }
VEC_INLINE vec vec_minus_abs(vec a) { return _mm256_or_ps(a, _mm256_set1_ps(-0.0f)); }
/* 2^n, where the low bits of z hold n. */
VEC_INLINE vec vec_power(vec z) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_castps_si256(z), _mm256_set1_epi32(127)), 23)); }

#endif
