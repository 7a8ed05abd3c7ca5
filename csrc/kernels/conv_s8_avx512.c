/* conv_s8_avx512.c - int8 convolution with AVX-512 VNNI: one vpdpbusd makes 64 products, exactly.
 *
 * A tile is mr pixels by nr panels; a step loads nr weight vectors and broadcasts 4 channels of each pixel. Loads keep up with products while
 * mr + nr <= mr * nr, which 16 x 1 misses: it is for layers of 16 outputs only, where the constant forms save what can be saved around it. vpdpbusd is written in assembly because gcc 12 otherwise
 * inserts two register copies per product (its partial redundancy elimination splits the accumulators' live ranges). */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl")))
#define UNROLL _Pragma("GCC unroll 32")

enum { MAX_MR = 16, MAX_NR = 4 };

INLINE __m512i dot4(__m512i acc, __m512i activations, __m512i weights) {
    __asm__("vpdpbusd %2,%1,%0" : "+v"(acc) : "v"(activations), "v"(weights));
    return acc;
}

INLINE __m512i broadcast4(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
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
    const size_t panel = job->panel_stride;
    const ptrdiff_t step = in_step ? in_step : job->in_step;
    ptrdiff_t step3 = 3 * step, step5 = 5 * step, step7 = 7 * step;
    if (form == DN_FORM_ROW && !in_step) __asm__("" : "+r"(step3), "+r"(step5), "+r"(step7)); /* else they are recomputed in the loop */
    const uint8_t *pixel[MAX_MR];
    if (form == DN_FORM_POINTER) UNROLL for (int i = 0; i < mr; i++) pixel[i] = job->input + job->in_offset[i];
    for (const dn_tap *t = job->taps, *end = t + job->tap_count; t != end; t++) {
        const int8_t *w = job->weights + t->weight;
        UNROLL for (int k = 0; k < steps; k++) {
            __m512i b[MAX_NR];
            UNROLL for (int j = 0; j < nr; j++) {
                b[j] = _mm512_loadu_si512(w + (size_t)j * panel + 64 * k);
                if (view) b[j] = _mm512_and_si512(_mm512_adds_epi8(b[j], view_add), view_mask);
            }
            /* Opaque in every step: the compiler would keep each pixel's address across steps and spill. */
            ptrdiff_t at = t->input + 4 * k;
            if (!in_step) __asm__("" : "+r"(at));
            const uint8_t *row = job->input + at, *row8 = row + 8 * step;
            if (mr > 8 && form == DN_FORM_ROW && !in_step) __asm__("" : "+r"(row), "+r"(row8));
            UNROLL for (int i = 0; i < mr; i++) {
                const uint8_t *p = form == DN_FORM_POINTER ? pixel[i] + at : in_step ? row + i * in_step : (i < 8 ? row : row8) + row_offset(i & 7, step, step3, step5, step7);
                const __m512i a = broadcast4(p);
                UNROLL for (int j = 0; j < nr; j++) c[i][j] = dot4(c[i][j], a, b[j]);
            }
        }
    }
    if (view || job->epilogue.flags & ~(uint32_t)DN_EPI_RESIDUAL) {
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
