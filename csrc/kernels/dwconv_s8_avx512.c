/* dwconv_s8_avx512.c - int8 depthwise convolution with AVX-512 VNNI, any kernel size, 64 channels at a time.
 *
 * Up to 4 rows of a window's column are interleaved so that vpdpbusd sums them. Unpacking works within 128-bit lanes: register s of 4 then holds channels
 * 16 * lane + 4 * s + 0..3. Weights and tables are brought into that order once per row; the saturating packs at the end undo it. For 3-wide windows with neighbouring
 * pixels side by side, an interleaved column serves three outputs.
 *
 * What is left of the channels below 64 fills a vector too, if it is 32 or 16: with 2 or 4 pixels side by side, whose lanes hold the same weights. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))
#define UNROLL _Pragma("GCC unroll 32")

enum { LANES = 64, MAX_QUADS = 32, PIXELS = 4 }; /* more than 32 quads (a 9 x 9 window has 27) are left to ref */

typedef struct block {
    __m512i weights[MAX_QUADS][4];
    ptrdiff_t taps[MAX_QUADS][4]; /* rows beyond the window repeat the first: their weights are 0 */
    __m512 scale[4], bias[4];
    __m512 residual_scale, lo, hi, out_scale, out_zero;
    __m512i most;           /* hi as bytes, with DN_EPI_BOUNDED */
    __mmask64 read, written;
    int quads;
} block;

/* How a vector is filled: `across` pixels of 64 / across channels each; masked: fewer than 64 channels of one pixel. */
typedef struct form {
    int across, masked;
} form;

INLINE __m512i dot4(__m512i acc, __m512i activations, __m512i weights) {
    __asm__("vpdpbusd %2,%1,%0" : "+v"(acc) : "v"(activations), "v"(weights)); /* see conv_s8_avx512.c */
    return acc;
}

INLINE void interleave(const __m512i in[4], __m512i out[4]) {
    const __m512i low01 = _mm512_unpacklo_epi8(in[0], in[1]), high01 = _mm512_unpackhi_epi8(in[0], in[1]);
    const __m512i low23 = _mm512_unpacklo_epi8(in[2], in[3]), high23 = _mm512_unpackhi_epi8(in[2], in[3]);
    out[0] = _mm512_unpacklo_epi16(low01, low23), out[1] = _mm512_unpackhi_epi16(low01, low23);
    out[2] = _mm512_unpacklo_epi16(high01, high23), out[3] = _mm512_unpackhi_epi16(high01, high23);
}

/* Weights of one tap, 16 for each lane; lanes of other pixels have the same, lanes beyond the channels none. */
INLINE __m512i load_weights(const int8_t *w, ptrdiff_t panel, int channels, int across) {
    int8_t bytes[LANES] = {0};
    for (int lane = 0; lane < 4; lane++) {
        const int p = lane % (4 / across);
        if (16 * p < channels) _mm_storeu_si128((__m128i *)(bytes + 16 * lane), _mm_loadu_si128((const __m128i *)(w + p * panel)));
    }
    return _mm512_loadu_si512(bytes);
}

/* Register s of a table. */
INLINE __m512 load_table(const float *table, int s, int channels, int across) {
    float values[16] = {0};
    for (int lane = 0; lane < 4; lane++) {
        const int p = lane % (4 / across);
        if (16 * p < channels) _mm_storeu_ps(values + 4 * lane, _mm_loadu_ps(table + 16 * p + 4 * s));
    }
    return _mm512_loadu_ps(values);
}

AVX512 static void prepare(block *b, const dn_dwconv_s8_job *job, int channel, int across) {
    const dn_epilogue *e = &job->epilogue;
    const ptrdiff_t panel = (ptrdiff_t)job->kernel_h * job->kernel_w * 16;
    const int8_t *weights = job->weights + channel / 16 * panel;
    const __m512i view_add = _mm512_set1_epi8(job->view_add), view_mask = _mm512_set1_epi8(job->view_mask);
    const int left = job->channels - channel, n = left < LANES / across ? left : LANES / across;
    b->quads = 0;
    for (int first = job->kh_begin; first < job->kh_end; first += 4)
        for (int kw = 0; kw < job->kernel_w; kw++, b->quads++) {
            __m512i rows[4];
            for (int i = 0; i < 4; i++) {
                const int kh = first + i < job->kh_end ? first + i : first;
                b->taps[b->quads][i] = kh * job->in_row + kw * job->in_tap;
                rows[i] = _mm512_and_si512(_mm512_adds_epi8(load_weights(weights + (kh * job->kernel_w + kw) * 16, panel, n, across), view_add), view_mask);
                if (first + i >= job->kh_end) rows[i] = _mm512_setzero_si512();
            }
            interleave(rows, b->weights[b->quads]);
        }
    for (int s = 0; s < 4; s++) b->scale[s] = load_table(e->scale + channel, s, n, across), b->bias[s] = load_table(e->bias + channel, s, n, across);
    b->residual_scale = _mm512_set1_ps(e->residual_scale), b->lo = _mm512_set1_ps(e->lo), b->hi = _mm512_set1_ps(e->hi);
    b->out_scale = _mm512_set1_ps(e->out_scale), b->out_zero = _mm512_set1_ps(e->out_zero);
    b->most = _mm512_set1_epi8((char)(e->flags & DN_EPI_BOUNDED ? (int)e->hi : 0));
    b->read = ~(__mmask64)0 >> (LANES - (n + 3) / 4 * 4);
    b->written = ~(__mmask64)0 >> (LANES - n);
}

