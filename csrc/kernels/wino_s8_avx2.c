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
#include "kernels/wino_weights_avx2.h"

enum { QUAD = DN_WINO_QUAD };

/* ---- inputs ---- */

/* side is a constant. */
AVX2_INLINE void transform_channels(int side, int16_t *to, size_t position, const uint8_t *d, const dn_wino_s8_job *job, int n) {
    if (side == 4) transform_tile_4(to, position, d, job->in_row, job->in_step, n);
    else transform_tile_2(to, position, d, job->in_row, job->in_step, n);
}

/* Elements of the transformed inputs of a part, where weights are packed. */
AVX2_INLINE size_t part_size(const dn_wino_s8_job *job) { return (size_t)dn_wino_positions(job->side) * (size_t)job->tiles * DN_WINO_PART; }

/* Channel c of a tile goes to to[c / part * part_size + c % part]; from tile to tile it is `part` elements, from position to position `position`. */
AVX2_INLINE void transform_inputs(const dn_wino_s8_job *job, int16_t *to, int side, size_t position, int part, size_t part_size) {
    for (int tile = 0; tile < job->tiles; tile++, to += part) {
        const uint8_t *d = job->input + job->in_offset[tile];
        int c = 0;
        for (; c + 16 <= job->lanes; c += 16) transform_channels(side, to + (size_t)(c / part) * part_size + c % part, position, d + c, job, 16);
        if (job->lanes - c >= 8) transform_channels(side, to + (size_t)(c / part) * part_size + c % part, position, d + c, job, 8), c += 8;
        if (job->lanes > c) transform_channels(side, to + (size_t)(c / part) * part_size + c % part, position, d + c, job, 4);
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

AVX2_INLINE void store_products(int32_t *m, const __m256i c[QUAD][2], int halves) {
    UNROLL for (int i = 0; i < QUAD; i++) UNROLL for (int h = 0; h < halves; h++) _mm256_store_si256((__m256i *)(m + 16 * i + 8 * h), c[i][h]);
}

AVX2_INLINE void multiply_positions(const dn_wino_s8_job *job, const int16_t *inputs, const int16_t *panel, int32_t *products, int halves) {
    const size_t lanes = (size_t)job->lanes, v_stride = dn_wino_input_stride(job->tiles, job->lanes), m_stride = dn_wino_product_stride(job->tiles);
    for (int position = 0; position < dn_wino_positions(job->side); position++, panel += job->position_stride, inputs += v_stride, products += m_stride)
        for (int tile = 0; tile < job->tiles; tile += QUAD) {
            const int16_t *v = inputs + (size_t)tile * lanes;
            __m256i c[QUAD][2];
            multiply(c, v + job->runs[0].input, lanes, panel + job->runs[0].weight, job->runs[0].count, halves, 1);
            for (size_t r = 1; r < job->run_count; r++) multiply(c, v + job->runs[r].input, lanes, panel + job->runs[r].weight, job->runs[r].count, halves, 0);
            store_products(products + tile * 16, c, halves);
        }
}

/* The same for `count` channels of a part, whose transformed weights are at hand: products = or += theirs. */
AVX2_INLINE void multiply_part(const dn_wino_s8_job *job, const int16_t *inputs, const int16_t *weights, int32_t *products, int count, int halves, int start) {
    const size_t m_stride = dn_wino_product_stride(job->tiles);
    for (int position = 0; position < dn_wino_positions(job->side); position++, weights += dn_wino_part_stride(), products += m_stride) {
        int32_t *m = products;
        for (int tile = 0; tile < job->tiles; tile += QUAD, inputs += QUAD * DN_WINO_PART, m += QUAD * 16) {
            __m256i c[QUAD][2];
            if (!start) UNROLL for (int i = 0; i < QUAD; i++) UNROLL for (int h = 0; h < halves; h++) c[i][h] = _mm256_load_si256((const __m256i *)(m + 16 * i + 8 * h));
            multiply(c, inputs, DN_WINO_PART, weights, count, halves, start);
            store_products(m, c, halves);
        }
    }
}

#define PART(name, halves, start)                                                                                                               \
    AVX2 static void name(const dn_wino_s8_job *job, const int16_t *inputs, const int16_t *weights, int32_t *products, int count) {            \
        multiply_part(job, inputs, weights, products, count, halves, start);                                                                   \
    }
PART(start_half, 1, 1) PART(start_full, 2, 1) PART(resume_half, 1, 0) PART(resume_full, 2, 0)

AVX2 static void multiply_packed(const dn_wino_s8_job *job, const int16_t *inputs, const int8_t *panel, int16_t *part, int32_t *products, int full) {
    const wino_view view = {_mm_set1_epi8(job->view_add), _mm_set1_epi8(job->view_mask)};
    int start = 1;
    for (size_t r = 0; r < job->run_count; r++)
        for (int lane = job->runs[r].input, end = lane + job->runs[r].count, count; lane < end; lane += count, start = 0) {
            const int8_t *weights = panel + job->runs[r].weight + 16 * (lane - job->runs[r].input);
            const int16_t *from = inputs + (size_t)(lane / DN_WINO_PART) * part_size(job) + lane % DN_WINO_PART;
            count = DN_WINO_PART - lane % DN_WINO_PART < end - lane ? DN_WINO_PART - lane % DN_WINO_PART : end - lane;
            if (job->side == 4) transform_weights_4(part, dn_wino_part_stride(), weights, job->position_stride, count, &view);
            else transform_weights_2(part, dn_wino_part_stride(), weights, job->position_stride, count, &view);
            if (full) (start ? start_full : resume_full)(job, from, part, products, count);
            else (start ? start_half : resume_half)(job, from, part, products, count);
        }
}

AVX2 static void multiply_half(const dn_wino_s8_job *job, const int16_t *v, const int16_t *panel, int32_t *m) { multiply_positions(job, v, panel, m, 1); }
AVX2 static void multiply_full(const dn_wino_s8_job *job, const int16_t *v, const int16_t *panel, int32_t *m) { multiply_positions(job, v, panel, m, 2); }

/* ---- outputs ---- */

/* side x side sums of one tile, to their places. side is a constant; n, flags and real are where it matters. */
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

/* Functions of their own: they are large, and called from many places. */
AVX2 static void back_2(const int32_t *m, size_t position, __m256i *sums) { transform_back_2(m, position, sums); }
AVX2 static void back_4(const int32_t *m, size_t position, __m256i *sums) { transform_back_4(m, position, sums); }

AVX2_INLINE void transform_back(const int32_t *m, size_t position, __m256i (*sums)[2], int half, int side) {
    (side == 4 ? back_4 : back_2)(m + 8 * half, position, (__m256i *)sums + half);
}

/* Everything after the products of one panel: n channels of every tile. */
AVX2_INLINE void finish(const dn_wino_s8_job *job, const int32_t *m, int channel, uint32_t flags, int n, int real, int side, int paired) {
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, paired);
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

/* What is no whole panel, or has more to its epilogue. */
#define OTHERS(name, side, real) \
    AVX2 static void name(const dn_wino_s8_job *job, const int32_t *m, int channel, int n, int paired) { finish(job, m, channel, job->epilogue.flags, n, real, side, paired); }
OTHERS(finish_bytes_2, 2, 0) OTHERS(finish_bytes_4, 4, 0) OTHERS(finish_real_2, 2, 1) OTHERS(finish_real_4, 4, 1)

/* side and paired are constants. */
AVX2_INLINE void finish_panel_of(const dn_wino_s8_job *job, const int32_t *m, int channel, int n, int side, int paired) {
    enum { PLAIN = DN_EPI_BOUNDED, ADDING = DN_EPI_BOUNDED | DN_EPI_RESIDUAL };
    const uint32_t flags = job->epilogue.flags;
    if (n == 16 && flags == PLAIN) finish(job, m, channel, PLAIN, 16, 0, side, paired);
    else if (n == 16 && flags == ADDING) finish(job, m, channel, ADDING, 16, 0, side, paired);
    else if (flags == PLAIN && !paired) finish(job, m, channel, PLAIN, n, 0, side, 0);
    else if (flags == ADDING && !paired) finish(job, m, channel, ADDING, n, 0, side, 0);
    else if (flags & DN_CONV_F32_OUT) (side == 2 ? finish_real_2 : finish_real_4)(job, m, channel, n, paired);
    else (side == 2 ? finish_bytes_2 : finish_bytes_4)(job, m, channel, n, paired);
}

AVX2_INLINE void run_stored(const dn_wino_s8_job *job, int side) {
    int32_t *m = (int32_t *)(void *)job->scratch;
    int16_t *v = (int16_t *)(void *)(m + (size_t)dn_wino_positions(side) * dn_wino_product_stride(job->tiles));
    transform_inputs(job, v, side, dn_wino_input_stride(job->tiles, job->lanes), job->lanes, 0);
    for (int panel = 0; panel < job->panels; panel++) {
        const int16_t *weights = job->weights + (size_t)panel * job->panel_stride;
        const int n = panel == job->panels - 1 ? job->last : 16;
        if (n > 8) multiply_full(job, v, weights, m);
        else multiply_half(job, v, weights, m);
        finish_panel_of(job, m, 16 * panel, n, side, 0);
    }
}

AVX2_INLINE void run_packed(const dn_wino_s8_job *job, int side) {
    const size_t positions = (size_t)dn_wino_positions(side);
    int32_t *m = (int32_t *)(void *)job->scratch;
    int16_t *part = (int16_t *)(void *)(m + positions * dn_wino_product_stride(job->tiles)), *v = part + positions * dn_wino_part_stride();
    transform_inputs(job, v, side, (size_t)job->tiles * DN_WINO_PART, DN_WINO_PART, part_size(job));
    for (int panel = 0; panel < job->panels; panel++) {
        const int8_t *weights = job->packed + (size_t)panel * job->panel_stride;
        const int n = panel == job->panels - 1 ? job->last : 16;
        multiply_packed(job, v, weights, part, m, n > 8);
        finish_panel_of(job, m, 16 * panel, n, side, 1);
    }
}

AVX2 static void run_stored_2(const dn_wino_s8_job *job) { run_stored(job, 2); }
AVX2 static void run_stored_4(const dn_wino_s8_job *job) { run_stored(job, 4); }
AVX2 static void run_packed_2(const dn_wino_s8_job *job) { run_packed(job, 2); }
AVX2 static void run_packed_4(const dn_wino_s8_job *job) { run_packed(job, 4); }

static void run(const dn_wino_s8_job *job) {
    if (job->packed && job->side == 4) run_packed_4(job);
    else if (job->packed) run_packed_2(job);
    else if (job->side == 4) run_stored_4(job);
    else run_stored_2(job);
}

const dn_wino_s8 dn_wino_s8_avx2 = {.isa = "avx2", .run = run};

#endif
