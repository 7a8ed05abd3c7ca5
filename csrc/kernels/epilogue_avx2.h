/* epilogue_avx2.h - the epilogue of kernels.h for 16 channels of one pixel in AVX2, shared by the byte kernels.
 *
 * Accumulators arrive as two registers of 8 channels. In plain order they hold channels 0-7 and 8-15. In pair order, which is what merging vpmaddwd's partial sums gives for
 * free, the middle 64-bit quarters of each register are swapped: 0 1 4 5 2 3 6 7. Instead of undoing that per pixel, scale and bias are swapped once per panel and the
 * final pack, which has to interleave its halves anyhow, interleaves 16-bit units in place of 32-bit ones. */
#ifndef DN_KERNELS_EPILOGUE_AVX2_H
#define DN_KERNELS_EPILOGUE_AVX2_H

#include <immintrin.h>
#include <string.h>

#include "kernels/kernels.h"

#define AVX2 __attribute__((target("avx2,fma")))
#define UNROLL _Pragma("GCC unroll 16")
#define AVX2_INLINE static inline __attribute__((always_inline, target("avx2,fma")))

/* n < 16 bytes, touching no others: stores that tail off inside a cache line another thread may own. */
AVX2_INLINE void copy_tail(uint8_t *to, const uint8_t *from, int n) {
    if (n & 8) memcpy(to, from, 8), to += 8, from += 8;
    if (n & 4) memcpy(to, from, 4), to += 4, from += 4;
    if (n & 2) memcpy(to, from, 2), to += 2, from += 2;
    if (n & 1) *to = *from;
}

AVX2_INLINE int first_four(__m128i bytes) { return _mm_cvtsi128_si32(bytes); }

/* Whole lanes of 4 channels go through registers: a detour over memory would wait for the store before it. */
AVX2_INLINE __m128i load_bytes(const uint8_t *p, int n) {
    int32_t four;
    if (n >= 16) return _mm_loadu_si128((const __m128i *)p);
    if (n == 8) return _mm_loadl_epi64((const __m128i *)p);
    if (n == 4 || n == 12) {
        memcpy(&four, p + n - 4, 4);
        return n == 4 ? _mm_cvtsi32_si128(four) : _mm_insert_epi32(_mm_loadl_epi64((const __m128i *)p), four, 2);
    }
    uint8_t tail[16] = {0};
    copy_tail(tail, p, n);
    return _mm_loadu_si128((const __m128i *)tail);
}

AVX2_INLINE void store_bytes(uint8_t *p, __m128i bytes, int n) {
    uint8_t tail[16];
    if (n >= 16) {
        _mm_storeu_si128((__m128i *)p, bytes);
    } else if (n % 4 == 0) {
        const int last = first_four(n == 4 ? bytes : n == 8 ? _mm_srli_si128(bytes, 4) : _mm_srli_si128(bytes, 8));
        if (n > 4) _mm_storel_epi64((__m128i *)p, bytes);
        memcpy(p + n - 4, &last, 4);
    } else {
        _mm_storeu_si128((__m128i *)tail, bytes);
        copy_tail(p, tail, n);
    }
}

/* All ones in the first n lanes. */
AVX2_INLINE __m256i lane_mask(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }

AVX2_INLINE __m256 swap_quarters(__m256 v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8)); }

/* What stays the same over the pixels of one panel. */
typedef struct epilogue16 {
    __m256 scale[2], bias[2], residual_scale, lo, hi, out_scale, out_zero;
    __m256i most; /* hi as bytes, where the flags hold DN_EPI_BOUNDED */
    uint32_t flags;
    int paired;
} epilogue16;

AVX2_INLINE epilogue16 epilogue16_load(const dn_epilogue *e, ptrdiff_t channel, int paired) {
    epilogue16 r = {.residual_scale = _mm256_set1_ps(e->residual_scale),
                    .lo = _mm256_set1_ps(e->lo),
                    .hi = _mm256_set1_ps(e->hi),
                    .out_scale = _mm256_set1_ps(e->out_scale),
                    .out_zero = _mm256_set1_ps(e->out_zero),
                    .most = _mm256_set1_epi8((char)(e->flags & DN_EPI_BOUNDED ? (int)e->hi : 0)),
                    .flags = e->flags,
                    .paired = paired};
    for (int i = 0; i < 2; i++) {
        __m256 scale = _mm256_loadu_ps(e->scale + channel + 8 * i), bias = _mm256_loadu_ps(e->bias + channel + 8 * i);
        r.scale[i] = paired ? swap_quarters(scale) : scale;
        r.bias[i] = paired ? swap_quarters(bias) : bias;
    }
    return r;
}

