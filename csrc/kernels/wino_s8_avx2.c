/* wino_s8_avx2.c - integer Winograd convolution with vpmaddwd.
 *
 * Without a byte dot product the direct kernel multiplies 16-bit numbers anyhow, so the transformed inputs and weights, which need 16 bits, cost nothing extra and 16 products do
 * the work of 36. Three passes over a block of tiles that stays in the L1 cache: transform the inputs of all channels; per panel multiply position by position, 4 tiles x 16
 * outputs in registers; transform back and finish. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/epilogue_avx2.h"

enum { SIDE = 4, QUAD = DN_WINO_QUAD };
#define UNROLL _Pragma("GCC unroll 16")

/* ---- inputs ---- */

/* n = 16, 8 or 4 channels as 16-bit numbers. */
AVX2_INLINE __m256i load_channels(const uint8_t *p, int n) {
    int32_t four;
    if (n == 16) return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    if (n == 8) return _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p)));
    memcpy(&four, p, 4);
    return _mm256_castsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
}

AVX2_INLINE void store_channels(int16_t *p, __m256i v, int n) {
    if (n == 16) _mm256_storeu_si256((__m256i *)p, v);
    else if (n == 8) _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(v));
    else _mm_storel_epi64((__m128i *)p, _mm256_castsi256_si128(v));
}

/* One row of B' d, times B. */
AVX2_INLINE void transform_row(int16_t *to, size_t position, const __m256i t[SIDE], int n) {
    store_channels(to, _mm256_sub_epi16(t[0], t[2]), n);
    store_channels(to + position, _mm256_add_epi16(t[1], t[2]), n);
    store_channels(to + 2 * position, _mm256_sub_epi16(t[2], t[1]), n);
    store_channels(to + 3 * position, _mm256_sub_epi16(t[1], t[3]), n);
}

/* n channels of one tile; `position` elements from one position to the next. */
AVX2_INLINE void transform_tile(int16_t *to, size_t position, const uint8_t *d, ptrdiff_t row, ptrdiff_t step, int n) {
    __m256i d1[SIDE], d2[SIDE], t[SIDE];
    UNROLL for (int x = 0; x < SIDE; x++) d2[x] = load_channels(d + 2 * row + x * step, n);
    UNROLL for (int x = 0; x < SIDE; x++) t[x] = _mm256_sub_epi16(load_channels(d + x * step, n), d2[x]);
    transform_row(to, position, t, n);
    UNROLL for (int x = 0; x < SIDE; x++) d1[x] = load_channels(d + row + x * step, n);
    UNROLL for (int x = 0; x < SIDE; x++) t[x] = _mm256_add_epi16(d1[x], d2[x]);
    transform_row(to + SIDE * position, position, t, n);
    UNROLL for (int x = 0; x < SIDE; x++) t[x] = _mm256_sub_epi16(d2[x], d1[x]);
    transform_row(to + 2 * SIDE * position, position, t, n);
    UNROLL for (int x = 0; x < SIDE; x++) t[x] = _mm256_sub_epi16(d1[x], load_channels(d + 3 * row + x * step, n));
    transform_row(to + 3 * SIDE * position, position, t, n);
}

AVX2 static void transform_inputs(const dn_wino_s8_job *job, int16_t *to) {
    const size_t position = dn_wino_input_stride(job->tiles, job->lanes);
    for (int tile = 0; tile < job->tiles; tile++, to += job->lanes) {
        const uint8_t *d = job->input + job->in_offset[tile];
        int c = 0;
        for (; c + 16 <= job->lanes; c += 16) transform_tile(to + c, position, d + c, job->in_row, job->in_step, 16);
        if (job->lanes - c >= 8) transform_tile(to + c, position, d + c, job->in_row, job->in_step, 8), c += 8;
        if (job->lanes > c) transform_tile(to + c, position, d + c, job->in_row, job->in_step, 4);
    }
}

/* ---- products ---- */

AVX2_INLINE __m256i broadcast_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
}

/* An add the compiler cannot reassociate over unrolled steps. */
AVX2_INLINE __m256i add(__m256i acc, __m256i product) {
    __asm__("vpaddd %1,%0,%0" : "+x"(acc) : "x"(product));
    return acc;
}

/* 4 tiles x 8 * halves outputs of one position: c = or += the run's products. */
AVX2_INLINE void multiply(__m256i c[QUAD][2], const int16_t *v, size_t lanes, const int16_t *w, int count, int halves, int start) {
    int k = 0;
    if (start) {
        UNROLL for (int h = 0; h < halves; h++) {
            const __m256i b = _mm256_loadu_si256((const __m256i *)(w + 16 * h));
            UNROLL for (int i = 0; i < QUAD; i++) c[i][h] = _mm256_madd_epi16(broadcast_pair(v + (size_t)i * lanes), b);
        }
        k = 2, w += 32;
    }
    for (; k < count; k += 2, w += 32) {
        __m256i b[2];
        UNROLL for (int h = 0; h < halves; h++) b[h] = _mm256_loadu_si256((const __m256i *)(w + 16 * h));
        UNROLL for (int i = 0; i < QUAD; i++) {
            const __m256i a = broadcast_pair(v + (size_t)i * lanes + k);
            UNROLL for (int h = 0; h < halves; h++) c[i][h] = add(c[i][h], _mm256_madd_epi16(a, b[h]));
        }
    }
}

