/* ref_float.h - the epilogue of the float kernels, one value at a time. */
#ifndef DN_KERNELS_REF_FLOAT_H
#define DN_KERNELS_REF_FLOAT_H

#include <math.h>
#include <stdbool.h>

#include "kernels/kernels.h"

/* Of two comparisons that mean "larger", this is the one maxps(a, b) makes: b where either is NaN or both are zero. */
static inline float larger(float a, float b) { return a > b ? a : b; }
static inline float smaller(float a, float b) { return a < b ? a : b; }

static inline float hardsigmoid(float x) { return smaller(1, larger(0, fmaf(x, 1.0f / 6, 0.5f))); }

/* Everything after v = fma(acc, scale, bias). */
static inline float finish(float v, float residual, const dn_epilogue *e) {
    if (e->flags & DN_EPI_RESIDUAL) v = fmaf(residual, e->residual_scale, v);
    if (e->flags & DN_EPI_HARDSWISH) {
        float t = hardsigmoid(v), y = v * t;
        v = fmaf(y, e->out_scale, e->out_zero);
    }
    return smaller(e->hi, larger(e->lo, v));
}

#endif