AVX2_INLINE __m256 hardswish(__m256 v, const epilogue16 *e) {
    __m256 t = _mm256_fmadd_ps(v, _mm256_set1_ps(1 / 6.0f), _mm256_set1_ps(0.5f));
    t = _mm256_min_ps(_mm256_max_ps(t, _mm256_setzero_ps()), _mm256_set1_ps(1));
    return _mm256_fmadd_ps(_mm256_mul_ps(v, t), e->out_scale, e->out_zero);
}

/* v[2] += residual bytes * residual_scale, in the order of v. */
AVX2_INLINE void add_residual(__m256 v[2], const uint8_t *residual, int n, const epilogue16 *e) {
    if (n == 16 && !e->paired) {
        UNROLL for (int i = 0; i < 2; i++) {
            const __m256i r = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(residual + 8 * i)));
            v[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(r), e->residual_scale, v[i]);
        }
        return;
    }
    __m128i r = load_bytes(residual, n);
    if (e->paired) r = _mm_shuffle_epi8(r, _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
    v[0] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(r)), e->residual_scale, v[0]);
    v[1] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(r, 8))), e->residual_scale, v[1]);
}

/* max before min, the operand first: a NaN becomes lo, as with fmaxf and fminf. */
AVX2_INLINE __m256i clamp_round(__m256 v, __m256 lo, __m256 hi) { return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(v, lo), hi)); }

/* 16 integers 0..255 to bytes in channel order. */
AVX2_INLINE __m128i pack16(__m256i q0, __m256i q1, int paired) {
    __m256i words = _mm256_packs_epi32(q0, q1);
    __m256i bytes = _mm256_packus_epi16(words, words);
    __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
    return paired ? _mm_unpacklo_epi16(low, high) : _mm_unpacklo_epi32(low, high);
}

/* The same for two pixels: one in each half. */
AVX2_INLINE __m256i pack16_twice(__m256i a0, __m256i a1, __m256i b0, __m256i b1, int paired) {
    const __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(a0, a1), _mm256_packs_epi32(b0, b1));
    if (!paired) return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m256i order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    return _mm256_shuffle_epi8(_mm256_permute4x64_epi64(bytes, 0xd8), order);
}

/* Sums to integers, which packing makes 0..255, and limit_bytes what they should be. `flags`, the epilogue's, may be a constant. */
AVX2_INLINE void quantize_sums(__m256i acc0, __m256i acc1, const epilogue16 *e, uint32_t flags, const uint8_t *residual, int n, __m256i q[2]) {
    __m256 v[2] = {_mm256_fmadd_ps(_mm256_cvtepi32_ps(acc0), e->scale[0], e->bias[0]), _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc1), e->scale[1], e->bias[1])};
    if (flags & DN_EPI_RESIDUAL) add_residual(v, residual, n, e);
    if (flags & DN_EPI_HARDSWISH) v[0] = hardswish(v[0], e), v[1] = hardswish(v[1], e);
    UNROLL for (int i = 0; i < 2; i++) q[i] = flags & DN_EPI_BOUNDED ? _mm256_cvtps_epi32(v[i]) : clamp_round(v[i], e->lo, e->hi);
}

AVX2_INLINE __m256i limit_bytes(__m256i bytes, const epilogue16 *e, uint32_t flags) { return flags & DN_EPI_BOUNDED ? _mm256_min_epu8(bytes, e->most) : bytes; }

/* acc -> n bytes at out. */
AVX2_INLINE void finish_u8(__m256i acc0, __m256i acc1, const epilogue16 *e, const uint8_t *residual, uint8_t *out, int n) {
    __m256i q[2];
    quantize_sums(acc0, acc1, e, e->flags, residual, n, q);
    store_bytes(out, _mm256_castsi256_si128(limit_bytes(_mm256_castsi128_si256(pack16(q[0], q[1], e->paired)), e, e->flags)), n);
}

