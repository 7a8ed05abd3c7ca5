/* dwconv_s8_avx512.c - int8 depthwise convolution with AVX-512 VNNI, any kernel size, 64 channels at a time.
 *
 * Up to 4 rows of a window's column are interleaved so that vpdpbusd sums them. Unpacking works within 128-bit lanes: register s of 4 then holds channels
 * 16 * lane + 4 * s + 0..3. Weights and tables are brought into that order once per block; the saturating packs at the end undo it.
 *
 * What a kernel waits for is loads and shuffles, so 3-wide windows walk along a row: a column is loaded and interleaved once for all outputs that see it, three with stride 1 and
 * one or two with stride 2, and weights stay in registers. (Two output rows at once share a column's four rows, but then weights must be loaded: slower on Zen 4.)
 *
 * What is left of the channels below 64 fills a vector too, if it is 32 or 16: its 128-bit lanes walk along 2 or 4 parts of the row side by side, with the same weights. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))
#define UNROLL _Pragma("GCC unroll 32")

enum { LANES = 64, MAX_QUADS = 32, WALK_ROWS = 3 }; /* more than 32 quads (a 9 x 9 window has 27) are left to ref */

typedef struct block {
    __m512i weights[MAX_QUADS][4];
    ptrdiff_t taps[MAX_QUADS][4]; /* rows beyond the window repeat the first: their weights are 0 */
    __m512 scale[4], bias[4];
    __m512 residual_scale, lo, hi, out_scale, out_zero;
    __m512i most;           /* hi as bytes, with DN_EPI_BOUNDED */
    __mmask64 read, written;
    int quads, length;      /* length: pixels that a walk goes */
    ptrdiff_t in[4], out[4], residual[4]; /* where the parts of a row begin, from its start */
} block;

/* How a vector is filled: `across` parts of a row of 64 / across channels each; masked: fewer than 64 channels of one. */
typedef struct form {
    int across, masked;
} form;

typedef struct row {
    const uint8_t *input, *residual;
    uint8_t *output;
} row;

INLINE __m512i dot4(__m512i acc, __m512i activations, __m512i weights) {
    __asm__("vpdpbusd %2,%1,%0" : "+v"(acc) : "v"(activations), "v"(weights)); /* see conv_s8_avx512.c */
    return acc;
}

/* The same from 0; gcc would copy a register of zeros. */
INLINE __m512i first_dot4(__m512i activations, __m512i weights) {
    __m512i acc;
    __asm__("vpxord %0,%0,%0\n\tvpdpbusd %2,%1,%0" : "=&v"(acc) : "v"(activations), "v"(weights));
    return acc;
}

/* Registers 2 * half and 2 * half + 1 of 4. */
INLINE void interleave_half(const __m512i in[4], int half, __m512i out[2]) {
    const __m512i rows01 = half ? _mm512_unpackhi_epi8(in[0], in[1]) : _mm512_unpacklo_epi8(in[0], in[1]);
    const __m512i rows23 = half ? _mm512_unpackhi_epi8(in[2], in[3]) : _mm512_unpacklo_epi8(in[2], in[3]);
    out[0] = _mm512_unpacklo_epi16(rows01, rows23), out[1] = _mm512_unpackhi_epi16(rows01, rows23);
}

INLINE void interleave(const __m512i in[4], __m512i out[4]) {
    interleave_half(in, 0, out);
    interleave_half(in, 1, out + 2);
}

INLINE __m512i four_lanes(__m128i a, __m128i b, __m128i c, __m128i d) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1)), _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1), 1);
}

INLINE __m512i load_lanes(const uint8_t *p, const ptrdiff_t at[4]) {
    return four_lanes(_mm_loadu_si128((const __m128i *)(p + at[0])), _mm_loadu_si128((const __m128i *)(p + at[1])), _mm_loadu_si128((const __m128i *)(p + at[2])),
                      _mm_loadu_si128((const __m128i *)(p + at[3])));
}

/* Weights of row kh of a window, its column kw: of every panel, or zeros for a row beyond the window. */
INLINE __m512i load_weights(const dn_dwconv_s8_job *job, const int8_t *weights, int kh, int kw, const ptrdiff_t panels[4]) {
    if (kh < job->kh_begin || kh >= job->kh_end) return _mm512_setzero_si512();
    const __m512i w = load_lanes((const uint8_t *)weights + (kh * job->kernel_w + kw) * 16, panels);
    return _mm512_and_si512(_mm512_adds_epi8(w, _mm512_set1_epi8(job->view_add)), _mm512_set1_epi8(job->view_mask));
}

