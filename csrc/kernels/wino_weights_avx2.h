/* wino_weights_avx2.h - weights as the direct kernels have them, to what Winograd's tiles are multiplied with, a few channels at a time.
 *
 * Transformed weights take 3.6 or 8 times the bytes. Where that is more than the caches near the core hold, making them anew costs less than fetching them. Outputs come in pair
 * order (epilogue_avx2.h). */
#ifndef DN_KERNELS_WINO_WEIGHTS_AVX2_H
#define DN_KERNELS_WINO_WEIGHTS_AVX2_H

#include "kernels/epilogue_avx2.h"

typedef struct wino_view {
    __m128i add, mask;
} wino_view;

/* 4 outputs x 4 channels. */
AVX2_INLINE __m256i load_codes(const int8_t *p, const wino_view *view) {
    const __m128i codes = _mm_loadu_si128((const __m128i *)p);
    return _mm256_cvtepi8_epi16(_mm_and_si128(_mm_adds_epi8(codes, view->add), view->mask));
}

/* 8 outputs of a tap: channels 0 and 1, then channels 2 and 3. */
AVX2_INLINE void load_pairs(__m256i *first, __m256i *second, const int8_t *p, const wino_view *view) {
    const __m256 a = _mm256_castsi256_ps(load_codes(p, view)), b = _mm256_castsi256_ps(load_codes(p + 16, view));
    *first = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88));
    *second = _mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd));
}

/* H times a column of a kernel, or a row of it times H'. side is a constant. */
AVX2_INLINE void transform_weights_line(int side, __m256i t[DN_WINO_SIDE + 2], __m256i a, __m256i b, __m256i c) {
    const __m256i s = _mm256_add_epi16(a, c);
    if (side == 2) {
        t[0] = _mm256_add_epi16(a, a);
        t[1] = _mm256_add_epi16(s, b);
        t[2] = _mm256_sub_epi16(s, b);
        t[3] = _mm256_add_epi16(c, c);
        return;
    }
    const __m256i s4 = _mm256_slli_epi16(s, 2), b4 = _mm256_slli_epi16(b, 2), c4 = _mm256_slli_epi16(c, 2), b2 = _mm256_add_epi16(b, b), ac = _mm256_add_epi16(a, c4);
    t[0] = _mm256_mullo_epi16(a, _mm256_set1_epi16(6));
    t[1] = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_add_epi16(s4, b4));
    t[2] = _mm256_sub_epi16(b4, s4);
    t[3] = _mm256_add_epi16(ac, b2);
    t[4] = _mm256_sub_epi16(ac, b2);
    t[5] = _mm256_mullo_epi16(c, _mm256_set1_epi16(12));
}

/* 8 outputs x 2 channels; `position` elements from one position to the next. */
AVX2_INLINE void transform_weights_pair(int side, int16_t *to, size_t position, const __m256i g[9]) {
    enum { MOST = DN_WINO_SIDE + 2 };
    __m256i rows[MOST][3];
    for (int x = 0; x < 3; x++) {
        __m256i t[MOST];
        transform_weights_line(side, t, g[x], g[3 + x], g[6 + x]);
        UNROLL for (int y = 0; y < side + 2; y++) rows[y][x] = t[y];
    }
#pragma GCC unroll 1
    for (int y = 0; y < side + 2; y++) {
        __m256i t[MOST];
        transform_weights_line(side, t, rows[y][0], rows[y][1], rows[y][2]);
        UNROLL for (int x = 0; x < side + 2; x++, to += position) _mm256_store_si256((__m256i *)(void *)to, t[x]);
    }
}

/* `channels`, a multiple of 4, of one panel: [position][channel / 2][16 outputs][2 channels], positions `position` elements apart. */
AVX2_INLINE void transform_weights(int side, int16_t *to, size_t position, const int8_t *packed, size_t tap_stride, int channels, const wino_view *view) {
    for (int c = 0; c < channels; c += 4, packed += 64, to += 64)
#pragma GCC unroll 1
        for (int half = 0; half < 2; half++) {
            __m256i g[2][9];
            UNROLL for (int t = 0; t < 9; t++) load_pairs(&g[0][t], &g[1][t], packed + (size_t)t * tap_stride + 32 * half, view);
            transform_weights_pair(side, to + 16 * half, position, g[0]);
            transform_weights_pair(side, to + 32 + 16 * half, position, g[1]);
        }
}

AVX2 static void transform_weights_2(int16_t *to, size_t position, const int8_t *packed, size_t tap_stride, int channels, const wino_view *view) {
    transform_weights(2, to, position, packed, tap_stride, channels, view);
}
AVX2 static void transform_weights_4(int16_t *to, size_t position, const int8_t *packed, size_t tap_stride, int channels, const wino_view *view) {
    transform_weights(4, to, position, packed, tap_stride, channels, view);
}

#endif
