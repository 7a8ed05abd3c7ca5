/* product_f32_template.h - rows of floats times panels of weights for one ISA; needs its vectors (vec_*.h). Sums as in conv_f32, and nothing done to them. */
#include "kernels/kernels.h"
#include "kernels/float_sums_template.h"

/* mr rows, or the `left` that there are: instead of others the last is read again. All are read before any is written. */
VEC_INLINE void rows(const dn_product_f32_job *job, const float *x, float *out, const int32_t left, const int mr, const int vectors) {
    vec acc[MAX_MR][MAX_VECTORS];
    const float *base[MAX_MR];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
        base[i] = x + (i < left ? i : left - 1) * job->in_step;
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) acc[i][j] = vec_zero();
    }
    sum_runs(acc, base, job->runs, job->run_count, job->weights, job->panel_stride, mr, vectors, 0);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++, out += job->out_step) {
        if (i >= left) break;
#pragma GCC unroll 8
        for (int j = 0; j < vectors; j++) vec_store(out + j * VEC, acc[i][j]);
    }
}

/* PRODUCT_APART where what lives around the rows' loop would cost it registers. */
#define PRODUCT(MR, NR) PRODUCT_AS(MR, NR, inline __attribute__((always_inline)))
#define PRODUCT_APART(MR, NR) PRODUCT_AS(MR, NR, __attribute__((noinline)))
#define PRODUCT_AS(MR, NR, HOW) \
    static HOW VEC_TARGET void whole_##MR##x##NR(const dn_product_f32_job *job, const float *x, float *out) { rows(job, x, out, MR, MR, (NR) * VECS); } \
    static __attribute__((noinline)) VEC_TARGET void some_##MR##x##NR(const dn_product_f32_job *job, const float *x, float *out, int32_t left) { rows(job, x, out, left, MR, (NR) * VECS); } \
    static VEC_TARGET void run_##MR##x##NR(const dn_product_f32_job *job) { \
        int32_t row = 0; \
        for (; row + MR <= job->rows; row += MR) whole_##MR##x##NR(job, job->x + row * job->in_step, job->out + row * job->out_step); \
        if (row < job->rows) some_##MR##x##NR(job, job->x + row * job->in_step, job->out + row * job->out_step, job->rows - row); \
    }
#define PRODUCT_VARIANT(MR, NR) {run_##MR##x##NR, MR, NR}