/* Where the panels of 16 channels begin whose weights and tables the 128-bit lanes take; those beyond the n channels take the first's. */
INLINE void place_panels(ptrdiff_t panels[4], ptrdiff_t size, int n, int across) {
    for (int lane = 0; lane < 4; lane++) {
        const int p = lane % (4 / across);
        panels[lane] = 16 * p < n ? p * size : 0;
    }
}

INLINE void place_parts(block *b, const dn_dwconv_s8_job *job, int across) {
    b->length = (job->width + across - 1) / across;
    for (int part = 0; part < across; part++) {
        const int first = part * b->length, most = job->width - b->length, x = first < most ? first : most;
        b->in[part] = x * job->in_step, b->out[part] = x * job->out_step, b->residual[part] = x * job->residual_step;
    }
}

/* Outputs see the same columns: 3 pixels side by side or, with stride 2, one or two of them. */
INLINE int walks(const dn_dwconv_s8_job *job) {
    return job->kernel_w == 3 && (job->in_tap == job->in_step || 2 * job->in_tap == job->in_step) && job->kh_end - job->kh_begin <= WALK_ROWS;
}

AVX512 static void prepare(block *b, const dn_dwconv_s8_job *job, int channel, int across) {
    const dn_epilogue *e = &job->epilogue;
    const ptrdiff_t size = (ptrdiff_t)job->kernel_h * job->kernel_w * 16;
    const int8_t *weights = job->weights + channel / 16 * size;
    const int left = job->channels - channel, n = left < LANES / across ? left : LANES / across;
    ptrdiff_t panels[4];
    place_panels(panels, size, n, across);
    b->quads = 0;
    for (int first = job->kh_begin; first < job->kh_end; first += 4)
        for (int kw = 0; kw < job->kernel_w; kw++, b->quads++) {
            __m512i rows[4];
            UNROLL for (int i = 0; i < 4; i++) {
                b->taps[b->quads][i] = (first + i < job->kh_end ? first + i : first) * job->in_row + kw * job->in_tap;
                rows[i] = load_weights(job, weights, first + i, kw, panels);
            }
            interleave(rows, b->weights[b->quads]);
        }
    place_panels(panels, 16 * sizeof(float), n, across);
    for (int s = 0; s < 4; s++) {
        b->scale[s] = _mm512_castsi512_ps(load_lanes((const uint8_t *)(e->scale + channel + 4 * s), panels));
        b->bias[s] = _mm512_castsi512_ps(load_lanes((const uint8_t *)(e->bias + channel + 4 * s), panels));
    }
    b->residual_scale = _mm512_set1_ps(e->residual_scale), b->lo = _mm512_set1_ps(e->lo), b->hi = _mm512_set1_ps(e->hi);
    b->out_scale = _mm512_set1_ps(e->out_scale), b->out_zero = _mm512_set1_ps(e->out_zero);
    b->most = _mm512_set1_epi8((char)(e->flags & DN_EPI_BOUNDED ? (int)e->hi : 0));
    b->read = ~(__mmask64)0 >> (LANES - (n + 3) / 4 * 4);
    b->written = ~(__mmask64)0 >> (LANES - n);
    place_parts(b, job, across);
}

INLINE __m512 hardswish(__m512 v, const block *b) {
    __m512 t = _mm512_fmadd_ps(v, _mm512_set1_ps(1 / 6.0f), _mm512_set1_ps(0.5f));
    t = _mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), _mm512_set1_ps(1));
    return _mm512_fmadd_ps(_mm512_mul_ps(v, t), b->out_scale, b->out_zero);
}

/* 64 bytes of as many pixels as a vector holds. */
INLINE __m512i load_bytes(const uint8_t *p, const ptrdiff_t at[4], __mmask64 mask, form f) {
    if (f.masked) return _mm512_maskz_loadu_epi8(mask, p);
    if (f.across == 1) return _mm512_loadu_si512(p);
    if (f.across == 2) return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p)), _mm256_loadu_si256((const __m256i *)(p + at[1])), 1);
    return load_lanes(p, at);
}

INLINE void store_bytes(uint8_t *p, const ptrdiff_t at[4], __m512i v, __mmask64 mask, form f) {
    if (f.masked) _mm512_mask_storeu_epi8(p, mask, v);
    else if (f.across == 1) _mm512_storeu_si512(p, v);
    else if (f.across == 2) {
        _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(v));
        _mm256_storeu_si256((__m256i *)(p + at[1]), _mm512_extracti64x4_epi64(v, 1));
    } else {
        _mm_storeu_si128((__m128i *)p, _mm512_castsi512_si128(v));
        _mm_storeu_si128((__m128i *)(p + at[1]), _mm512_extracti32x4_epi32(v, 1));
        _mm_storeu_si128((__m128i *)(p + at[2]), _mm512_extracti32x4_epi32(v, 2));
        _mm_storeu_si128((__m128i *)(p + at[3]), _mm512_extracti32x4_epi32(v, 3));
    }
}

