/* elem_bf16_avx512.h - what the float kernel templates read and write: bfloat16, for AVX-512; see elem_bf16_avx2.h. With DN_AVX512BF16 its bfloat16 instructions round, for which
 * subnormal numbers are zero. */
#ifndef DN_KERNELS_ELEM_BF16_AVX512_H
#define DN_KERNELS_ELEM_BF16_AVX512_H

#include <stdint.h>
#include <string.h>

#include "kernels/vec_avx512.h"

typedef uint16_t elem;
typedef __m512i elem_pairs; /* VEC times two that stand together */

VEC_INLINE vec elem_first(elem_pairs pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
VEC_INLINE vec elem_second(elem_pairs pairs) { return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536))); }

/* *sum += a1 * b1, then a0 * b0: one statement, between whose halves gcc 12 would move the sum to another register. */
VEC_INLINE void elem_sum_pair(vec *sum, vec a0, vec b0, vec a1, vec b1) {
    __asm__("vfmadd231ps %4, %3, %0\n\tvfmadd231ps %2, %1, %0" : "+&v"(*sum) : "v"(a0), "v"(b0), "v"(a1), "v"(b1));
}

VEC_INLINE vec elem_widen(__m256i x) { return elem_first(_mm512_cvtepu16_epi32(x)); }
#ifdef DN_AVX512BF16
VEC_INLINE __m256i elem_narrow(vec v) {
    __m256i halves;
    __asm__("vcvtneps2bf16 %1,%0" : "=v"(halves) : "v"(v));
    return halves;
}
#else
VEC_INLINE __m256i elem_narrow(vec v) {
    __m512i bits = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff)), 16));
}
#endif

VEC_INLINE vec elem_load(const elem *x) { return elem_widen(_mm256_loadu_si256((const __m256i *)(const void *)x)); }
VEC_INLINE vec elem_load_mask(const elem *x, vec_mask m) { return elem_widen(_mm256_maskz_loadu_epi16(m, x)); }
VEC_INLINE void elem_store(elem *x, vec v) { _mm256_storeu_si256((__m256i *)(void *)x, elem_narrow(v)); }
VEC_INLINE void elem_store_mask(elem *x, vec v, vec_mask m) { _mm256_mask_storeu_epi16(x, m, elem_narrow(v)); }

/* Two channels of VEC outputs as they stand in the weights of a convolution, and two neighbouring channels of one pixel in all lanes: for elem_first and elem_second. */
VEC_INLINE elem_pairs elem_load_pairs(const elem *x) { return _mm512_loadu_si512(x); }
VEC_INLINE elem_pairs elem_spread_pair(const elem *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}
VEC_INLINE elem_pairs elem_spread_one(const elem *x) { return _mm512_set1_epi32(*x); }

/* Sixteen channels in order. */
VEC_INLINE void elem_store_panel(elem *x, const vec v[VECS]) {
#pragma GCC unroll 2
    for (int j = 0; j < VECS; j++) elem_store(x + j * VEC, v[j]);
}

/* Sixteen channels as VECS vectors, in whatever order they are cheapest to read: in order. */
VEC_INLINE vec elem_load_part(const elem *x, const int j) { return elem_load(x + j * VEC); }
VEC_INLINE vec elem_table_part(const float *x, const int j) { return vec_load(x + j * VEC); }
VEC_INLINE void elem_store_parts(elem *x, const vec v[VECS]) { elem_store_panel(x, v); }
VEC_INLINE void elem_order_parts(vec v[VECS]) { (void)v; }

#endif
