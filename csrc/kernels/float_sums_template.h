/* float_sums_template.h - sums of products of floats in registers, for tiles of pixels and output channels of one ISA; needs its vectors (vec_*.h). mr and vectors are constants wherever
 * these are called. */
enum { MAX_MR = 16, MAX_PANELS = 4, MAX_VECTORS = 8 };

/* Channel k of every pixel times its weights, the shorter side kept in registers; w[p] is the weights' place in panel p. */
VEC_INLINE void step(vec acc[MAX_MR][MAX_VECTORS], const float *const *x, ptrdiff_t k, const float *const *w, ptrdiff_t u, const int mr, const int vectors) {
    vec a[MAX_MR], b[MAX_VECTORS];
    if (mr < vectors) {
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) a[i] = vec_spread(x[i] + k + u);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            vec weights = vec_load(w[j / VECS] + 16 * u + j % VECS * VEC);
#pragma GCC unroll 16
            for (int i = 0; i < mr; i++) vec_sum(&acc[i][j], a[i], weights);
        }
        return;
    }
#pragma GCC unroll 8
    for (int j = 0; j < vectors; j++) b[j] = vec_load(w[j / VECS] + 16 * u + j % VECS * VEC);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        if (vectors == 1) {
            vec_sum_spread(&acc[i][0], x[i] + k + u, b[0]);
        } else {
            vec v = vec_spread(x[i] + k + u);
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) vec_sum(&acc[i][j], v, b[j]);
        }
    }
}

/* Adds all runs of channels of the pixels at `base` times their weights: one fma each, entries in order, channels in order or, `paired`, the second of two before the first. */
VEC_INLINE void sum_runs(vec acc[MAX_MR][MAX_VECTORS], const float *const *base, const dn_run *runs, size_t run_count, const float *weights, size_t panel_stride, const int mr,
                         const int vectors, const int paired) {
    const int nr = (vectors + VECS - 1) / VECS;
    const float *x[MAX_MR], *w[MAX_PANELS];
    for (const dn_run *run = runs, *end = run + run_count; run < end; run++) {
        /* Channels are counted up to 0 from pointers behind the last one: one index for all pixels, no limit to keep. The empty assembly makes gcc leave it so; it would give
         * every pixel and step a pointer of its own, and run out of registers. */
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) x[i] = base[i] + run->input + run->count;
#pragma GCC unroll 4
        for (int p = 0; p < nr; p++) w[p] = weights + run->weight + (size_t)p * panel_stride;
        ptrdiff_t k = -(ptrdiff_t)run->count;
        for (; k <= -4; k += 4) {
            __asm__("" : "+r"(k));
#pragma GCC unroll 4
            for (int p = 0; p < nr; p++) __asm__("" : "+r"(w[p]));
#pragma GCC unroll 4
            for (int u = 0; u < 4; u++) {
                step(acc, x, k, w, u ^ paired, mr, vectors);
                vec_fence();
            }
#pragma GCC unroll 16
            for (int i = 0; i < mr; i++)
#pragma GCC unroll 8
                for (int j = 0; j < vectors; j++) vec_settle(&acc[i][j]);
#pragma GCC unroll 4
            for (int p = 0; p < nr; p++) w[p] += 64;
        }
        if (paired && k <= -2) {
            __asm__("" : "+r"(k));
            step(acc, x, k, w, 1, mr, vectors);
            step(acc, x, k, w, 0, mr, vectors);
            k += 2;
#pragma GCC unroll 4
            for (int p = 0; p < nr; p++) w[p] += 32;
        }
#pragma GCC unroll 1
        for (; k < 0; k++) {
            __asm__("" : "+r"(k));
            step(acc, x, k, w, 0, mr, vectors);
#pragma GCC unroll 4
            for (int p = 0; p < nr; p++) w[p] += 16;
        }
    }
}