INLINE __m512i pack(const __m512i q[4]) { return _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3])); }

/* Sums to the bytes of pixel x. The rarer endings. */
INLINE void finish_rare(const dn_dwconv_s8_job *job, const block *b, const __m512i acc[4], const row *r, int x, form f) {
    const uint32_t flags = job->epilogue.flags;
    const __m512i none = _mm512_setzero_si512();
    __m512i added[4], q[4];
    if (flags & DN_EPI_RESIDUAL) {
        const __m512i bytes[4] = {load_bytes(r->residual + x * job->residual_step, b->residual, b->written, f), none, none, none};
        interleave(bytes, added);
    }
    UNROLL for (int s = 0; s < 4; s++) {
        __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[s]), b->scale[s], b->bias[s]);
        if (flags & DN_EPI_RESIDUAL) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(added[s]), b->residual_scale, v);
        if (flags & DN_EPI_HARDSWISH) v = hardswish(v, b);
        q[s] = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(v, b->lo), b->hi));
    }
    store_bytes(r->output + x * job->out_step, b->out, pack(q), b->written, f);
}

/* Bounded bytes without a residual. */
INLINE void finish(const block *b, const __m512i acc[4], uint8_t *output, form f) {
    __m512i q[4];
    UNROLL for (int s = 0; s < 4; s++) q[s] = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[s]), b->scale[s], b->bias[s]));
    store_bytes(output, b->out, _mm512_min_epu8(pack(q), b->most), b->written, f);
}

/* Pixel x of r. */
INLINE void finish_at(const dn_dwconv_s8_job *job, const block *b, const __m512i acc[4], const row *r, int x, int bounded, form f) {
    if (bounded) finish(b, acc, r->output + x * job->out_step, f);
    else finish_rare(job, b, acc, r, x, f);
}

/* ---- any window: one pixel, or one of each part, at a time ---- */

INLINE void pixel(const dn_dwconv_s8_job *job, const block *b, const row *r, int x, int quads, int bounded, form f) {
    __m512i acc[4], rows[4], a[4];
    for (int s = 0; s < 4; s++) acc[s] = _mm512_setzero_si512();
    for (int k = 0; k < quads; k++) {
        UNROLL for (int i = 0; i < 4; i++) rows[i] = load_bytes(r->input + x * job->in_step + b->taps[k][i], b->in, b->read, f);
        interleave(rows, a);
        UNROLL for (int s = 0; s < 4; s++) acc[s] = dot4(acc[s], a[s], b->weights[k][s]);
    }
    finish_at(job, b, acc, r, x, bounded, f);
}

/* ---- 3-wide windows of at most 3 rows ---- */

/* Weights of the window's columns, and where its rows are. */
typedef struct window {
    __m512i weights[3][4];
    ptrdiff_t rows[WALK_ROWS];
} window;

/* Adds half a column to an output, of whose window it is column kw; kw 0 begins one. */
INLINE void add_column(__m512i acc[4], const window *w, const __m512i a[2], int half, int kw) {
    UNROLL for (int i = 0; i < 2; i++) {
        const int s = 2 * half + i;
        acc[s] = kw ? dot4(acc[s], a[i], w->weights[kw][s]) : first_dot4(a[i], w->weights[kw][s]);
    }
}

/* Column c of the walk, to the outputs whose third, second and first column it is; NULL where there is none. */
INLINE void column(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, int c, __m512i third[4], __m512i second[4], __m512i first[4], form f) {
    const uint8_t *p = r->input + c * job->in_tap;
    __m512i in[4], a[2];
    UNROLL for (int i = 0; i < WALK_ROWS; i++) in[i] = load_bytes(p + w->rows[i], b->in, b->read, f);
    in[3] = in[2]; /* its weights are 0 */
    UNROLL for (int half = 0; half < 2; half++) {
        interleave_half(in, half, a);
        if (third) add_column(third, w, a, half, 2);
        if (second) add_column(second, w, a, half, 1);
        if (first) add_column(first, w, a, half, 0);
    }
}

/* Pixel x is done with column x + 2, which is the second of the next pixel and the first of the one after. */
INLINE void step_1(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, int x, __m512i done[4], __m512i second[4], __m512i first[4], int bounded, form f) {
    column(job, b, w, r, x + 2, done, second, first, f);
    finish_at(job, b, done, r, x, bounded, f);
}

