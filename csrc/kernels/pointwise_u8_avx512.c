/* pointwise_u8_avx512.c - images of 3 channels to bytes with AVX-512, 16 pixels at a time; all else is AVX2's. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))

enum { PIXELS = 16 };

/* max before min, the operand first: a NaN becomes 0. */
INLINE __m512i quantize16(__m512 x, __m512 inverse_scale, __m512 zero) {
    const __m512 v = _mm512_fmadd_ps(x, inverse_scale, zero);
    return _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), _mm512_set1_ps(255)));
}

/* 48 bytes become 16 lanes of 4. Packing gives dword d of them at 4 * (d % 4) + d / 4; each 128-bit lane takes the three of its 4 pixels. */
INLINE __m512i rgb_lanes(const float *x, __m512 inverse_scale, __m512 zero, __m512i pad) {
    const __m512i q0 = quantize16(_mm512_loadu_ps(x), inverse_scale, zero), q1 = quantize16(_mm512_loadu_ps(x + 16), inverse_scale, zero);
    const __m512i q2 = quantize16(_mm512_loadu_ps(x + 32), inverse_scale, zero);
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(q0, q1), _mm512_packs_epi32(q2, q2));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 0, 12, 1, 5, 0, 9, 13, 2, 0, 6, 10, 14, 0);
    const __m512i spread = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    return _mm512_or_si512(_mm512_shuffle_epi8(_mm512_permutexvar_epi32(order, bytes), spread), pad);
}

AVX512 static void quantize(const float *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, float inverse_scale, float zero) {
    const __m512 inverse = _mm512_set1_ps(inverse_scale), zeros = _mm512_set1_ps(zero);
    int i = 0;
    if (channels == 3 && out_step == 4) {
        const __m512i pad = _mm512_slli_epi32(quantize16(_mm512_setzero_ps(), inverse, zeros), 24);
        for (; i + PIXELS <= width; i += PIXELS) _mm512_storeu_si512(out + 4 * i, rgb_lanes(x + 3 * i, inverse, zeros, pad));
    }
    if (i < width) dn_pointwise_u8_avx2.quantize(x + (ptrdiff_t)i * channels, out + i * out_step, out_step, width - i, channels, inverse_scale, zero);
}

static void affine(const dn_pixels_u8 *job) { dn_pointwise_u8_avx2.affine(job); }

static void lookup(const uint8_t *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t *table, uint8_t zero) {
    dn_pointwise_u8_avx2.lookup(x, out, out_step, width, channels, table, zero);
}

static void dequantize(const uint8_t *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float scale, int32_t zero) {
    dn_pointwise_u8_avx2.dequantize(x, in_step, out, out_step, width, channels, scale, zero);
}

static void mul(const uint8_t *a, ptrdiff_t a_step, int32_t za, const uint8_t *b, ptrdiff_t b_step, int32_t zb, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels,
                float factor, float zero, float lo, float hi) {
    dn_pointwise_u8_avx2.mul(a, a_step, za, b, b_step, zb, out, out_step, width, channels, factor, zero, lo, hi);
}

static void map(const uint8_t *x, ptrdiff_t in_step, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t table[256]) {
    dn_pointwise_u8_avx2.map(x, in_step, out, out_step, width, channels, table);
}

const dn_pointwise_u8 dn_pointwise_u8_avx512 = {
    .isa = "avx512", .affine = affine, .quantize = quantize, .lookup = lookup, .dequantize = dequantize, .mul = mul, .map = map};

#endif
