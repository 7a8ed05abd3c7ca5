/* conv_s8_avx512.c - int8 convolution with AVX-512 VNNI: one vpdpbusd makes 64 products, exactly.
 *
 * A tile is mr pixels by nr panels; a step loads nr weight vectors and broadcasts 4 channels of each pixel. Loads keep up with products while
 * mr + nr <= mr * nr, which 16 x 1 misses: it is for layers of 16 outputs only, where the constant forms save what can be saved around it, and tile_3 loads an activation once for
 * the three outputs of its row that see it. vpdpbusd is written in assembly because gcc 12 otherwise inserts two register copies per product (its partial redundancy elimination
 * splits the accumulators' live ranges). tests/test_disassembly.py looks at what comes out.
 *
 * Products, conversions and shuffles share two ports, so an epilogue's instructions cost as much as products: bounded bytes are packed by four vectors, without limits before. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#include "kernels/tile_avx512.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))
#define UNROLL _Pragma("GCC unroll 32")

enum {
    MAX_MR = 16,
    MAX_NR = 4,
    MAX_VIEWED = 24 /* sums beside which weights, activations and the bit view's constants fit into 32 registers */
};

/* c[j] += 4 channels at p times b[j], for nr panels, in one statement: where every product has its own, gcc 12 copies accumulators at the ends of the loop, or runs out of
 * registers. */
INLINE void dots(__m512i *c, const uint8_t *p, const __m512i *b, int nr) {
    __m512i a;
    const uint8_t(*four)[4] = (const uint8_t(*)[4])p; /* all that the statement reads */
    if (nr == 1)
        __asm__("vpbroadcastd %2,%1\n\tvpdpbusd %3,%1,%0" : "+v"(c[0]), "=&v"(a) : "m"(*four), "v"(b[0]));
    else if (nr == 2)
        __asm__("vpbroadcastd %3,%2\n\tvpdpbusd %4,%2,%0\n\tvpdpbusd %5,%2,%1" : "+&v"(c[0]), "+&v"(c[1]), "=&v"(a) : "m"(*four), "v"(b[0]), "v"(b[1]));
    else if (nr == 3)
        __asm__("vpbroadcastd %4,%3\n\tvpdpbusd %5,%3,%0\n\tvpdpbusd %6,%3,%1\n\tvpdpbusd %7,%3,%2"
                : "+&v"(c[0]), "+&v"(c[1]), "+&v"(c[2]), "=&v"(a)
                : "m"(*four), "v"(b[0]), "v"(b[1]), "v"(b[2]));
    else
        __asm__("vpbroadcastd %5,%4\n\tvpdpbusd %6,%4,%0\n\tvpdpbusd %7,%4,%1\n\tvpdpbusd %8,%4,%2\n\tvpdpbusd %9,%4,%3"
                : "+&v"(c[0]), "+&v"(c[1]), "+&v"(c[2]), "+&v"(c[3]), "=&v"(a)
                : "m"(*four), "v"(b[0]), "v"(b[1]), "v"(b[2]), "v"(b[3]));
}

/* The same for 4 panels where the last one's weights, at `last`, have no register. */
INLINE void dots_tight(__m512i *c, const uint8_t *p, const __m512i *b, const int8_t *last) {
    __m512i a;
    const uint8_t(*four)[4] = (const uint8_t(*)[4])p;
    __asm__("vpbroadcastd %5,%4\n\tvpdpbusd %6,%4,%0\n\tvpdpbusd %7,%4,%1\n\tvpdpbusd %8,%4,%2\n\tvpdpbusd %9,%4,%3"
            : "+&v"(c[0]), "+&v"(c[1]), "+&v"(c[2]), "+&v"(c[3]), "=&v"(a)
            : "m"(*four), "v"(b[0]), "v"(b[1]), "v"(b[2]), "m"(*(const int8_t(*)[64])last));
}

