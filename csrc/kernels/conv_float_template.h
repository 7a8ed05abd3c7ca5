/* conv_float_template.h - float convolution tiles of one ISA; needs its vectors (vec_*.h) and elements (elem_*.h), which are what outputs and residuals are made of.
 *
 * Every sum starts at 0 and takes one fma per product, entries in order, channels in order, but of bfloat16 the second of two before the first: any tile of any ISA gives the bits of `ref`, only the payload of a NaN is open.
 * The sums stay in registers over the whole list: mr * vectors of them, the weights of one channel and one activation must fit. */
#include "kernels/epilogue_float_template.h"
#include "kernels/float_sums_template.h"

enum { FLOATS = sizeof(elem) == sizeof(float) };

/* The epilogue of the tiles finish_plain does not take, from sums in memory. */
static __attribute__((noinline)) VEC_TARGET void finish_any(const dn_conv_f32_job *job, const float *sums, int mr, int width, int channels, bool pointer) {
    const dn_epilogue *e = &job->epilogue;
    bool wide = FLOATS || e->flags & DN_CONV_F32_OUT;
    for (int i = 0; i < mr; i++, sums += width) {
        ptrdiff_t at = pointer ? job->out_offset[i] : i * job->out_step;
        float *real = (float *)job->output + at;
        elem *output = (elem *)job->output + at;
        const float *bias = e->flags & DN_CONV_ACCUMULATE ? real : e->bias;
        const elem *residual = NULL;
        if (e->flags & DN_EPI_RESIDUAL) residual = (const elem *)job->residual + (pointer ? job->residual_offset[i] : i * job->residual_step);
        int c = 0;
        for (; c + VEC <= channels; c += VEC) {
            vec v = vec_fma(vec_load(sums + c), vec_load(e->scale + c), vec_load(bias + c));
            if (residual) v = vec_fma(elem_load(residual + c), vec_set(e->residual_scale), v);
            if (wide) vec_store(real + c, finish(v, e));
            else elem_store(output + c, finish(v, e));
        }
        if (c < channels) {
            vec_mask m = vec_first(channels - c);
            vec v = vec_fma(vec_load(sums + c), vec_load_mask(e->scale + c, m), vec_load_mask(bias + c, m));
            if (residual) v = vec_fma(elem_load_mask(residual + c, m), vec_set(e->residual_scale), v);
            if (wide) vec_store_mask(real + c, finish(v, e), m);
            else elem_store_mask(output + c, finish(v, e), m);
        }
    }
}

/* The epilogue of whole vectors without hardswish and accumulation, straight from registers. */
VEC_INLINE void finish_plain(const dn_conv_f32_job *job, vec acc[MAX_MR][MAX_VECTORS], const int mr, const int vectors, const bool pointer, const bool add) {
    const dn_epilogue *e = &job->epilogue;
    vec lo = vec_set(e->lo), hi = vec_set(e->hi);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        elem *output = (elem *)job->output + (pointer ? job->out_offset[i] : i * job->out_step);
        const elem *residual = NULL;
        if (add) residual = (const elem *)job->residual + (pointer ? job->residual_offset[i] : i * job->residual_step);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) {
            vec v = vec_fma(acc[i][j], vec_load(e->scale + j * VEC), vec_load(e->bias + j * VEC));
            if (add) v = vec_fma(elem_load(residual + j * VEC), vec_set(e->residual_scale), v);
            acc[i][j] = vec_min(hi, vec_max(lo, v));
            if (FLOATS || vectors < VECS) elem_store(output + j * VEC, acc[i][j]);
            else if (j % VECS == VECS - 1) elem_store_panel(output + j / VECS * 16, &acc[i][j - (VECS - 1)]);
        }
    }
}

/* The epilogue of a tile whose sums stand in registers. */
VEC_INLINE void finish_tile(const dn_conv_f32_job *job, vec acc[MAX_MR][MAX_VECTORS], const int mr, const int vectors, const bool pointer) {
    int channels = 16 * ((vectors + VECS - 1) / VECS - 1) + job->last;
    uint32_t flags = job->epilogue.flags & ~(uint32_t)(FLOATS ? DN_CONV_F32_OUT : 0);
    if (channels == vectors * VEC && flags == 0) {
        finish_plain(job, acc, mr, vectors, pointer, false);
    } else if (channels == vectors * VEC && flags == DN_EPI_RESIDUAL) {
        finish_plain(job, acc, mr, vectors, pointer, true);
    } else {
        float sums[MAX_MR * MAX_VECTORS * VEC];
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++)
#pragma GCC unroll 8
            for (int j = 0; j < vectors; j++) vec_store(sums + (i * vectors + j) * VEC, acc[i][j]);
        finish_any(job, sums, mr, vectors * VEC, channels, pointer);
    }
}

/* mr pixels x the first `vectors` vectors of output channels, from float activations and weights; mr, vectors and pointer are constants wherever this is called. */
VEC_INLINE void tile(const dn_conv_f32_job *job, const int mr, const int vectors, const bool pointer) {
    vec acc[MAX_MR][MAX_VECTORS];
    const float *base[MAX_MR];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        base[i] = (const float *)job->input + (pointer ? job->in_offset[i] : i * job->in_step);
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) acc[i][j] = vec_zero();
    }
    sum_runs(acc, base, job->runs, job->run_count, (const float *)job->weights, job->panel_stride, mr, vectors, !FLOATS);
    finish_tile(job, acc, mr, vectors, pointer);
}

#define TILE_ROW(MR, NR) \
    static VEC_TARGET void row_##MR##x##NR(const dn_conv_f32_job *job) { tile(job, MR, (NR) * VECS, false); }
#define TILE_POINTER(MR, NR) \
    static VEC_TARGET void pointer_##MR##x##NR(const dn_conv_f32_job *job) { tile(job, MR, (NR) * VECS, true); }
#define TILE_BOTH(MR, NR) TILE_ROW(MR, NR) TILE_POINTER(MR, NR)
#define VARIANT_ROW(MR, NR) {row_##MR##x##NR, MR, NR, DN_FORM_ROW, true}
#define VARIANT_BOTH(MR, NR) VARIANT_ROW(MR, NR), {pointer_##MR##x##NR, MR, NR, DN_FORM_POINTER, true}
