/* wino_s8_avx2.c - integer Winograd convolution with vpmaddwd.
 *
 * Without a byte dot product the direct kernel multiplies 16-bit numbers anyhow, so the transformed inputs and weights, which need 16 bits, cost nothing extra: 16 products do the
 * work of 36, or 36 that of 144. Three passes over a block of tiles that stays in the L1 cache: transform the inputs of all channels; per panel multiply position by position, 4 tiles x 16
 * outputs in registers; transform back and finish. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/madd_avx2.h"
#include "kernels/wino2_avx2.h"
#include "kernels/wino4_avx2.h"

enum { QUAD = DN_WINO_QUAD };

/* ---- inputs ---- */

/* side is a constant. */
AVX2_INLINE void transform_channels(int side, int16_t *to, size_t position, const uint8_t *d, const dn_wino_s8_job *job, int n) {
    if (side == 4) transform_tile_4(to, position, d, job->in_row, job->in_step, n);
    else transform_tile_2(to, position, d, job->in_row, job->in_step, n);
}

AVX2_INLINE void transform_inputs(const dn_wino_s8_job *job, int16_t *to, int side) {
    const size_t position = dn_wino_input_stride(job->tiles, job->lanes);
    for (int tile = 0; tile < job->tiles; tile++, to += job->lanes) {
        const uint8_t *d = job->input + job->in_offset[tile];
        int c = 0;
        for (; c + 16 <= job->lanes; c += 16) transform_channels(side, to + c, position, d + c, job, 16);
        if (job->lanes - c >= 8) transform_channels(side, to + c, position, d + c, job, 8), c += 8;
        if (job->lanes > c) transform_channels(side, to + c, position, d + c, job, 4);
    }
}

/* ---- products ---- */

AVX2_INLINE __m256i broadcast_pair(const int16_t *p) {
    int32_t pair;
    memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
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
            if (halves == 2) multiply_add_two(c[i], a, b[0], b[1]);
            else multiply_add(&c[i][0], a, b[0]);
        }
    }
}

AVX2_INLINE void multiply_positions(const dn_wino_s8_job *job, const int16_t *inputs, const int16_t *panel, int32_t *products, int halves) {
    const size_t lanes = (size_t)job->lanes, v_stride = dn_wino_input_stride(job->tiles, job->lanes), m_stride = dn_wino_product_stride(job->tiles);
    for (int position = 0; position < dn_wino_positions(job->side); position++, panel += job->position_stride, inputs += v_stride, products += m_stride)
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

/* side x side sums of one tile, to their places. side, n, flags and real are constants where it matters. */
AVX2_INLINE void finish_tile(const dn_wino_s8_job *job, const epilogue16 *e, uint32_t flags, const __m256i (*sums)[2], int tile, int channel, int n, int side, int real) {
    const int adds = (flags & DN_EPI_RESIDUAL) != 0;
    const uint8_t *residual = adds ? job->residual + job->residual_offset[tile] + channel : NULL;
    ptrdiff_t out = job->out_offset[tile] + channel, from = 0;
    for (int y = 0; y < side; y++, out += job->out_row, from += job->residual_row)
        UNROLL for (int x = 0; x < side; x += 2, sums += 2) {
            const ptrdiff_t to = out + x * job->out_step;
            const uint8_t *add = adds ? residual + from + x * job->residual_step : NULL;
            if (!real) {
                finish_two_u8(sums[0], sums[1], e, flags, add, job->residual_step, (uint8_t *)job->output + to, job->out_step, n);
                continue;
            }
            finish_f32(sums[0][0], sums[0][1], e, add, (float *)job->output + to, n);
            finish_f32(sums[1][0], sums[1][1], e, adds ? add + job->residual_step : NULL, (float *)job->output + to + job->out_step, n);
        }
}

AVX2_INLINE void transform_back(const int32_t *m, size_t position, __m256i (*sums)[2], int half, int side) {
    if (side == 4) transform_back_4(m + 8 * half, position, (__m256i *)sums + half);
    else transform_back_2(m + 8 * half, position, (__m256i *)sums + half);
}

/* Everything after the products of one panel: n channels of every tile. */
AVX2_INLINE void finish(const dn_wino_s8_job *job, const int32_t *m, int channel, uint32_t flags, int n, int real, int side) {
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
    const size_t position = dn_wino_product_stride(job->tiles);
    __m256i sums[DN_WINO_SIDE * DN_WINO_SIDE][2];
    if (n <= 8)
        for (int i = 0; i < side * side; i++) sums[i][1] = _mm256_setzero_si256();
    for (int tile = 0; tile < job->tiles; tile++, m += 16) {
        transform_back(m, position, sums, 0, side);
        if (n > 8) transform_back(m, position, sums, 1, side);
        finish_tile(job, &e, flags, (const __m256i(*)[2])sums, tile, channel, n, side, real);
    }
}

AVX2_INLINE void finish_panel_of(const dn_wino_s8_job *job, const int32_t *m, int channel, int n, int side) {
    const uint32_t flags = job->epilogue.flags;
    if (n == 16 && flags == 0) finish(job, m, channel, 0, 16, 0, side);
    else if (n == 16 && flags == DN_EPI_RESIDUAL) finish(job, m, channel, DN_EPI_RESIDUAL, 16, 0, side);
    else if (flags & DN_CONV_F32_OUT) finish(job, m, channel, flags, n, 1, side);
    else if (n % 8 == 0) finish(job, m, channel, flags, n == 8 ? 8 : 16, 0, side);
    else finish(job, m, channel, flags, n, 0, side);
}

AVX2_INLINE void run_side(const dn_wino_s8_job *job, int side) {
    int32_t *m = (int32_t *)(void *)job->scratch;
    int16_t *v = (int16_t *)(void *)(job->scratch + (size_t)dn_wino_positions(side) * dn_wino_product_stride(job->tiles) * sizeof *m);
    transform_inputs(job, v, side);
    for (int panel = 0; panel < job->panels; panel++) {
        const int16_t *weights = job->weights + (size_t)panel * job->panel_stride;
        const int n = panel == job->panels - 1 ? job->last : 16;
        if (n > 8) multiply_full(job, v, weights, m);
        else multiply_half(job, v, weights, m);
        finish_panel_of(job, m, 16 * panel, n, side);
    }
}

AVX2 static void run_2(const dn_wino_s8_job *job) { run_side(job, 2); }
AVX2 static void run_4(const dn_wino_s8_job *job) { run_side(job, 4); }

static void run(const dn_wino_s8_job *job) {
    if (job->side == 4) run_4(job);
    else run_2(job);
}

const dn_wino_s8 dn_wino_s8_avx2 = {.isa = "avx2", .run = run};

#endif