/* c[u - k] += 4 channels at p times b[k], for k = 0, 1, 2 as far as there are sums, `count`. */
INLINE void spread(__m512i c[MAX_MR][MAX_NR], int u, int count, const uint8_t *p, const __m512i b[3]) {
    __m512i a;
    const uint8_t(*four)[4] = (const uint8_t(*)[4])p;
    if (u == 0) __asm__("vpbroadcastd %2,%1\n\tvpdpbusd %3,%1,%0" : "+v"(c[0][0]), "=&v"(a) : "m"(*four), "v"(b[0]));
    else if (u == 1) __asm__("vpbroadcastd %3,%2\n\tvpdpbusd %4,%2,%0\n\tvpdpbusd %5,%2,%1" : "+&v"(c[1][0]), "+&v"(c[0][0]), "=&v"(a) : "m"(*four), "v"(b[0]), "v"(b[1]));
    else if (u == count) __asm__("vpbroadcastd %3,%2\n\tvpdpbusd %4,%2,%0\n\tvpdpbusd %5,%2,%1" : "+&v"(c[u - 1][0]), "+&v"(c[u - 2][0]), "=&v"(a) : "m"(*four), "v"(b[1]), "v"(b[2]));
    else if (u > count) __asm__("vpbroadcastd %2,%1\n\tvpdpbusd %3,%1,%0" : "+v"(c[u - 2][0]), "=&v"(a) : "m"(*four), "v"(b[2]));
    else
        __asm__("vpbroadcastd %4,%3\n\tvpdpbusd %5,%3,%0\n\tvpdpbusd %6,%3,%1\n\tvpdpbusd %7,%3,%2"
                : "+&v"(c[u][0]), "+&v"(c[u - 1][0]), "+&v"(c[u - 2][0]), "=&v"(a)
                : "m"(*four), "v"(b[0]), "v"(b[1]), "v"(b[2]));
}

/* Weights through the bit view, where no two registers are left for its constants. */
INLINE __m512i through_view(__m512i weights, const dn_conv_s8_job *job) {
    __m512i spread;
    __asm__("vpbroadcastb %2,%1\n\tvpaddsb %1,%0,%0\n\tvpbroadcastb %3,%1\n\tvpandd %1,%0,%0" : "+v"(weights), "=&v"(spread) : "m"(job->view_add), "m"(job->view_mask));
    return weights;
}

/* The rarer endings, through memory so that they are not repeated in every variant. */
AVX512 static __attribute__((noinline)) void finish_rare(const dn_conv_s8_job *job, const __m512i *acc, int mr, int nr, int form) {
    const dn_epilogue *e = &job->epilogue;
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) {
            const __mmask16 mask = j == nr - 1 ? (__mmask16)(0xffffu >> (16 - job->last)) : 0xffff;
            const ptrdiff_t at = 16 * j + (form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i]);
            float *out_f32 = (float *)job->output + at;
            __m512 v = _mm512_cvtepi32_ps(acc[i * nr + j]), scale = _mm512_loadu_ps(e->scale + 16 * j);
            if (e->flags & DN_CONV_ACCUMULATE) v = _mm512_fmadd_ps(v, scale, _mm512_maskz_loadu_ps(mask, out_f32));
            else v = _mm512_fmadd_ps(v, scale, _mm512_loadu_ps(e->bias + 16 * j));
            if (e->flags & DN_EPI_RESIDUAL) {
                const uint8_t *r = job->residual + 16 * j + (form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i]);
                v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, r))), _mm512_set1_ps(e->residual_scale), v);
            }
            if (e->flags & DN_CONV_F32_OUT) {
                _mm512_mask_storeu_ps(out_f32, mask, v);
                continue;
            }
            if (e->flags & DN_EPI_HARDSWISH) {
                __m512 t = _mm512_fmadd_ps(v, _mm512_set1_ps(1 / 6.0f), _mm512_set1_ps(0.5f));
                t = _mm512_min_ps(_mm512_max_ps(t, _mm512_setzero_ps()), _mm512_set1_ps(1));
                v = _mm512_fmadd_ps(_mm512_mul_ps(v, t), _mm512_set1_ps(e->out_scale), _mm512_set1_ps(e->out_zero));
            }
            v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(e->lo)), _mm512_set1_ps(e->hi));
            _mm_mask_storeu_epi8((uint8_t *)job->output + at, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
        }
}

