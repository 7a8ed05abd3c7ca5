/* wino4_avx2.h - transforms of tiles of 4 x 4 outputs, F(4 x 4, 3 x 3). */
#ifndef DN_KERNELS_WINO4_AVX2_H
#define DN_KERNELS_WINO4_AVX2_H

#include "kernels/wino_avx2.h"

enum { READ_4 = 6 };

/* B' times a column of inputs, or a row of them times B. */
AVX2_INLINE void transform_line_4(__m256i t[READ_4], const __m256i d[READ_4]) {
    const __m256i d42 = _mm256_sub_epi16(d[4], d[2]), d31 = _mm256_slli_epi16(_mm256_sub_epi16(d[3], d[1]), 1);
    const __m256i a = _mm256_sub_epi16(d[4], _mm256_slli_epi16(d[2], 2)), b = _mm256_sub_epi16(d[3], _mm256_slli_epi16(d[1], 2));
    t[0] = _mm256_add_epi16(_mm256_slli_epi16(_mm256_sub_epi16(d[0], d[2]), 2), d42);
    t[1] = _mm256_add_epi16(a, b);
    t[2] = _mm256_sub_epi16(a, b);
    t[3] = _mm256_add_epi16(d42, d31);
    t[4] = _mm256_sub_epi16(d42, d31);
    t[5] = _mm256_sub_epi16(_mm256_sub_epi16(d[5], d[3]), _mm256_slli_epi16(d31, 1));
}

/* n channels of one tile; `position` elements from one position to the next. */
AVX2_INLINE void transform_tile_4(int16_t *to, size_t position, const uint8_t *p, ptrdiff_t row, ptrdiff_t step, int n) {
    __m256i columns[READ_4][READ_4]; /* [row][column] */
#pragma GCC unroll 1
    for (int x = 0; x < READ_4; x++, p += step) {
        __m256i d[READ_4], t[READ_4];
        const uint8_t *from = p;
        UNROLL for (int y = 0; y < READ_4; y++, from += row) d[y] = load_channels(from, n);
        transform_line_4(t, d);
        UNROLL for (int y = 0; y < READ_4; y++) columns[y][x] = t[y];
    }
#pragma GCC unroll 1
    for (int y = 0; y < READ_4; y++) {
        __m256i t[READ_4];
        transform_line_4(t, columns[y]);
        UNROLL for (int x = 0; x < READ_4; x++, to += position) store_channels(to, t[x], n);
    }
}

/* A' times a column of products, or a row of them times A. */
AVX2_INLINE void transform_back_line_4(__m256i t[4], const __m256i m[READ_4]) {
    const __m256i s1 = _mm256_add_epi32(m[1], m[2]), d1 = _mm256_sub_epi32(m[1], m[2]), s2 = _mm256_add_epi32(m[3], m[4]);
    const __m256i d2 = _mm256_slli_epi32(_mm256_sub_epi32(m[3], m[4]), 1);
    t[0] = _mm256_add_epi32(_mm256_add_epi32(m[0], s1), s2);
    t[1] = _mm256_add_epi32(d1, d2);
    t[2] = _mm256_add_epi32(s1, _mm256_slli_epi32(s2, 2));
    t[3] = _mm256_add_epi32(_mm256_add_epi32(d1, _mm256_slli_epi32(d2, 2)), _mm256_slli_epi32(m[5], 1));
}

/* A division without a remainder by 576 = 9 * 64: times the inverse of 9 modulo 2^32, and shifted. */
AVX2_INLINE __m256i divide_576(__m256i v) { return _mm256_srai_epi32(_mm256_mullo_epi32(v, _mm256_set1_epi32(0x38e38e39)), 6); }

/* (A' m A) / 576 of 8 outputs of one tile to every other element of sums; `position` elements from one position to the next. */
AVX2_INLINE void transform_back_4(const int32_t *m, size_t position, __m256i *sums) {
    __m256i columns[4][READ_4];
#pragma GCC unroll 1
    for (int x = 0; x < READ_4; x++, m += position) {
        __m256i d[READ_4], t[4];
        const int32_t *from = m;
        UNROLL for (int y = 0; y < READ_4; y++, from += READ_4 * position) d[y] = _mm256_load_si256((const __m256i *)(const void *)from);
        transform_back_line_4(t, d);
        UNROLL for (int y = 0; y < 4; y++) columns[y][x] = t[y];
    }
#pragma GCC unroll 1
    for (int y = 0; y < 4; y++) {
        __m256i t[4];
        transform_back_line_4(t, columns[y]);
        UNROLL for (int x = 0; x < 4; x++, sums += 2) *sums = divide_576(t[x]);
    }
}

#endif
