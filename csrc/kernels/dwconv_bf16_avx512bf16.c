/* dwconv_bf16_avx512bf16.c - depthwise convolution in bfloat16 for AVX-512 with its bfloat16 instructions, 32 channels at a time.
 *
 * Two rows of a window's column are interleaved, so that vdpbf16ps sums them. Unpacking works within 128-bit lanes: of 8 channels a lane holds, the first register has 0-3, the second
 * 4-7. Weights and tables are brought into that order once per call; a permutation of quarters of lanes undoes it. Fewer than 32 channels are left to the template. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#define DN_AVX512BF16
#include "kernels/elem_bf16_avx512.h"
#include "kernels/dwconv_float_template.h"

enum { BLOCK = 32, PIXELS = 4, MAX_COLUMNS = 48 }; /* of pairs of rows: 45 in a 9 x 9 window; those with more are left to the template too */

typedef struct block {
    __m512i weights[MAX_COLUMNS][2];
    vec scale[2], bias[2], lo, hi;
} block;

VEC_INLINE vec dot(vec acc, __m512i activations, __m512i weights) {
    __asm__("vdpbf16ps %2,%1,%0" : "+v"(acc) : "v"(activations), "v"(weights));
    return acc;
}

VEC_INLINE void interleave(__m512i first, __m512i second, __m512i out[2]) { out[0] = _mm512_unpacklo_epi16(first, second), out[1] = _mm512_unpackhi_epi16(first, second); }

/* 32 floats in order from and to the two registers. */
VEC_INLINE void spread_order(vec a, vec b, vec out[2]) {
    out[0] = _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27), b);
    out[1] = _mm512_permutex2var_ps(a, _mm512_setr_epi32(4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31), b);
}
VEC_INLINE void channel_order(const vec in[2], vec out[2]) {
    out[0] = _mm512_permutex2var_ps(in[0], _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23), in[1]);
    out[1] = _mm512_permutex2var_ps(in[0], _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31), in[1]);
}

static VEC_TARGET void prepare(block *b, const dn_dwconv_f32_job *job, int32_t c) {
    const ptrdiff_t panel = (ptrdiff_t)job->kernel_h * job->kernel_w * 16;
    const elem *weights = (const elem *)job->weights + c / 16 * panel;
    int column = 0;
    for (int32_t kh = job->kh_begin; kh < job->kh_end; kh += 2)
        for (int32_t kw = 0; kw < job->kernel_w; kw++, column++) {
            __m512i rows[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            for (int32_t i = 0; i < 2 && kh + i < job->kh_end; i++) {
                const elem *w = weights + ((ptrdiff_t)(kh + i) * job->kernel_w + kw) * 16;
                rows[i] = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)w)), _mm256_loadu_si256((const __m256i *)(const void *)(w + panel)), 1);
            }
            interleave(rows[0], rows[1], b->weights[column]);
        }
    const dn_epilogue *e = &job->epilogue;
    spread_order(vec_load(e->scale + c), vec_load(e->scale + c + VEC), b->scale);
    spread_order(vec_load(e->bias + c), vec_load(e->bias + c + VEC), b->bias);
    b->lo = vec_set(e->lo), b->hi = vec_set(e->hi);
}

/* Sums of pixel p to its elements. */
VEC_INLINE void store(const dn_dwconv_f32_job *job, const block *b, const vec acc[2], ptrdiff_t p, int32_t c) {
    vec v[2];
#pragma GCC unroll 2
    for (int s = 0; s < 2; s++) v[s] = vec_min(b->hi, vec_max(b->lo, vec_fma(acc[s], b->scale[s], b->bias[s])));
    __m512i halves;
    __asm__("vcvtne2ps2bf16 %1,%2,%0" : "=v"(halves) : "v"(v[0]), "v"(v[1]));
    _mm512_storeu_si512((elem *)job->output + p * job->out_step + c, _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), halves));
}

/* `rows` rows of a column: what stands in the place of a second row has weight 0, and is 0 itself. */
VEC_INLINE void load_column(const elem *x, ptrdiff_t in_row, const int rows, __m512i out[2]) {
    interleave(_mm512_loadu_si512(x), rows > 1 ? _mm512_loadu_si512(x + in_row) : _mm512_setzero_si512(), out);
}

