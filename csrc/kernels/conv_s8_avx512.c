/* conv_s8_avx512.c - int8 convolution with AVX-512 VNNI: one vpdpbusd makes 64 products, exactly.
 *
 * A tile is mr pixels by nr panels; a step loads nr weight vectors and broadcasts 4 channels of each pixel. Loads keep up with products while
 * mr + nr <= mr * nr, which 16 x 1 misses: it is for layers of 16 outputs only, where the constant forms save what can be saved around it. vpdpbusd is written in assembly because gcc 12 otherwise
 * inserts two register copies per product (its partial redundancy elimination splits the accumulators' live ranges). tests/test_disassembly.py looks at what comes out. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))
#define UNROLL _Pragma("GCC unroll 32")

enum {
    MAX_MR = 16,
    MAX_NR = 4,
    MAX_KEPT = 8,   /* pixels whose places stay in general registers; those of the others are read again at every step */
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

INLINE __m512 add_residual(__m512 v, const uint8_t *r, __mmask16 mask, __m512 scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, r))), scale, v);
}

/* Bytes with or without a residual: the ending of almost every layer, inline. */
INLINE void finish(const dn_conv_s8_job *job, __m512i c[MAX_MR][MAX_NR], int mr, int nr, int form) {
    const dn_epilogue *e = &job->epilogue;
    const int adds = e->flags & DN_EPI_RESIDUAL;
    const __m512 lo = _mm512_set1_ps(e->lo), hi = _mm512_set1_ps(e->hi), residual_scale = _mm512_set1_ps(e->residual_scale);
    UNROLL for (int j = 0; j < nr; j++) {
        const __m512 scale = _mm512_loadu_ps(e->scale + 16 * j), bias = _mm512_loadu_ps(e->bias + 16 * j);
        const __mmask16 mask = j == nr - 1 ? (__mmask16)(0xffffu >> (16 - job->last)) : 0xffff;
        uint8_t *out = (uint8_t *)job->output + 16 * j;
        const uint8_t *r = adds ? job->residual + 16 * j : NULL;
        UNROLL for (int i = 0; i < mr; i++) {
            __m512 v = _mm512_fmadd_ps(_mm512_cvtepi32_ps(c[i][j]), scale, bias);
            if (adds) v = add_residual(v, r + (form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i]), mask, residual_scale);
            v = _mm512_min_ps(_mm512_max_ps(v, lo), hi);
            _mm_mask_storeu_epi8(out + (form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i]), mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
        }
    }
}

/* Distance of pixel i < 8 from the first, with 3, 5 and 7 steps made beforehand so that every address is one operand. */
INLINE ptrdiff_t row_offset(int i, ptrdiff_t step, ptrdiff_t step3, ptrdiff_t step5, ptrdiff_t step7) {
    return i == 3 ? step3 : i == 5 ? step5 : i == 6 ? 2 * step3 : i == 7 ? step7 : i * step;
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
            UNROLL for (int j = 0; j < nr; j++) {
                b[j] = _mm512_loadu_si512(w + (j == 3 ? panel3 : j * panel) + 64 * k);
                if (view) b[j] = mr * nr > MAX_VIEWED ? through_view(b[j], job) : _mm512_and_si512(_mm512_adds_epi8(b[j], view_add), view_mask);
            }
            UNROLL for (int i = 0; i < mr; i++) {
                const ptrdiff_t from_row = form == DN_FORM_POINTER ? (i < MAX_KEPT ? kept[i] : offset[i]) : in_step ? i * in_step : row_offset(i & 7, step, step3, step5, step7);
                dots(c[i], (form == DN_FORM_POINTER || in_step || i < 8 ? row : row8) + from_row, b, nr);
            }
        }
    }
    if (view || job->epilogue.flags & ~(uint32_t)(DN_EPI_RESIDUAL | DN_EPI_BOUNDED)) {
        __m512i acc[MAX_MR * MAX_NR];
        UNROLL for (int i = 0; i < mr; i++) UNROLL for (int j = 0; j < nr; j++) acc[i * nr + j] = c[i][j];
        finish_rare(job, acc, mr, nr, form);
    } else finish(job, c, mr, nr, form);
}

#define LIST(X) \
    X(16, 1, 1) X(16, 1, 4) X(8, 2, 1) X(8, 2, 4) X(8, 3, 1) X(8, 3, 4) X(6, 4, 1) X(6, 4, 4) X(14, 2, 1) X(14, 2, 4) X(1, 1, 1) X(1, 1, 4) X(1, 2, 1) X(1, 2, 4) X(1, 3, 1) X(1, 3, 4) \
    X(1, 4, 1) X(1, 4, 4)
#define CONSTANT(X) X(1, 4) X(2, 8) X(3, 12) X(4, 16) X(8, 32)

#define DEFINE(mr, nr, steps)                                                                                                                     \
    AVX512 static void row_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_ROW, 0, 0); }                      \
    AVX512 static void row_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_ROW, 0, 1); }                 \
    AVX512 static void pointer_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_POINTER, 0, 0); }              \
    AVX512 static void pointer_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { tile(job, mr, nr, steps, DN_FORM_POINTER, 0, 1); }
#define DEFINE_CONSTANT(steps, stride)                                                                                                            \
    AVX512 static void constant_##stride(const dn_conv_s8_job *job) { tile(job, 16, 1, steps, DN_FORM_ROW, stride, 0); }                          \
    AVX512 static void constant_view_##stride(const dn_conv_s8_job *job) { tile(job, 16, 1, steps, DN_FORM_ROW, stride, 1); }
LIST(DEFINE) CONSTANT(DEFINE_CONSTANT)

#define LINE(mr, nr, steps)                                                                                    \
    {row_##mr##x##nr##_##steps, row_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_ROW, 0},                \
    {pointer_##mr##x##nr##_##steps, pointer_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_POINTER, 0},
#define LINE_CONSTANT(steps, stride) {constant_##stride, constant_view_##stride, 16, 1, steps, DN_FORM_ROW, stride},
static const dn_conv_s8_variant variants[] = {CONSTANT(LINE_CONSTANT) LIST(LINE)};

const dn_conv_s8 dn_conv_s8_avx512 = {.isa = "avx512", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