INLINE __m512 hardswish(__m512 v, const block *b) {
    __m512 t = _mm512_fmadd_ps(v, _mm512_set1_ps(1 / 6.0f), _mm512_set1_ps(0.5f));
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), _mm512_set1_ps(1));
    return _mm512_fmadd_ps(_mm512_mul_ps(v, t), b->out_scale, b->out_zero);
}

/* 64 bytes of as many pixels as a vector holds; `step` elements from one to the next. */
INLINE __m512i load_bytes(const uint8_t *p, ptrdiff_t step, __mmask64 mask, form f) {
    if (f.masked) return _mm512_maskz_loadu_epi8(mask, p);
    if (f.across == 1) return _mm512_loadu_si512(p);
    if (f.across == 2) return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)), _mm256_loadu_si256((const __m256i *)(p + step)), 1);
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + step)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 2 * step)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(p + 3 * step)), 3);
}

INLINE void store_bytes(uint8_t *p, ptrdiff_t step, __m512i v, __mmask64 mask, form f) {
    if (f.masked) _mm512_mask_storeu_epi8(p, mask, v);
    else if (f.across == 1) _mm512_storeu_si512(p, v);
    else if (f.across == 2) {
        _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(v));
        _mm256_storeu_si256((__m256i *)(p + step), _mm512_extracti64x4_epi64(v, 1));
    } else {
        _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(v));
        _mm_storeu_si128((__m128i *)(p + step), _mm512_extracti32x4_epi32(v, 1));
        _mm_storeu_si128((__m128i *)(p + 2 * step), _mm512_extracti32x4_epi32(v, 2));
        _mm_storeu_si128((__m128i *)(p + 3 * step), _mm512_extracti32x4_epi32(v, 3));
    }
}

INLINE void store(const dn_dwconv_s8_job *job, const block *b, const __m512i q[4], int x, int channel, int apart, form f, int bounded) {
    __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    if (bounded) bytes = _mm512_min_epu8(bytes, b->most);
    store_bytes(job->output + x * job->out_step + channel, apart * job->out_step, bytes, b->written, f);
}

/* Sums to bytes: pixel x, and of a vector of several those `apart` pixels on. The rarer endings. */
INLINE void finish_rare(const dn_dwconv_s8_job *job, const block *b, const __m512i acc[4], int x, int channel, int apart, form f) {
    const uint32_t flags = job->epilogue.flags;
    const __m512i none = _mm512_setzero_si512();
    __m512i residual[4], q[4];
    if (flags & DN_EPI_RESIDUAL) {
        const __m512i bytes[4] = {load_bytes(job->residual + x * job->residual_step + channel, apart * job->residual_step, b->written, f), none, none, none};
        interleave(bytes, residual);
    }
    UNROLL for (int s = 0; s < 4; s++) {
        __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[s]), b->scale[s], b->bias[s]);
        if (flags & DN_EPI_RESIDUAL) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(residual[s]), b->residual_scale, v);
        if (flags & DN_EPI_HARDSWISH) v = hardswish(v, b);
        q[s] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, b->lo), b->hi));
    }
    store(job, b, q, x, channel, apart, f, 0);
}

/* Bounded bytes without a residual. */
INLINE void finish(const dn_dwconv_s8_job *job, const block *b, const __m512i acc[4], int x, int channel, int apart, form f) {
    __m512i q[4];
    UNROLL for (int s = 0; s < 4; s++) q[s] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[s]), b->scale[s], b->bias[s]));
    store(job, b, q, x, channel, apart, f, 1);
}

INLINE void load_column(const block *b, const uint8_t *p, ptrdiff_t step, int quad, __m512i a[4], form f) {
    __m512i rows[4];
    UNROLL for (int i = 0; i < 4; i++) rows[i] = load_bytes(p + b->taps[quad][i], step, b->read, f);
    interleave(rows, a);
}

