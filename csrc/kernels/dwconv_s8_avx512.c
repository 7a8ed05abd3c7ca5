/* dwconv_s8_avx512.c - int8 depthwise convolution with AVX-512 VNNI, any kernel size, 64 channels at a time.
 *
 * Up to 4 rows of a window's column are interleaved so that vpdpbusd sums them. Unpacking works within 128-bit lanes: register s of 4 then holds channels
 * 16 * lane + 4 * s + 0..3. Weights and tables are brought into that order once per row; the saturating packs at the end undo it. For 3-wide windows with neighbouring
 * pixels side by side, an interleaved column serves three outputs. */
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
    __mmask64 read, written;
    int quads;
} block;

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

/* 4 panels of 16 weights of one tap, as far as there are channels. */
INLINE __m512i load_weights(const int8_t *w, ptrdiff_t panel, int channels) {
    int8_t bytes[LANES] = {0};
    for (int p = 0; p < 4 && 16 * p < channels; p++) _mm_storeu_si128((__m128i *)(bytes + 16 * p), _mm_loadu_si128((const __m128i *)(w + p * panel)));
    return _mm512_loadu_si512(bytes);
}

/* Register s of a table. */
INLINE __m512 load_table(const float *table, int s, int channels) {
    float values[16] = {0};
    for (int p = 0; p < 4 && 16 * p < channels; p++) _mm_storeu_ps(values + 4 * p, _mm_loadu_ps(table + 16 * p + 4 * s));
    return _mm512_loadu_ps(values);
}

AVX512 static void prepare(block *b, const dn_dwconv_s8_job *job, int channel) {
    const dn_epilogue *e = &job->epilogue;
    const ptrdiff_t panel = (ptrdiff_t)job->kernel_h * job->kernel_w * 16;
    const int8_t *weights = job->weights + channel / 16 * panel;
    const __m512i view_add = _mm512_set1_epi8(job->view_add), view_mask = _mm512_set1_epi8(job->view_mask);
    const int left = job->channels - channel, n = left < LANES ? left : LANES;
    b->quads = 0;
    for (int first = job->kh_begin; first < job->kh_end; first += 4)
        for (int kw = 0; kw < job->kernel_w; kw++, b->quads++) {
            __m512i rows[4];
            for (int i = 0; i < 4; i++) {
                const int kh = first + i < job->kh_end ? first + i : first;
                b->taps[b->quads][i] = kh * job->in_row + kw * job->in_tap;
                rows[i] = _mm512_and_si512(_mm512_adds_epi8(load_weights(weights + (kh * job->kernel_w + kw) * 16, panel, n), view_add), view_mask);
                if (first + i >= job->kh_end) rows[i] = _mm512_setzero_si512();
            }
            interleave(rows, b->weights[b->quads]);
        }
    for (int s = 0; s < 4; s++) b->scale[s] = load_table(e->scale + channel, s, n), b->bias[s] = load_table(e->bias + channel, s, n);
    b->residual_scale = _mm512_set1_ps(e->residual_scale), b->lo = _mm512_set1_ps(e->lo), b->hi = _mm512_set1_ps(e->hi);
    b->out_scale = _mm512_set1_ps(e->out_scale), b->out_zero = _mm512_set1_ps(e->out_zero);
    b->read = ~(__mmask64)0 >> (LANES - (n + 3) / 4 * 4);
    b->written = ~(__mmask64)0 >> (LANES - n);
}

INLINE __m512 hardswish(__m512 v, const block *b) {
    __m512 t = _mm512_fmadd_ps(v, _mm512_set1_ps(1 / 6.0f), _mm512_set1_ps(0.5f));
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), _mm512_set1_ps(1));
    return _mm512_fmadd_ps(_mm512_mul_ps(v, t), b->out_scale, b->out_zero);
}

INLINE void finish(const dn_dwconv_s8_job *job, const block *b, const __m512i acc[4], int x, int channel) {
    const uint32_t flags = job->epilogue.flags;
    const __m512i none = _mm512_setzero_si512();
    __m512i residual[4], q[4];
    if (flags & DN_EPI_RESIDUAL) {
        const __m512i bytes[4] = {_mm512_maskz_loadu_epi8(b->written, job->residual + x * job->residual_step + channel), none, none, none};
        interleave(bytes, residual);
    }
    UNROLL for (int s = 0; s < 4; s++) {
        __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[s]), b->scale[s], b->bias[s]);
        if (flags & DN_EPI_RESIDUAL) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(residual[s]), b->residual_scale, v);
        if (flags & DN_EPI_HARDSWISH) v = hardswish(v, b);
        q[s] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, b->lo), b->hi));
    }
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    _mm512_mask_storeu_epi8(job->output + x * job->out_step + channel, b->written, bytes);
}

INLINE void load_column(const block *b, const uint8_t *p, int quad, __m512i a[4]) {
    __m512i rows[4];
    UNROLL for (int i = 0; i < 4; i++) rows[i] = _mm512_maskz_loadu_epi8(b->read, p + b->taps[quad][i]);
    interleave(rows, a);
}

/* One pixel, any window. */
AVX512 static void pixel(const dn_dwconv_s8_job *job, const block *b, int x, int channel) {
    __m512i acc[4], a[4];
    for (int s = 0; s < 4; s++) acc[s] = _mm512_setzero_si512();
    for (int k = 0; k < b->quads; k++) {
        load_column(b, job->input + x * job->in_step + channel, k, a);
        UNROLL for (int s = 0; s < 4; s++) acc[s] = dot4(acc[s], a[s], b->weights[k][s]);
    }
    finish(job, b, acc, x, channel);
}

/* 4 pixels of a 3-wide window of at most 4 rows whose columns are the pixels: 6 columns in place of 12. */
AVX512 static void pixels3(const dn_dwconv_s8_job *job, const block *b, int x, int channel) {
    __m512i acc[PIXELS][4], a[4];
    UNROLL for (int i = 0; i < PIXELS; i++) UNROLL for (int s = 0; s < 4; s++) acc[i][s] = _mm512_setzero_si512();
    UNROLL for (int column = 0; column < PIXELS + 2; column++) {
        load_column(b, job->input + (x + column) * job->in_step + channel, 0, a);
        UNROLL for (int i = 0; i < PIXELS; i++) {
            const int kw = column - i;
            if (kw < 0 || kw > 2) continue;
            UNROLL for (int s = 0; s < 4; s++) acc[i][s] = dot4(acc[i][s], a[s], b->weights[kw][s]);
        }
    }
    for (int i = 0; i < PIXELS; i++) finish(job, b, acc[i], x + i, channel);
}

AVX512 static void run(const dn_dwconv_s8_job *job) {
    if ((job->kh_end - job->kh_begin + 3) / 4 * job->kernel_w > MAX_QUADS) {
        dn_dwconv_s8_ref.run(job);
        return;
    }
    const int shared = job->kernel_w == 3 && job->in_tap == job->in_step && job->kh_end - job->kh_begin <= 4 && job->width >= PIXELS;
    for (int channel = 0; channel < job->channels; channel += LANES) {
        block b;
        prepare(&b, job, channel);
        for (int y = 0; y < job->rows; y++) {
            const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
            if (shared)
                for (int x = 0; x < job->width; x += PIXELS) pixels3(&row, &b, x + PIXELS > job->width ? job->width - PIXELS : x, channel);
            else
                for (int x = 0; x < job->width; x++) pixel(&row, &b, x, channel);
        }
    }
}

const dn_dwconv_s8 dn_dwconv_s8_avx512 = {.isa = "avx512", .run = run};

#endif
