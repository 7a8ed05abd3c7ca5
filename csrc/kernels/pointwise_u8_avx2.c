/* pointwise_u8_avx2.c - byte-wise operations on rows of pixels in AVX2, 16 channels at a time. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/epilogue_avx2.h"

AVX2_INLINE int smaller(int a, int b) { return a < b ? a : b; }

AVX2_INLINE __m256 low_floats(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)); }
AVX2_INLINE __m256 high_floats(__m128i bytes) { return low_floats(_mm_srli_si128(bytes, 8)); }

/* ---- affine ---- */

AVX2_INLINE void affine_block(const dn_pixels_u8 *job, const epilogue16 *e, int channel, int n) {
    for (int x = 0; x < job->width; x++) {
        const __m128i bytes = load_bytes(job->input + x * job->in_step + channel, n);
        const uint8_t *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + x * job->residual_step + channel : NULL;
        finish_u8(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), e, residual, job->output + x * job->out_step + channel, n);
    }
}

AVX2 static void affine(const dn_pixels_u8 *job) {
    for (int channel = 0; channel < job->channels; channel += 16) {
        const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
        if (job->channels - channel >= 16) affine_block(job, &e, channel, 16);
        else affine_block(job, &e, channel, job->channels - channel);
    }
}

/* ---- quantize ---- */

AVX2_INLINE __m128i quantize16(__m256 x0, __m256 x1, __m256 inverse_scale, __m256 zero) {
    const __m256 lo = _mm256_setzero_ps(), hi = _mm256_set1_ps(255);
    return pack16(clamp_round(_mm256_fmadd_ps(x0, inverse_scale, zero), lo, hi), clamp_round(_mm256_fmadd_ps(x1, inverse_scale, zero), lo, hi), 0);
}

/* Lanes that are not loaded are 0 and so become `zero`, which is what pad lanes hold. */
AVX2_INLINE void quantize_pixel(const float *x, uint8_t *out, int channels, __m256 inverse_scale, __m256 zero) {
    for (int c = 0; c < channels; c += 16) {
        const int n = channels - c;
        const __m256 x0 = _mm256_maskload_ps(x + c, lane_mask(n)), x1 = n > 8 ? _mm256_maskload_ps(x + c + 8, lane_mask(n - 8)) : _mm256_setzero_ps();
        store_bytes(out + c, quantize16(x0, x1, inverse_scale, zero), smaller(16, (n + 3) & ~3));
    }
}

/* 3 channels, 4 pixels; reads one float beyond them. */
AVX2_INLINE void quantize_rgb(const float *x, uint8_t *out, ptrdiff_t out_step, __m256 inverse_scale, __m256 zero) {
    const __m256 x0 = _mm256_setr_m128(_mm_loadu_ps(x), _mm_loadu_ps(x + 3)), x1 = _mm256_setr_m128(_mm_loadu_ps(x + 6), _mm_loadu_ps(x + 9));
    const __m256 none = _mm256_setzero_ps();
    const __m128i pixels = quantize16(_mm256_blend_ps(x0, none, 0x88), _mm256_blend_ps(x1, none, 0x88), inverse_scale, zero);
    uint8_t bytes[16];
    _mm_storeu_si128((__m128i *)(out_step == 4 ? out : bytes), pixels);
    for (int i = 0; i < 4 && out_step != 4; i++) memcpy(out + i * out_step, bytes + 4 * i, 4);
}

AVX2 static void quantize(const float *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, float inverse_scale, float zero) {
    const __m256 inverse = _mm256_set1_ps(inverse_scale), zeros = _mm256_set1_ps(zero);
    int i = 0;
    if (channels == 3)
        for (; i + 4 < width; i += 4) quantize_rgb(x + 3 * i, out + i * out_step, out_step, inverse, zeros);
    for (; i < width; i++) quantize_pixel(x + (ptrdiff_t)i * channels, out + i * out_step, channels, inverse, zeros);
}

/* ---- tables ---- */