/* 16 bytes as integers, reading no others: a masked load of bytes would cost an instruction more. */
INLINE __m512i load_residual(const uint8_t *r, __mmask16 mask) {
    __m512i wide;
    __asm__("vpmovzxbd %1,%0%{%2%}%{z%}" : "=v"(wide) : "m"(*(const uint8_t(*)[16])r), "Yk"(mask));
    return wide;
}

/* Four vectors of 16 integers as 64 bytes. Packing works within lanes of 128 bits, so dwords come out by lanes, then by vectors. */
INLINE __m512i pack(const __m512i q[4], __m512i most) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    return _mm512_permutexvar_epi32(order, _mm512_min_epu8(bytes, most));
}

/* Quarter i of a vector, and half. */
INLINE __m128i quarter(__m512i v, int i) {
    return i == 0 ? _mm512_castsi512_si128(v) : i == 1 ? _mm512_extracti32x4_epi32(v, 1) : i == 2 ? _mm512_extracti32x4_epi32(v, 2) : _mm512_extracti32x4_epi32(v, 3);
}
INLINE __m256i half(__m512i v, int i) { return i ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v); }

/* Bytes of whole pixels, one after the other in `bytes`, nr panels each; the last panel's as far as `mask` goes. */
INLINE void store_pixels(const dn_conv_s8_job *job, __m512i bytes, int first, int pixels, int nr, int form, __mmask64 mask) {
    uint8_t *const out = (uint8_t *)job->output + (form == DN_FORM_ROW ? first * job->out_step : job->out_offset[first]);
    const int full = job->last == 16;
    if (full && form == DN_FORM_ROW && pixels > 1 && pixels * nr == 4 && job->out_step == 16 * nr) {
        _mm512_storeu_si512(out, bytes);
        return;
    }
    UNROLL for (int i = 0; i < pixels; i++) {
        uint8_t *to = i == 0 ? out : (uint8_t *)job->output + (form == DN_FORM_ROW ? (first + i) * job->out_step : job->out_offset[first + i]);
        if (nr > 2) _mm512_mask_storeu_epi8(to, mask, bytes);
        else if (nr == 2 && full) _mm256_storeu_si256((__m256i *)to, half(bytes, i));
        else if (nr == 2) _mm256_mask_storeu_epi8(to, (__mmask32)mask, half(bytes, i));
        else if (full) _mm_storeu_si128((__m128i *)to, quarter(bytes, i));
        else _mm_mask_storeu_epi8(to, (__mmask16)mask, quarter(bytes, i));
    }
}