/* One pixel, or neighbours as a vector holds them, any window. */
INLINE void pixel(const dn_dwconv_s8_job *job, const block *b, int x, int channel, int quads, form f) {
    __m512i acc[4], a[4];
    for (int s = 0; s < 4; s++) acc[s] = _mm512_setzero_si512();
    for (int k = 0; k < quads; k++) {
        load_column(b, job->input + x * job->in_step + channel, job->in_step, k, a, f);
        UNROLL for (int s = 0; s < 4; s++) acc[s] = dot4(acc[s], a[s], b->weights[k][s]);
    }
    if (job->epilogue.flags == DN_EPI_BOUNDED) finish(job, b, acc, x, channel, 1, f);
    else finish_rare(job, b, acc, x, channel, 1, f);
}

/* 4 pixels of a 3-wide window of at most 4 rows whose columns are the pixels: 6 columns in place of 12. In a vector of several the next 4, and so on. */
INLINE void pixels3(const dn_dwconv_s8_job *job, const block *b, int x, int channel, form f) {
    __m512i acc[PIXELS][4], a[4];
    UNROLL for (int i = 0; i < PIXELS; i++) UNROLL for (int s = 0; s < 4; s++) acc[i][s] = _mm512_setzero_si512();
    UNROLL for (int column = 0; column < PIXELS + 2; column++) {
        load_column(b, job->input + (x + column) * job->in_step + channel, PIXELS * job->in_step, 0, a, f);
        UNROLL for (int i = 0; i < PIXELS; i++) {
            const int kw = column - i;
            if (kw < 0 || kw > 2) continue;
            UNROLL for (int s = 0; s < 4; s++) acc[i][s] = dot4(acc[i][s], a[s], b->weights[kw][s]);
        }
    }
    if (job->epilogue.flags == DN_EPI_BOUNDED) UNROLL for (int i = 0; i < PIXELS; i++) finish(job, b, acc[i], x + i, channel, PIXELS, f);
    else
        for (int i = 0; i < PIXELS; i++) finish_rare(job, b, acc[i], x + i, channel, PIXELS, f);
}

/* The rows of one block; the last pixels of a row are computed with some of those before them again. */
INLINE void rows_of(const dn_dwconv_s8_job *job, int channel, int shared, form f) {
    const int pixels = (shared ? PIXELS : 1) * f.across;
    block b;
    prepare(&b, job, channel, f.across);
    for (int y = 0; y < job->rows; y++) {
        const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
        for (int i = 0; i < job->width; i += pixels) {
            const int x = i + pixels > job->width ? job->width - pixels : i;
            if (shared) pixels3(&row, &b, x, channel, f);
            else if (b.quads == 3) pixel(&row, &b, x, channel, 3, f);
            else pixel(&row, &b, x, channel, b.quads, f);
        }
    }
}

#define DEFINE(name, across, masked)                                                                                                            \
    AVX512 static void name(const dn_dwconv_s8_job *job, int channel) { rows_of(job, channel, 0, (form){across, masked}); }                     \
    AVX512 static void shared_##name(const dn_dwconv_s8_job *job, int channel) { rows_of(job, channel, 1, (form){across, masked}); }
DEFINE(one, 1, 0)
DEFINE(two, 2, 0)
DEFINE(four, 4, 0)
DEFINE(part, 1, 1)

AVX512 static void run(const dn_dwconv_s8_job *job) {
    if ((job->kh_end - job->kh_begin + 3) / 4 * job->kernel_w > MAX_QUADS) {
        dn_dwconv_s8_ref.run(job);
        return;
    }
    const int shared = job->kernel_w == 3 && job->in_tap == job->in_step && job->kh_end - job->kh_begin <= 4 && job->width >= PIXELS;
    const int most = job->width / (shared ? PIXELS : 1); /* pixels, or groups of them, that a row has side by side */
    for (int channel = 0; channel < job->channels;) {
        const int left = job->channels - channel;
        if (left >= LANES) (shared ? shared_one : one)(job, channel), channel += LANES;
        else if (left >= LANES / 2 && left <= LANES / 2 + 16 && most >= 2) (shared ? shared_two : two)(job, channel), channel += LANES / 2;
        else if (left == LANES / 4 && most >= 4) (shared ? shared_four : four)(job, channel), channel += LANES / 4;
        else (shared ? shared_part : part)(job, channel), channel += LANES;
    }
}

const dn_dwconv_s8 dn_dwconv_s8_avx512 = {.isa = "avx512", .run = run};

#endif