/* One or two rows of the window; `apart` columns from pixel to pixel of a 3-wide window, else 0: any width and strides. */
VEC_INLINE void add_rows(vec acc[PIXELS][2], const dn_dwconv_f32_job *job, const elem *x, const __m512i (*weights)[2], const int pixels, const int apart, const int rows) {
    __m512i a[2];
    if (apart) {
#pragma GCC unroll 16
        for (int column = 0; column < apart * (pixels - 1) + 3; column++) {
            load_column(x + column * job->in_tap, job->in_row, rows, a);
#pragma GCC unroll 4
            for (int i = 0; i < pixels; i++) {
                const int kw = column - apart * i;
                if (kw < 0 || kw > 2) continue;
#pragma GCC unroll 2
                for (int s = 0; s < 2; s++) acc[i][s] = dot(acc[i][s], a[s], weights[kw][s]);
            }
        }
        return;
    }
    for (int32_t kw = 0; kw < job->kernel_w; kw++, x += job->in_tap)
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++) {
            load_column(x + i * job->in_step, job->in_row, rows, a);
#pragma GCC unroll 2
            for (int s = 0; s < 2; s++) acc[i][s] = dot(acc[i][s], a[s], weights[kw][s]);
        }
}

VEC_INLINE void dot_tile(const dn_dwconv_f32_job *job, const block *b, ptrdiff_t p, int32_t c, const int pixels, const int apart) {
    vec acc[PIXELS][2];
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++) acc[i][0] = acc[i][1] = vec_zero();
    const elem *x = (const elem *)job->input + job->kh_begin * job->in_row + p * job->in_step + c;
    const __m512i(*weights)[2] = b->weights;
    if (job->rows > 1) call_ahead(job, x - job->kh_begin * job->in_row, pixels);
    int32_t rows = job->kh_end - job->kh_begin;
    for (; rows > 1; rows -= 2, x += 2 * job->in_row, weights += job->kernel_w) add_rows(acc, job, x, weights, pixels, apart, 2);
    if (rows) add_rows(acc, job, x, weights, pixels, apart, 1);
    if (!(job->epilogue.flags & (DN_EPI_RESIDUAL | DN_EPI_HARDSWISH | DN_CONV_F32_OUT))) {
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++) store(job, b, acc[i], p + i, c);
        return;
    }
    float sums[PIXELS * BLOCK];
    for (int i = 0; i < pixels; i++) {
        vec ordered[2];
        channel_order(acc[i], ordered);
        for (int s = 0; s < 2; s++) vec_store(sums + i * BLOCK + s * VEC, ordered[s]);
    }
    finish_any(job, sums, p, pixels, c, BLOCK);
}

/* Rows of 32 channels; a row's last pixels are computed with some of those before them again. */
VEC_INLINE void dot_rows(const dn_dwconv_f32_job *job, int32_t c, const int apart) {
    dn_dwconv_f32_job at = *job;
    block b;
    prepare(&b, job, c);
    for (int32_t y = 0; y < job->rows; y++, dn_dwconv_f32_advance(&at, sizeof(elem))) {
        if (job->width < PIXELS)
            for (ptrdiff_t p = 0; p < job->width; p++) dot_tile(&at, &b, p, c, 1, 0);
        else
            for (ptrdiff_t p = 0; p < job->width; p += PIXELS) dot_tile(&at, &b, p + PIXELS > job->width ? job->width - PIXELS : p, c, PIXELS, apart);
    }
}

static VEC_TARGET void rows_any(const dn_dwconv_f32_job *job, int32_t c) { dot_rows(job, c, 0); }
static VEC_TARGET void rows_1(const dn_dwconv_f32_job *job, int32_t c) { dot_rows(job, c, 1); }
static VEC_TARGET void rows_2(const dn_dwconv_f32_job *job, int32_t c) { dot_rows(job, c, 2); }

static VEC_TARGET void run(const dn_dwconv_f32_job *job) {
    const bool fits = (job->kh_end - job->kh_begin + 1) / 2 * job->kernel_w <= MAX_COLUMNS, three = job->kernel_w == 3;
    int32_t c = 0;
    for (; fits && c + BLOCK <= job->channels; c += BLOCK) (three && job->in_step == job->in_tap ? rows_1 : three && job->in_step == 2 * job->in_tap ? rows_2 : rows_any)(job, c);
    run_from(job, c);
}

const dn_dwconv_bf16 dn_dwconv_bf16_avx512bf16 = {"avx512bf16", run};
#endif