/* Bounded bytes with or without a residual, the ending of almost every layer, inline: pixels by as many as fill a register. */
INLINE void finish(const dn_conv_s8_job *job, __m512i c[MAX_MR][MAX_NR], int mr, int nr, int form, int adds) {
    const dn_epilogue *e = &job->epilogue;
    const int most_pixels = nr > 2 ? 1 : 4 / nr;
    const __mmask16 last = (__mmask16)(0xffffu >> (16 - job->last));
    const __mmask64 mask = ~(__mmask64)0 >> (64 - 16 * (nr - 1) - job->last);
    const __m512i most = _mm512_set1_epi8((char)(int)e->hi);
    const __m512 residual_scale = _mm512_set1_ps(e->residual_scale);
    UNROLL for (int first = 0; first < mr; first += most_pixels) {
        const int pixels = mr - first < most_pixels ? mr - first : most_pixels;
        __m512i q[4];
        UNROLL for (int i = 0; i < pixels; i++) {
            const uint8_t *r = adds ? job->residual + (form == DN_FORM_ROW ? (first + i) * job->residual_step : job->residual_offset[first + i]) : NULL;
            UNROLL for (int j = 0; j < nr; j++) {
                __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[first + i][j]), _mm512_loadu_ps(e->scale + 16 * j), _mm512_loadu_ps(e->bias + 16 * j));
                if (adds) v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(load_residual(r + 16 * j, j == nr - 1 ? last : 0xffff)), residual_scale, v);
                q[i * nr + j] = _mm512_cvtps_epi32(v);
            }
        }
        UNROLL for (int k = pixels * nr; k < 4; k++) q[k] = q[k - 1];
        store_pixels(job, pack(q, most), first, pixels, nr, form, mask);
    }
}

INLINE void end_tile(const dn_conv_s8_job *job, __m512i c[MAX_MR][MAX_NR], int mr, int nr, int form, int view) {
    if (!view && job->epilogue.flags == DN_EPI_BOUNDED) finish(job, c, mr, nr, form, 0);
    else if (!view && job->epilogue.flags == (DN_EPI_BOUNDED | DN_EPI_RESIDUAL)) finish(job, c, mr, nr, form, 1);
    else {
        __m512i acc[MAX_MR * MAX_NR];
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nr; j++) acc[i * nr + j] = c[i][j];
        finish_rare(job, acc, mr, nr, form);
    }
}

/* All arguments but the job are constants. */
INLINE void tile(const dn_conv_s8_job *job, int mr, int nr, int steps, int form, int in_step, int view) {
    __m512i c[MAX_MR][MAX_NR];
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nr; j++) {
        c[i][j] = _mm512_setzero_si512();
        __asm__("" : "+v"(c[i][j])); /* a register of its own from the start, or gcc shares one zero and copies it in the loop */
    }
    const __m512i view_add = _mm512_set1_epi8(view ? job->view_add : 0), view_mask = _mm512_set1_epi8(view ? job->view_mask : 0);
    ptrdiff_t panel = (ptrdiff_t)job->panel_stride, panel3 = 3 * panel;
    const ptrdiff_t step = in_step ? in_step : job->in_step;
    ptrdiff_t step3 = 3 * step, step5 = 5 * step, step7 = 7 * step;
    if (form == DN_FORM_ROW && !in_step) __asm__("" : "+r"(step3), "+r"(step5), "+r"(step7)); /* else they are recomputed in the loop */
    const int8_t *const weights = job->weights;
    const uint8_t *const input = job->input;
    const int full = mr * nr + nr > 31, loaded = full ? nr - 1 : nr; /* full: sums, weights and an activation are more than 32 registers */
    const int tight = mr > 1; /* the two are added from memory, because their registers are wanted */
    const int32_t *offset = job->in_offset;
    ptrdiff_t kept[MAX_KEPT];
    if (form == DN_FORM_POINTER) UNROLL for (int i = 0; i < mr && i < MAX_KEPT; i++) kept[i] = offset[i];
    for (const dn_tap *t = job->taps, *end = t + job->tap_count; t != end; t++) {
        const int8_t *w = weights + t->weight;
        const uint8_t *row = input + t->input;
        if (tight) {
            __asm__("add %1,%0" : "=r"(w) : "m"(weights), "0"((ptrdiff_t)t->weight));
            __asm__("add %1,%0" : "=r"(row) : "m"(input), "0"((ptrdiff_t)t->input));
        }
        const uint8_t *row8 = row + 8 * step;
        UNROLL for (int k = 0; k < steps; k++, row += 4, row8 += 4) {
            __m512i b[MAX_NR];
            /* Opaque at every step: gcc would keep the address of every vector and pixel of every step, in vector registers when there are no others. */
            if (nr > 1) __asm__("" : "+r"(panel));
            if (nr > 3) __asm__("" : "+r"(panel3));
            if (!in_step) __asm__("" : "+r"(row));
            if (form == DN_FORM_ROW && !in_step && mr > 8) __asm__("" : "+r"(row8));
            if (form == DN_FORM_POINTER && mr > MAX_KEPT) __asm__("" : "+r"(offset));
            const int8_t *const last = w + panel3 + 64 * k;
            UNROLL for (int j = 0; j < loaded; j++) {
                b[j] = _mm512_loadu_si512(w + (j == 3 ? panel3 : j * panel) + 64 * k);
                if (view) b[j] = mr * nr > MAX_VIEWED ? through_view(b[j], job) : _mm512_and_si512(_mm512_adds_epi8(b[j], view_add), view_mask);
            }
            UNROLL for (int i = 0; i < mr; i++) {
                const ptrdiff_t from_row = form == DN_FORM_POINTER ? (i < MAX_KEPT ? kept[i] : offset[i]) : in_step ? i * in_step : row_offset(i & 7, step, step3, step5, step7);
                const uint8_t *const p = (form == DN_FORM_POINTER || in_step || i < 8 ? row : row8) + from_row;
                if (full) dots_tight(c[i], p, b, last);
                else dots(c[i], p, b, nr);
            }
        }
    }
    end_tile(job, c, mr, nr, form, view);
}