AVX2 static void lookup(const uint8_t *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t *table, uint8_t zero) {
    for (int i = 0; i < width; i++, x += channels, out += out_step) {
        if (channels == 3) {
            const uint8_t pixel[4] = {table[x[0]], table[256 + x[1]], table[512 + x[2]], zero};
            memcpy(out, pixel, 4);
            continue;
        }
        for (int c = 0; c < channels; c++) out[c] = table[(ptrdiff_t)c * 256 + x[c]];
        for (int c = channels; c % 4; c++) out[c] = zero;
    }
}

/* 256 entries as 16 shuffles of 16: adding 0x70 with saturation keeps indices 0-15 below 0x80 and lifts all others to where a shuffle gives 0. */
AVX2_INLINE __m256i map32(__m256i x, const uint8_t *table) {
    const __m256i lift = _mm256_set1_epi8(0x70), sixteen = _mm256_set1_epi8(16);
    __m256i result = _mm256_setzero_si256();
    for (int i = 0; i < 16; i++) {
        const __m256i part = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 16 * i)));
        result = _mm256_or_si256(result, _mm256_shuffle_epi8(part, _mm256_adds_epu8(x, lift)));
        x = _mm256_sub_epi8(x, sixteen);
    }
    return result;
}

AVX2_INLINE void map_run(const uint8_t *x, uint8_t *out, ptrdiff_t count, const uint8_t *table) {
    ptrdiff_t i = 0;
    for (; i + 32 <= count; i += 32) _mm256_storeu_si256((__m256i *)(out + i), map32(_mm256_loadu_si256((const __m256i *)(x + i)), table));
    for (; i < count; i++) out[i] = table[x[i]];
}

AVX2 static void map(const uint8_t *x, ptrdiff_t in_step, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t table[256]) {
    if (in_step == channels && out_step == channels) map_run(x, out, (ptrdiff_t)width * channels, table);
    else
        for (int i = 0; i < width; i++) map_run(x + i * in_step, out + i * out_step, channels, table);
}

/* ---- dequantize, mul ---- */

AVX2 static void dequantize(const uint8_t *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float scale, int32_t zero) {
    const __m256 scales = _mm256_set1_ps(scale);
    const __m256i zeros = _mm256_set1_epi32(zero);
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c += 16) {
            const int n = smaller(16, channels - c);
            const __m128i bytes = load_bytes(x + i * in_step + c, n);
            float *to = out + i * out_step + c;
            const __m256 low = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(bytes), zeros)), scales);
            _mm256_maskstore_ps(to, lane_mask(n), low);
            if (n <= 8) continue;
            const __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)), zeros)), scales);
            _mm256_maskstore_ps(to + 8, lane_mask(n - 8), high);
        }
}

/* Products of two differences of bytes are exact in float. */
AVX2 static void mul(const uint8_t *a, ptrdiff_t a_step, int32_t za, const uint8_t *b, ptrdiff_t b_step, int32_t zb, uint8_t *out, ptrdiff_t out_step, int32_t width,
                     int32_t channels, float factor, float zero, float lo, float hi) {
    const __m256 zero_a = _mm256_set1_ps((float)za), zero_b = _mm256_set1_ps((float)zb), factors = _mm256_set1_ps(factor), zeros = _mm256_set1_ps(zero);
    const __m256 los = _mm256_set1_ps(lo), his = _mm256_set1_ps(hi);
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c += 16) {
            const int n = smaller(16, channels - c);
            const __m128i x = load_bytes(a + i * a_step + c, n), y = load_bytes(b + i * b_step + c, n);
            const __m256 low = _mm256_mul_ps(_mm256_sub_ps(low_floats(x), zero_a), _mm256_sub_ps(low_floats(y), zero_b));
            const __m256 high = _mm256_mul_ps(_mm256_sub_ps(high_floats(x), zero_a), _mm256_sub_ps(high_floats(y), zero_b));
            const __m256i q0 = clamp_round(_mm256_fmadd_ps(low, factors, zeros), los, his), q1 = clamp_round(_mm256_fmadd_ps(high, factors, zeros), los, his);
            store_bytes(out + i * out_step + c, pack16(q0, q1, 0), n);
        }
}

const dn_pointwise_u8 dn_pointwise_u8_avx2 = {
    .isa = "avx2", .affine = affine, .quantize = quantize, .lookup = lookup, .dequantize = dequantize, .mul = mul, .map = map};

#endif
