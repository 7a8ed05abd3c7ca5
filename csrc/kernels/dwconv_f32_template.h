/* dwconv_f32_template.h - rows of a float depthwise convolution for one ISA; needs its vectors (vec_*.h).
 *
 * Every sum starts at 0 and takes one fma per tap in the window's order, as in `ref`. Four pixels share each weight; what is left of the row is done by twos and ones. */
#include "kernels/epilogue_f32_template.h"

enum { MAX_PIXELS = 4, MAX_VECTORS = 2 };

/* Vectors of channels from c on; the last is under the mask unless whole. */
typedef struct block {
    const dn_dwconv_f32_job *job;
    int32_t c;
    vec_mask mask;
} block;

VEC_INLINE vec load(const float *x, vec_mask mask, const bool whole) { return whole ? vec_load(x) : vec_load_mask(x, mask); }

/* `pixels` output pixels from p on; pixels, vectors and whole are constants wherever this is called. */
VEC_INLINE void tile(const block *b, int32_t p, const int pixels, const int vectors, const bool whole) {
    const dn_dwconv_f32_job *job = b->job;
    vec acc[MAX_PIXELS][MAX_VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) acc[i][j] = vec_zero();
    const float *input = job->input + p * job->in_step + b->c;
    const float *weights = job->weights + (ptrdiff_t)(b->c / 16) * job->kernel_h * job->kernel_w * 16 + b->c % 16;
    ptrdiff_t step = job->in_step;
    for (int32_t kh = job->kh_begin; kh < job->kh_end; kh++) {
        const float *x = input + kh * job->in_row, *w = weights + (ptrdiff_t)kh * job->kernel_w * 16;
        for (int32_t kw = job->kernel_w; kw > 0; kw--, x += job->in_tap, w += 16) {
#pragma GCC unroll 2
            for (int j = 0; j < vectors; j++) {
                vec weight = vec_load(w + j * VEC);
#pragma GCC unroll 4
                for (int i = 0; i < pixels; i++) acc[i][j] = vec_fma(load(x + i * step + j * VEC, b->mask, whole || j < vectors - 1), weight, acc[i][j]);
            }
        }
    }
    const dn_epilogue *e = &job->epilogue;
    bool add = e->flags & DN_EPI_RESIDUAL;
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; j++) {
            const bool full = whole || j < vectors - 1;
            ptrdiff_t c = b->c + j * VEC;
            vec v = vec_fma(acc[i][j], load(e->scale + c, b->mask, full), load(e->bias + c, b->mask, full));
            if (add) v = vec_fma(load(job->residual + (p + i) * job->residual_step + c, b->mask, full), vec_set(e->residual_scale), v);
            v = finish(v, e);
            float *output = job->output + (p + i) * job->out_step + c;
            if (full) vec_store(output, v);
            else vec_store_mask(output, v, b->mask);
        }
}

VEC_INLINE void row(const block *b, const int vectors, const bool whole) {
    int32_t p = 0, width = b->job->width;
    for (; p + 4 <= width; p += 4) tile(b, p, 4, vectors, whole);
    if (p + 2 <= width) tile(b, p, 2, vectors, whole), p += 2;
    if (p < width) tile(b, p, 1, vectors, whole);
}

static VEC_TARGET void run(const dn_dwconv_f32_job *job) {
    for (int32_t c = 0; c < job->channels; c += 16) {
        int n = job->channels - c < 16 ? job->channels - c : 16;
        block b = {job, c, vec_first(n)};
        if (n == 16) {
            row(&b, VECS, true);
            continue;
        }
        if (n >= VEC) {
            row(&b, 1, true);
            b.c += VEC;
            n -= VEC;
            b.mask = vec_first(n);
        }
        if (n > 0) row(&b, 1, false);
    }
}