/* 16 neighbouring outputs of a window 3 columns wide, whose rows are one run of channels: an activation, loaded once, is multiplied for each output that it belongs to. `quads` times 4
 * channels make a pixel. */
INLINE void tile_3(const dn_conv_s8_job *job, int quads, int view) {
    enum { MR = 16, WIDTH = 3, APART = 5 }; /* APART: activations that follow each other have few sums in common, which would be waited for */
    __m512i c[MAX_MR][MAX_NR];
    UNROLL for (int i = 0; i < MR; i++) {
        c[i][0] = _mm512_setzero_si512();
        __asm__("" : "+v"(c[i][0])); /* as above */
    }
    const __m512i view_add = _mm512_set1_epi8(view ? job->view_add : 0), view_mask = _mm512_set1_epi8(view ? job->view_mask : 0);
    for (const dn_tap *t = job->taps, *end = t + job->tap_count; t != end; t++) {
        const int8_t *w = job->weights + t->weight;
        const uint8_t *row = job->input + t->input;
        int left = quads;
        __asm__("" : "+r"(left)); /* unrolled, gcc 12 copies accumulators */
        for (; left; left--, w += 64, row += 4) {
            __m512i b[WIDTH];
            UNROLL for (int k = 0; k < WIDTH; k++) {
                b[k] = _mm512_loadu_si512(w + 64 * k * quads);
                if (view) b[k] = _mm512_and_si512(_mm512_adds_epi8(b[k], view_add), view_mask);
            }
            UNROLL for (int s = 0; s < APART; s++) UNROLL for (int u = s; u < MR + WIDTH - 1; u += APART) spread(c, u, MR, row + 4 * u * quads, b);
        }
    }
    end_tile(job, c, MR, 1, DN_FORM_ROW, view);
}

/* The seventh pixel alone. */
static dn_conv_s8_job seventh(const dn_conv_s8_job *job, int form) {
    dn_conv_s8_job rest = *job;
    if (form == DN_FORM_POINTER) {
        rest.in_offset += 6, rest.out_offset += 6, rest.residual_offset += 6;
        return rest;
    }
    rest.input += 6 * job->in_step;
    rest.output = (uint8_t *)job->output + 6 * job->out_step * (ptrdiff_t)(job->epilogue.flags & (DN_CONV_F32_OUT | DN_CONV_ACCUMULATE) ? sizeof(float) : 1);
    if (rest.residual) rest.residual += 6 * job->residual_step;
    return rest;
}

