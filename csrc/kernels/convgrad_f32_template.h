/* convgrad_f32_template.h - outer products of activations and output gradients for one ISA; needs its vectors (vec_*.h).
 *
 * The sums stay in registers over the whole map and take one fma per pixel in row-major order: any tile of any ISA gives the bits of `ref`, only the payload of a NaN is open. */
#include <stdbool.h>

#include "kernels/kernels.h"

enum { MAX_MR = 16, MAX_VECTORS = 6 };

/* Adds one pixel: its mr channels times its `vectors` vectors of gradients (the last under a mask unless whole), the shorter side kept in registers. */
VEC_INLINE void pixel(vec acc[MAX_MR][MAX_VECTORS], const float *x, const float *dy, vec_mask mask, const int mr, const int vectors, const bool whole) {
    vec a[MAX_MR], b[MAX_VECTORS];
    if (mr < vectors) {
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) a[i] = vec_spread(x + i);
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++) {
            vec g = whole || j < vectors - 1 ? vec_load(dy + j * VEC) : vec_load_mask(dy + j * VEC, mask);
#pragma GCC unroll 16
            for (int i = 0; i < mr; i++) vec_sum(&acc[i][j], a[i], g);
        }
        return;
    }
#pragma GCC unroll 6
    for (int j = 0; j < vectors; j++) b[j] = whole || j < vectors - 1 ? vec_load(dy + j * VEC) : vec_load_mask(dy + j * VEC, mask);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        if (vectors == 1) {
            vec_sum_spread(&acc[i][0], x + i, b[0]);
        } else {
            vec v = vec_spread(x + i);
#pragma GCC unroll 6
            for (int j = 0; j < vectors; j++) vec_sum(&acc[i][j], v, b[j]);
        }
    }
}

/* mr channels from `first` x the first `vectors` vectors of outputs; mr, vectors and whole are constants wherever this is called. */
VEC_INLINE void tile(const dn_convgrad_f32_job *job, ptrdiff_t first, const int mr, const int vectors, const bool whole) {
    vec acc[MAX_MR][MAX_VECTORS];
    float *dw = job->dw + first * 16;
    vec_mask mask = vec_first(job->last - (vectors - 1) % VECS * VEC);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++) acc[i][j] = vec_load(dw + i * 16 + (size_t)(j / VECS) * job->panel_stride + j % VECS * VEC);
    ptrdiff_t x_step = job->x_step, dy_step = job->dy_step;
    for (int32_t row = 0; row < job->rows; row++) {
        const float *x = job->x + first + row * job->x_row, *dy = job->dy + row * job->dy_row;
        for (int32_t n = job->columns; n > 0; n--, x += x_step, dy += dy_step) pixel(acc, x, dy, mask, mr, vectors, whole);
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++) {
            float *to = dw + i * 16 + (size_t)(j / VECS) * job->panel_stride + j % VECS * VEC;
            if (whole || j < vectors - 1) vec_store(to, acc[i][j]);
            else vec_store_mask(to, acc[i][j], mask);
        }
}
