/* ref_s8.h - the epilogue of the int8 convolutions, one value at a time. */
#ifndef DN_KERNELS_REF_S8_H
#define DN_KERNELS_REF_S8_H

#include <math.h>

#include "kernels/kernels.h"

/* A weight as nested precision sees it. */
static inline int8_t view_weight(int weight, int8_t add, int8_t mask) {
    int sum = weight + add;
    sum = sum < -128 ? -128 : sum > 127 ? 127 : sum;
    return (int8_t)(sum & mask);
}

/* The sum of output channel `channel` to element `at` of the output; `residual` points at the byte that is added where the flags ask for one. */
static inline void store_s8(const dn_epilogue *e, int32_t acc, size_t channel, void *output, ptrdiff_t at, const uint8_t *residual) {
    float v, *out_f32 = (float *)output;
    if (e->flags & DN_CONV_ACCUMULATE) v = fmaf((float)acc, e->scale[channel], out_f32[at]);
    else v = fmaf((float)acc, e->scale[channel], e->bias[channel]);
    if (e->flags & DN_EPI_RESIDUAL) v = fmaf((float)*residual, e->residual_scale, v);
    if (e->flags & DN_CONV_F32_OUT) {
        out_f32[at] = v;
        return;
    }
    if (e->flags & DN_EPI_HARDSWISH) {
        float t = fminf(fmaxf(fmaf(v, 1 / 6.0f, 0.5f), 0), 1);
        v = fmaf(v * t, e->out_scale, e->out_zero);
    }
    v = fminf(fmaxf(v, e->lo), e->hi);
    ((uint8_t *)output)[at] = (uint8_t)rintf(v);
}

#endif
