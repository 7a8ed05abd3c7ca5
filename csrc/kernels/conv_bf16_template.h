/* conv_bf16_template.h - what a bfloat16 convolution of one ISA has besides the tiles of conv_float_template.h, which is to be included first.
 *
 * Widening a number takes an instruction of the units that multiply, and a tile of several pixels would do it to every activation for every two vectors of products. So what
 * such tiles read is widened before, once for many of them. One pixel reads everything once: there it is done on the way, and half the bytes take half the time. */

/* One pixel x the first `vectors` vectors of output channels, a constant; sums as everywhere. */
VEC_INLINE void single(const dn_conv_f32_job *job, const int vectors) {
    const int nr = (vectors + VECS - 1) / VECS;
    vec acc[MAX_MR][MAX_VECTORS];
    const elem *w[MAX_PANELS];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; j++) acc[0][j] = vec_zero();
    for (const dn_run *run = job->runs, *end = run + job->run_count; run < end; run++) {
        const elem *x = (const elem *)job->input + run->input;
#pragma GCC unroll 4
        for (int p = 0; p < nr; p++) w[p] = (const elem *)job->weights + run->weight + (size_t)p * job->panel_stride;
        int32_t c = 0;
        for (; c + 2 <= run->count; c += 2, x += 2) {
            elem_pairs pair = elem_spread_pair(x);
            vec first = elem_first(pair), second = elem_second(pair);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) {
                elem_pairs weights = elem_load_pairs(w[j / VECS] + j % VECS * 2 * VEC);
                elem_sum_pair(&acc[0][j], first, elem_first(weights), second, elem_second(weights));
            }
#pragma GCC unroll 4
            for (int p = 0; p < nr; p++) w[p] += 32;
        }
        if (c == run->count) continue;
        vec one = elem_first(elem_spread_one(x));
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) vec_sum(&acc[0][j], one, elem_first(elem_load_pairs(w[j / VECS] + j % VECS * 2 * VEC)));
    }
    finish_tile(job, acc, 1, vectors, false);
}

static VEC_TARGET void widen(const uint16_t *x, float *out, size_t count) {
    size_t i = 0;
    for (; i + VEC <= count; i += VEC) vec_store(out + i, elem_load(x + i));
    if (i < count) vec_store_mask(out + i, elem_load_mask(x + i, vec_first((int)(count - i))), vec_first((int)(count - i)));
}

static VEC_TARGET void widen_weights(const uint16_t *weights, float *out, size_t channels) {
    for (size_t c = 0; c < channels; c += 2, weights += 32, out += 32)
#pragma GCC unroll 2
        for (int j = 0; j < VECS; j++) {
            elem_pairs pairs = elem_load_pairs(weights + j * 2 * VEC);
            vec_store(out + j * VEC, elem_first(pairs));
            if (c + 1 < channels) vec_store(out + 16 + j * VEC, elem_second(pairs));
        }
}

#define SINGLE(NR) \
    static VEC_TARGET void single_##NR(const dn_conv_f32_job *job) { single(job, (NR) * VECS); }
#define VARIANT_SINGLE(NR) {single_##NR, 1, NR, DN_FORM_ROW, false}
