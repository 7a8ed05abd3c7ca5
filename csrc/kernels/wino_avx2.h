/* wino_avx2.h - channels in and out of 16-bit numbers for the transforms of Winograd's tiles. */
#ifndef DN_KERNELS_WINO_AVX2_H
#define DN_KERNELS_WINO_AVX2_H

#include "kernels/epilogue_avx2.h"

/* n = 16, 8 or 4 channels as 16-bit numbers. */
AVX2_INLINE __m256i load_channels(const uint8_t *p, int n) {
    int32_t four;
    if (n == 16) return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    if (n == 8) return _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)));
    memcpy(&four, p, 4);
    return _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
}

AVX2_INLINE void store_channels(int16_t *p, __m256i v, int n) {
    if (n == 16) _mm256_storeu_si256((__m256i *)p, v);
    else if (n == 8) _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(v));
    else _mm_storel_epi64((__m128i *)p, _mm256_castsi256_si128(v));
}

#endif