#define LIST(X) \
    X(16, 1, 1) X(16, 1, 4) X(8, 2, 1) X(8, 2, 4) X(8, 3, 1) X(8, 3, 4) X(6, 4, 1) X(6, 4, 4) X(14, 2, 1) X(14, 2, 4) X(1, 1, 1) X(1, 1, 4) X(1, 2, 1) X(1, 2, 4) X(1, 3, 1) X(1, 3, 4) \
    X(1, 4, 1) X(1, 4, 4)
#define CONSTANT(X) X(1, 4) X(2, 8) X(3, 12) X(4, 16) X(4, 32)

#define DEFINE(mr, nr, steps)                                                                                                                     \
    AVX512 static void row_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_ROW, 0, 0); }                      \
    AVX512 static void row_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_ROW, 0, 1); }                 \
    AVX512 static void pointer_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_POINTER, 0, 0); }              \
    AVX512 static void pointer_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_POINTER, 0, 1); }
/* Through the bit view there are no registers for 7 x 64 at all. */
#define DEFINE_TIGHT(steps)                                                                                                                     \
    AVX512 static void row_7x4_##steps(const dn_conv_s8_job *job) { tile(job, 7, 4, steps, DN_FORM_ROW, 0, 0); }                                  \
    AVX512 static void pointer_7x4_##steps(const dn_conv_s8_job *job) { tile(job, 7, 4, steps, DN_FORM_POINTER, 0, 0); }                          \
    AVX512 static void row_view_7x4_##steps(const dn_conv_s8_job *job) {                                                                         \
        const dn_conv_s8_job rest = seventh(job, DN_FORM_ROW);                                                                                   \
        row_view_6x4_##steps(job), row_view_1x4_##steps(&rest);                                                                                  \
    }                                                                                                                                            \
    AVX512 static void pointer_view_7x4_##steps(const dn_conv_s8_job *job) {                                                                     \
        const dn_conv_s8_job rest = seventh(job, DN_FORM_POINTER);                                                                               \
        pointer_view_6x4_##steps(job), pointer_view_1x4_##steps(&rest);                                                                          \
    }
#define DEFINE_CONSTANT(steps, stride)                                                                                                            \
    AVX512 static void constant_##stride(const dn_conv_s8_job *job) { tile(job, 16, 1, steps, DN_FORM_ROW, stride, 0); }                          \
    AVX512 static void constant_view_##stride(const dn_conv_s8_job *job) { tile(job, 16, 1, steps, DN_FORM_ROW, stride, 1); }
#define THREE(X) X(1) X(2) X(3) X(4) X(8)
#define DEFINE_THREE(quads)                                                               \
    AVX512 static void three_##quads(const dn_conv_s8_job *job) { tile_3(job, quads, 0); } \
    AVX512 static void three_view_##quads(const dn_conv_s8_job *job) { tile_3(job, quads, 1); }
LIST(DEFINE) DEFINE_TIGHT(1) DEFINE_TIGHT(4) CONSTANT(DEFINE_CONSTANT) THREE(DEFINE_THREE)

#define LINE(mr, nr, steps)                                                                                    \
    {row_##mr##x##nr##_##steps, row_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_ROW, 0},                \
    {pointer_##mr##x##nr##_##steps, pointer_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_POINTER, 0},
#define LINE_CONSTANT(steps, stride) {constant_##stride, constant_view_##stride, 16, 1, steps, DN_FORM_ROW, stride},
#define LINE_THREE(quads) {three_##quads, three_view_##quads, 16, 1, 3 * quads, DN_FORM_ROW, 4 * quads},
static const dn_conv_s8_variant variants[] = {THREE(LINE_THREE) CONSTANT(LINE_CONSTANT) LIST(LINE) LINE(7, 4, 1) LINE(7, 4, 4)};

const dn_conv_s8 dn_conv_s8_avx512 = {.isa = "avx512", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
