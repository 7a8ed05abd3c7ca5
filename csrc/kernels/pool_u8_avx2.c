/* pool_u8_avx2.c - pooling over a clipped window of bytes in AVX2, 32 or 16 channels at a time. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/epilogue_avx2.h"

AVX2_INLINE const uint8_t *pixel_at(const dn_window *window, int row, int column, int channel) {
    return (const uint8_t *)window->input + row * window->in_row + column * window->in_tap + channel;
}

AVX2_INLINE void max16(const dn_window *window, uint8_t *out, int channel, int n) {
    __m128i best = _mm_setzero_si128();
    for (int row = 0; row < window->rows; row++)
        for (int column = 0; column < window->columns; column++) best = _mm_max_epu8(best, load_bytes(pixel_at(window, row, column, channel), n));
    store_bytes(out + channel, best, n);
}

/* 32 channels times `vectors`, side by side. */
AVX2_INLINE void max32(const dn_window *window, uint8_t *out, int channel, int vectors) {
    __m256i best[2];
    for (int i = 0; i < vectors; i++) best[i] = _mm256_setzero_si256();
    for (int row = 0; row < window->rows; row++) {
        const uint8_t *p = pixel_at(window, row, 0, channel);
        for (int column = 0; column < window->columns; column++, p += window->in_tap)
            for (int i = 0; i < vectors; i++) best[i] = _mm256_max_epu8(best[i], _mm256_loadu_si256((const __m256i *)(p + 32 * i)));
    }
    for (int i = 0; i < vectors; i++) _mm256_storeu_si256((__m256i *)(out + channel + 32 * i), best[i]);
}

AVX2 static void max(const dn_window *window, uint8_t *out) {
    int c = 0;
    for (; c + 64 <= window->channels; c += 64) max32(window, out, c, 2);
    for (; c + 32 <= window->channels; c += 32) max32(window, out, c, 1);
    for (; c + 16 <= window->channels; c += 16) max16(window, out, c, 16);
    if (c < window->channels) max16(window, out, c, window->channels - c);
}

/* 16-bit sums hold 257 pixels; they are moved to 32 bits every 256. */
AVX2_INLINE void avg16(const dn_window *window, uint8_t *out, int channel, int n, __m256 factor, __m256 bias) {
    __m256i sum = _mm256_setzero_si256(), total0 = sum, total1 = sum;
    int held = 0;
    for (int row = 0; row < window->rows; row++)
        for (int column = 0; column < window->columns; column++) {
            sum = _mm256_add_epi16(sum, _mm256_cvtepu8_epi16(load_bytes(pixel_at(window, row, column, channel), n)));
            if (++held < 256) continue;
            total0 = _mm256_add_epi32(total0, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sum)));
            total1 = _mm256_add_epi32(total1, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sum, 1)));
            sum = _mm256_setzero_si256();
            held = 0;
        }
    total0 = _mm256_add_epi32(total0, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sum)));
    total1 = _mm256_add_epi32(total1, _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sum, 1)));
    const __m256 lo = _mm256_setzero_ps(), hi = _mm256_set1_ps(255);
    const __m256 v0 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total0), factor, bias), v1 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(total1), factor, bias);
    store_bytes(out + channel, pack16(clamp_round(v0, lo, hi), clamp_round(v1, lo, hi), 0), n);
}

AVX2 static void avg(const dn_window *window, uint8_t *out, float factor, float bias) {
    const __m256 factors = _mm256_set1_ps(factor), biases = _mm256_set1_ps(bias);
    int c = 0;
    for (; c + 16 <= window->channels; c += 16) avg16(window, out, c, 16, factors, biases);
    if (c < window->channels) avg16(window, out, c, window->channels - c, factors, biases);
}

const dn_pool_u8 dn_pool_u8_avx2 = {.isa = "avx2", .max = max, .avg = avg};

#endif