AVX2_INLINE void multiply_positions(const dn_wino_s8_job *job, const int16_t *inputs, const int16_t *panel, int32_t *products, int halves) {
    const size_t lanes = (size_t)job->lanes, v_stride = dn_wino_input_stride(job->tiles, job->lanes), m_stride = dn_wino_product_stride(job->tiles);
    for (int position = 0; position < DN_WINO_POSITIONS; position++, panel += job->position_stride, inputs += v_stride, products += m_stride)
        for (int tile = 0; tile < job->tiles; tile += QUAD) {
            const int16_t *v = inputs + (size_t)tile * lanes;
            int32_t *m = products + tile * 16;
            __m256i c[QUAD][2];
            multiply(c, v + job->runs[0].input, lanes, panel + job->runs[0].weight, job->runs[0].count, halves, 1);
            for (size_t r = 1; r < job->run_count; r++) multiply(c, v + job->runs[r].input, lanes, panel + job->runs[r].weight, job->runs[r].count, halves, 0);
            UNROLL for (int i = 0; i < QUAD; i++) UNROLL for (int h = 0; h < halves; h++) _mm256_store_si256((__m256i *)(m + 16 * i + 8 * h), c[i][h]);
        }
}

AVX2 static void multiply_half(const dn_wino_s8_job *job, const int16_t *v, const int16_t *panel, int32_t *m) { multiply_positions(job, v, panel, m, 1); }
AVX2 static void multiply_full(const dn_wino_s8_job *job, const int16_t *v, const int16_t *panel, int32_t *m) { multiply_positions(job, v, panel, m, 2); }

/* ---- outputs ---- */

/* (A' m A) / 4 of 8 outputs of one tile; `position` elements from one position to the next. */
AVX2_INLINE void transform_back(const int32_t *m, size_t position, __m256i sum[2][2]) {
    __m256i t[2][SIDE];
    UNROLL for (int x = 0; x < SIDE; x++) {
        const __m256i *p = (const __m256i *)(const void *)(m + (size_t)x * position), m1 = p[position / 2], m2 = p[position];
        t[0][x] = _mm256_add_epi32(_mm256_add_epi32(m1, m2), p[0]);
        t[1][x] = _mm256_sub_epi32(_mm256_sub_epi32(m1, m2), p[position / 2 * 3]);
    }
    UNROLL for (int y = 0; y < 2; y++) {
        sum[y][0] = _mm256_srai_epi32(_mm256_add_epi32(_mm256_add_epi32(t[y][0], t[y][1]), t[y][2]), 2);
        sum[y][1] = _mm256_srai_epi32(_mm256_sub_epi32(_mm256_sub_epi32(t[y][1], t[y][2]), t[y][3]), 2);
    }
}

/* Everything after the products of one panel: n channels of every tile. */
AVX2_INLINE void finish(const dn_wino_s8_job *job, const int32_t *m, int channel, int n, int real) {
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
    const size_t position = dn_wino_product_stride(job->tiles);
    const int adds = (e.flags & DN_EPI_RESIDUAL) != 0;
    for (int tile = 0; tile < job->tiles; tile++, m += 16) {
        __m256i low[2][2], high[2][2] = {{_mm256_setzero_si256(), _mm256_setzero_si256()}, {_mm256_setzero_si256(), _mm256_setzero_si256()}};
        transform_back(m, position, low);
        if (n > 8) transform_back(m + 8, position, high);
        const uint8_t *residual = adds ? job->residual + job->residual_offset[tile] + channel : NULL;
        ptrdiff_t out = job->out_offset[tile] + channel;
        UNROLL for (int i = 0; i < 4; i++) {
            const ptrdiff_t to = out + i / 2 * job->out_row + i % 2 * job->out_step;
            const uint8_t *from = adds ? residual + i / 2 * job->residual_row + i % 2 * job->residual_step : NULL;
            if (real) finish_f32(low[i / 2][i % 2], high[i / 2][i % 2], &e, from, (float *)job->output + to, n);
            else finish_u8(low[i / 2][i % 2], high[i / 2][i % 2], &e, from, (uint8_t *)job->output + to, n);
        }
    }
}

AVX2 static void finish_panel_of(const dn_wino_s8_job *job, const int32_t *m, int channel, int n) {
    if (job->epilogue.flags & DN_CONV_F32_OUT) finish(job, m, channel, n, 1);
    else if (n == 16) finish(job, m, channel, 16, 0);
    else if (n == 8) finish(job, m, channel, 8, 0);
    else finish(job, m, channel, n, 0);
}

AVX2 static void run(const dn_wino_s8_job *job) {
    int32_t *m = (int32_t *)(void *)job->scratch;
    int16_t *v = (int16_t *)(void *)(job->scratch + DN_WINO_POSITIONS * dn_wino_product_stride(job->tiles) * sizeof *m);
    transform_inputs(job, v);
    for (int panel = 0; panel < job->panels; panel++) {
        const int16_t *weights = job->weights + (size_t)panel * job->panel_stride;
        const int n = panel == job->panels - 1 ? job->last : 16;
        if (n > 8) multiply_full(job, v, weights, m);
        else multiply_half(job, v, weights, m);
        finish_panel_of(job, m, 16 * panel, n);
    }
}

const dn_wino_s8 dn_wino_s8_avx2 = {.isa = "avx2", .run = run};

#endif
