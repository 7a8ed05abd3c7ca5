/* wino2_avx2.h - transforms of tiles of 2 x 2 outputs, F(2 x 2, 3 x 3). */
#ifndef DN_KERNELS_WINO2_AVX2_H
#define DN_KERNELS_WINO2_AVX2_H

#include "kernels/wino_avx2.h"

enum { READ_2 = 4 };

/* One row of B' d, times B. */
AVX2_INLINE void transform_row_2(int16_t *to, size_t position, const __m256i t[READ_2], int n) {
    store_channels(to, _mm256_sub_epi16(t[0], t[2]), n);
    store_channels(to + position, _mm256_add_epi16(t[1], t[2]), n);
    store_channels(to + 2 * position, _mm256_sub_epi16(t[2], t[1]), n);
    store_channels(to + 3 * position, _mm256_sub_epi16(t[1], t[3]), n);
}

/* n channels of one tile; `position` elements from one position to the next. */
AVX2_INLINE void transform_tile_2(int16_t *to, size_t position, const uint8_t *d, ptrdiff_t row, ptrdiff_t step, int n) {
    __m256i d1[READ_2], d2[READ_2], t[READ_2];
    UNROLL for (int x = 0; x < READ_2; x++) d2[x] = load_channels(d + 2 * row + x * step, n);
    UNROLL for (int x = 0; x < READ_2; x++) t[x] = _mm256_sub_epi16(load_channels(d + x * step, n), d2[x]);
    transform_row_2(to, position, t, n);
    UNROLL for (int x = 0; x < READ_2; x++) d1[x] = load_channels(d + row + x * step, n);
    UNROLL for (int x = 0; x < READ_2; x++) t[x] = _mm256_add_epi16(d1[x], d2[x]);
    transform_row_2(to + READ_2 * position, position, t, n);
    UNROLL for (int x = 0; x < READ_2; x++) t[x] = _mm256_sub_epi16(d2[x], d1[x]);
    transform_row_2(to + 2 * READ_2 * position, position, t, n);
    UNROLL for (int x = 0; x < READ_2; x++) t[x] = _mm256_sub_epi16(d1[x], load_channels(d + 3 * row + x * step, n));
    transform_row_2(to + 3 * READ_2 * position, position, t, n);
}

/* (A' m A) / 4 of 8 outputs of one tile to every other element of sums; `position` elements from one position to the next. */
AVX2_INLINE void transform_back_2(const int32_t *m, size_t position, __m256i *sums) {
    __m256i t[2][READ_2];
    UNROLL for (int x = 0; x < READ_2; x++) {
        const __m256i *p = (const __m256i *)(const void *)(m + (size_t)x * position), m1 = p[position / 2], m2 = p[position];
        t[0][x] = _mm256_add_epi32(_mm256_add_epi32(m1, m2), p[0]);
        t[1][x] = _mm256_sub_epi32(_mm256_sub_epi32(m1, m2), p[position / 2 * 3]);
    }
    UNROLL for (int y = 0; y < 2; y++) {
        sums[4 * y] = _mm256_srai_epi32(_mm256_add_epi32(_mm256_add_epi32(t[y][0], t[y][1]), t[y][2]), 2);
        sums[4 * y + 2] = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_sub_epi32(t[y][1], t[y][2]), t[y][3]), 2);
    }
}

#endif
