/* elem_bf16_avx2.h - what the float kernel templates read and write: bfloat16, for AVX2.
 *
 * A bfloat16 is the upper half of a float. Two that stand together in 32 bits are widened without a shuffle: the first by a shift, the second by clearing the lower half.
 * Stores round to nearest even. They need not look for NaN: any that arithmetic makes from bfloat16 values has an empty lower half, and rounding leaves it alone. */
#ifndef DN_KERNELS_ELEM_BF16_AVX2_H
#define DN_KERNELS_ELEM_BF16_AVX2_H

#include <stdint.h>
#include <string.h>

#include "kernels/vec_avx2.h"

typedef uint16_t elem;
typedef __m256i elem_pairs; /* VEC times two that stand together */

VEC_INLINE vec elem_first(elem_pairs pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
VEC_INLINE vec elem_second(elem_pairs pairs) { return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536))); }

/* *sum += a1 * b1, then a0 * b0: one statement, between whose halves gcc 12 would move the sum to another register. */
VEC_INLINE void elem_sum_pair(vec *sum, vec a0, vec b0, vec a1, vec b1) {
    __asm__("vfmadd231ps %4, %3, %0\n\tvfmadd231ps %2, %1, %0" : "+&x"(*sum) : "x"(a0), "x"(b0), "x"(a1), "x"(b1));
}

VEC_INLINE vec elem_widen(__m128i x) { return elem_first(_mm256_cvtepu16_epi32(x)); }
/* The upper halves are rounded, the lower ones are left to be thrown away. */
VEC_INLINE __m256i elem_round(vec v) {
    __m256i bits = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
}
VEC_INLINE __m128i elem_narrow(vec v) {
    __m256i half = _mm256_srli_epi32(elem_round(v), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

VEC_INLINE vec elem_load(const elem *x) { return elem_widen(_mm_loadu_si128((const __m128i *)(const void *)x)); }
VEC_INLINE void elem_store(elem *x, vec v) { _mm_storeu_si128((__m128i *)(void *)x, elem_narrow(v)); }

/* The first n of 8, n a mask's: 4, 2 and 1 at a time. */
VEC_INLINE vec elem_load_mask(const elem *x, vec_mask m) {
    int n = __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(m)));
    elem part[8] = {0};
    if (n == 8) return elem_load(x);
    if (n == 4) return elem_widen(_mm_loadl_epi64((const __m128i *)(const void *)x));
    if (n & 4) memcpy(part, x, 8);
    if (n & 2) memcpy(part + (n & 4), x + (n & 4), 4);
    if (n & 1) part[n - 1] = x[n - 1];
    return elem_load(part);
}
VEC_INLINE void elem_store_mask(elem *x, vec v, vec_mask m) {
    int n = __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(m)));
    elem part[8];
    if (n == 8) {
        elem_store(x, v);
        return;
    }
    elem_store(part, v);
    if (n & 4) memcpy(x, part, 8);
    if (n & 2) memcpy(x + (n & 4), part + (n & 4), 4);
    if (n & 1) x[n - 1] = part[n - 1];
}

/* Two channels of VEC outputs as they stand in the weights of a convolution, and two neighbouring channels of one pixel in all lanes: for elem_first and elem_second. */
VEC_INLINE elem_pairs elem_load_pairs(const elem *x) { return _mm256_loadu_si256((const __m256i *)(const void *)x); }
VEC_INLINE elem_pairs elem_spread_pair(const elem *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm256_set1_epi32(pair);
}
VEC_INLINE elem_pairs elem_spread_one(const elem *x) { return _mm256_set1_epi32(*x); }

/* Sixteen channels in order. */
VEC_INLINE void elem_store_panel(elem *x, const vec v[VECS]) {
    __m256i mixed = _mm256_packus_epi32(_mm256_srli_epi32(elem_round(v[0]), 16), _mm256_srli_epi32(elem_round(v[1]), 16));
    _mm256_storeu_si256((__m256i *)(void *)x, _mm256_permute4x64_epi64(mixed, 0xd8));
}

/* Sixteen channels as two vectors, in the order they are cheapest to read: those with even numbers, those with odd numbers. */
VEC_INLINE vec elem_load_part(const elem *x, const int j) { return j ? elem_second(elem_load_pairs(x)) : elem_first(elem_load_pairs(x)); }
VEC_INLINE vec elem_table_part(const float *x, const int j) {
    vec a = vec_load(x), b = vec_load(x + VEC), mixed = j ? _mm256_shuffle_ps(a, b, 0xdd) : _mm256_shuffle_ps(a, b, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
VEC_INLINE void elem_store_parts(elem *x, const vec v[VECS]) {
    __m256i even = _mm256_srli_epi32(elem_round(v[0]), 16), odd = _mm256_and_si256(elem_round(v[1]), _mm256_set1_epi32(-65536));
    _mm256_storeu_si256((__m256i *)(void *)x, _mm256_or_si256(even, odd));
}
VEC_INLINE void elem_order_parts(vec v[VECS]) {
    vec low = _mm256_unpacklo_ps(v[0], v[1]), high = _mm256_unpackhi_ps(v[0], v[1]);
    v[0] = _mm256_permute2f128_ps(low, high, 0x20);
    v[1] = _mm256_permute2f128_ps(low, high, 0x31);
}

#endif