INLINE void walk_1(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, int bounded, form f) {
    __m512i p[4], q[4], t[4];
    column(job, b, w, r, 0, NULL, NULL, p, f);
    column(job, b, w, r, 1, NULL, p, q, f);
    for (int x = 0;;) {
        step_1(job, b, w, r, x, p, q, t, bounded, f);
        if (++x == b->length) return;
        step_1(job, b, w, r, x, q, t, p, bounded, f);
        if (++x == b->length) return;
        step_1(job, b, w, r, x, t, p, q, bounded, f);
        if (++x == b->length) return;
    }
}

/* Stride 2: column 2 * x + 2 is the last of pixel x and the first of the next. */
INLINE void step_2(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, int x, __m512i done[4], __m512i first[4], int bounded, form f) {
    column(job, b, w, r, 2 * x + 1, NULL, done, NULL, f);
    column(job, b, w, r, 2 * x + 2, done, NULL, first, f);
    finish_at(job, b, done, r, x, bounded, f);
}

INLINE void walk_2(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, int bounded, form f) {
    __m512i p[4], q[4];
    column(job, b, w, r, 0, NULL, NULL, p, f);
    for (int x = 0;;) {
        step_2(job, b, w, r, x, p, q, bounded, f);
        if (++x == b->length) return;
        step_2(job, b, w, r, x, q, p, bounded, f);
        if (++x == b->length) return;
    }
}

/* ---- blocks of channels ---- */

enum way { PIXELS, STRIDE_1, STRIDE_2 };

INLINE void one_row(const dn_dwconv_s8_job *job, const block *b, const window *w, const row *r, enum way way, int bounded, form f) {
    if (way == STRIDE_1) walk_1(job, b, w, r, bounded, f);
    else if (way == STRIDE_2) walk_2(job, b, w, r, bounded, f);
    else if (b->quads == 3)
        for (int x = 0; x < b->length; x++) pixel(job, b, r, x, 3, bounded, f);
    else
        for (int x = 0; x < b->length; x++) pixel(job, b, r, x, b->quads, bounded, f);
}

INLINE void rows_of(const dn_dwconv_s8_job *job, int channel, enum way way, form f) {
    const int bounded = job->epilogue.flags == DN_EPI_BOUNDED;
    block b;
    window w = {.rows = {0}};
    prepare(&b, job, channel, f.across);
    if (way != PIXELS) {
        UNROLL for (int kw = 0; kw < 3; kw++) UNROLL for (int s = 0; s < 4; s++) w.weights[kw][s] = b.weights[kw][s];
        UNROLL for (int i = 0; i < WALK_ROWS; i++) w.rows[i] = b.taps[0][i];
    }
    for (int y = 0; y < job->rows; y++) {
        const row r = {job->input + y * job->in_next + channel, job->residual ? job->residual + y * job->residual_next + channel : NULL, job->output + y * job->out_next + channel};
        if (bounded) one_row(job, &b, &w, &r, way, 1, f);
        else one_row(job, &b, &w, &r, way, 0, f);
    }
}

#define DEFINE(name, across, masked)                                                                                                       \
    AVX512 static void name(const dn_dwconv_s8_job *job, int channel) { rows_of(job, channel, PIXELS, (form){across, masked}); }            \
    AVX512 static void name##_1(const dn_dwconv_s8_job *job, int channel) { rows_of(job, channel, STRIDE_1, (form){across, masked}); }      \
    AVX512 static void name##_2(const dn_dwconv_s8_job *job, int channel) { rows_of(job, channel, STRIDE_2, (form){across, masked}); }
DEFINE(one, 1, 0)
DEFINE(two, 2, 0)
DEFINE(four, 4, 0)
DEFINE(part, 1, 1)

typedef void block_kernel(const dn_dwconv_s8_job *job, int channel);
static block_kernel *const kernels[][3] = {{one, one_1, one_2}, {two, two_1, two_2}, {four, four_1, four_2}, {part, part_1, part_2}};

AVX512 static void run(const dn_dwconv_s8_job *job) {
    if ((job->kh_end - job->kh_begin + 3) / 4 * job->kernel_w > MAX_QUADS) {
        dn_dwconv_s8_ref.run(job);
        return;
    }
    const enum way way = !walks(job) ? PIXELS : job->in_tap == job->in_step ? STRIDE_1 : STRIDE_2;
    for (int channel = 0; channel < job->channels;) {
        const int left = job->channels - channel;
        if (left >= LANES) kernels[0][way](job, channel), channel += LANES;
        else if (left >= LANES / 2 && left <= LANES / 2 + 16 && job->width >= 2) kernels[1][way](job, channel), channel += LANES / 2;
        else if (left == LANES / 4 && job->width >= 4) kernels[2][way](job, channel), channel += LANES / 4;
        else kernels[3][way](job, channel), channel += LANES;
    }
}

const dn_dwconv_s8 dn_dwconv_s8_avx512 = {.isa = "avx512", .run = run};

#endif
