/* epilogue_float_template.h - the epilogue of the float kernels on one vector; needs the vectors of an ISA (vec_*.h). */
#include <stdbool.h>

#include "kernels/kernels.h"

/* min(max(fma(x, 1/6, .5), 0), 1) */
VEC_INLINE vec hardsigmoid(vec x) { return vec_min(vec_set(1), vec_max(vec_zero(), vec_fma(x, vec_set(1.0f / 6), vec_set(0.5f)))); }

/* Everything after the residual. */
VEC_INLINE vec finish(vec v, const dn_epilogue *e) {
    if (e->flags & DN_EPI_HARDSWISH) v = vec_fma(vec_mul(v, hardsigmoid(v)), vec_set(e->out_scale), vec_set(e->out_zero));
    return vec_min(vec_set(e->hi), vec_max(vec_set(e->lo), v));
}