/* Two pixels, `out_step` and `residual_step` bytes apart. */
AVX2_INLINE void finish_two_u8(const __m256i a[2], const __m256i b[2], const epilogue16 *e, uint32_t flags, const uint8_t *residual, ptrdiff_t residual_step, uint8_t *out,
                               ptrdiff_t out_step, int n) {
    __m256i p[2], q[2];
    quantize_sums(a[0], a[1], e, flags, residual, n, p);
    quantize_sums(b[0], b[1], e, flags, flags & DN_EPI_RESIDUAL ? residual + residual_step : NULL, n, q);
    const __m256i bytes = limit_bytes(pack16_twice(p[0], p[1], q[0], q[1], e->paired), e, flags);
    store_bytes(out, _mm256_castsi256_si128(bytes), n);
    store_bytes(out + out_step, _mm256_extracti128_si256(bytes, 1), n);
}

/* acc -> n floats at out, added to what is there with DN_CONV_ACCUMULATE. */
AVX2_INLINE void finish_f32(__m256i acc0, __m256i acc1, const epilogue16 *e, const uint8_t *residual, float *out, int n) {
    const __m256i mask[2] = {lane_mask(n), lane_mask(n - 8)};
    const __m256i acc[2] = {acc0, acc1};
    __m256 v[2];
    for (int i = 0; i < 2; i++) {
        __m256 base = e->bias[i];
        if (e->flags & DN_CONV_ACCUMULATE) {
            base = _mm256_maskload_ps(out + 8 * i, mask[i]);
            if (e->paired) base = swap_quarters(base);
        }
        v[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i]), e->scale[i], base);
    }
    if (e->flags & DN_EPI_RESIDUAL) add_residual(v, residual, n, e);
    for (int i = 0; i < 2; i++) _mm256_maskstore_ps(out + 8 * i, mask[i], e->paired ? swap_quarters(v[i]) : v[i]);
}

/* n and flags are constants where it matters. */
AVX2_INLINE void finish_pixels(const dn_conv_s8_job *job, const __m256i (*acc)[2], const epilogue16 *e, uint32_t flags, int channel, int mr, int n, const ptrdiff_t *out,
                               const ptrdiff_t *residual) {
    uint8_t *to = (uint8_t *)job->output + channel;
    const uint8_t *add = flags & DN_EPI_RESIDUAL ? job->residual + channel : NULL;
    int i = 0;
    for (; i + 2 <= mr; i += 2) finish_two_u8(acc[i], acc[i + 1], e, flags, add ? add + residual[i] : NULL, residual[i + 1] - residual[i], to + out[i], out[i + 1] - out[i], n);
    if (i < mr) finish_u8(acc[i][0], acc[i][1], e, add ? add + residual[i] : NULL, to + out[i], n);
}

/* A convolution's sums of mr pixels x n channels of one panel, to where `out` says; a full panel and half a one get code of their own. */
AVX2_INLINE void finish_panel(const dn_conv_s8_job *job, const __m256i (*acc)[2], int panel, int mr, int n, const ptrdiff_t *out, const ptrdiff_t *residual, int paired) {
    enum { PLAIN = DN_EPI_BOUNDED, ADDING = DN_EPI_BOUNDED | DN_EPI_RESIDUAL };
    const int channel = 16 * panel;
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, paired);
    if (e.flags & DN_CONV_F32_OUT)
        for (int i = 0; i < mr; i++)
            finish_f32(acc[i][0], acc[i][1], &e, e.flags & DN_EPI_RESIDUAL ? job->residual + residual[i] + channel : NULL, (float *)job->output + out[i] + channel, n);
    else if (n == 16 && e.flags == PLAIN) finish_pixels(job, acc, &e, PLAIN, channel, mr, 16, out, residual);
    else if (n == 16 && e.flags == ADDING) finish_pixels(job, acc, &e, ADDING, channel, mr, 16, out, residual);
    else if (n % 8 == 0) finish_pixels(job, acc, &e, e.flags, channel, mr, n == 8 ? 8 : 16, out, residual);
    else finish_pixels(job, acc, &e, e.flags, channel, mr, n, out, residual);
}

#endif
