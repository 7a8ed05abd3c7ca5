/* pointwise_float_ref.h - element-wise float operations on rows of pixels, written for reading; needs elements (elem_*_ref.h). */
#include <string.h>

#include "kernels/sigmoid_f32.h"

static void affine(const dn_pixels_f32 *job) {
    const dn_epilogue *e = &job->epilogue;
    for (int32_t p = 0; p < job->width; p++)
        for (int32_t c = 0; c < job->channels; c++) {
            float residual = e->flags & DN_EPI_RESIDUAL ? widen_one(((const elem *)job->residual)[p * job->residual_step + c]) : 0;
            float v = fmaf(widen_one(((const elem *)job->input)[p * job->in_step + c]), e->scale[c], e->bias[c]);
            ((elem *)job->output)[p * job->out_step + c] = narrow(finish(v, residual, e));
        }
}

static void mul(const void *first, ptrdiff_t a_step, const void *second, ptrdiff_t b_step, void *output, ptrdiff_t out_step, int32_t width, int32_t channels) {
    const elem *a = first, *b = second;
    elem *out = output;
    for (int32_t p = 0; p < width; p++)
        for (int32_t c = 0; c < channels; c++) out[p * out_step + c] = narrow(widen_one(a[p * a_step + c]) * widen_one(b[p * b_step + c]));
}

/* 1 / (1 + e^-|x|), mirrored for x < 0; the exponential is spelled out so that vectors repeat it bit for bit. */
static float sigmoid_one(float x) {
    float a = larger(SIGMOID_LOWEST, -fabsf(x));
    float z = fmaf(a, SIGMOID_LOG2E, SIGMOID_ROUND), n = z - SIGMOID_ROUND;
    float r = fmaf(n, -SIGMOID_LN2_LOW, fmaf(n, -SIGMOID_LN2_HIGH, a));
    float p = SIGMOID_C7;
    p = fmaf(p, r, SIGMOID_C6);
    p = fmaf(p, r, SIGMOID_C5);
    p = fmaf(p, r, SIGMOID_C4);
    p = fmaf(p, r, SIGMOID_C3);
    p = fmaf(p, r, SIGMOID_C2);
    p = fmaf(p * r, r, r) + 1;
    uint32_t bits;
    float power;
    memcpy(&bits, &z, 4);
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, 4);
    float e = p * power;
    return (x < 0 ? e : 1) / (1 + e);
}

static float leaky_one(float x, float slope) { return x > 0 ? x : x * slope; }

#define ROWS(expression)                                          \
    for (int32_t p = 0; p < width; p++)                           \
        for (int32_t c = 0; c < channels; c++) {                  \
            float v = widen_one(((const elem *)x)[p * in_step + c]);  \
            ((elem *)out)[p * out_step + c] = narrow(expression); \
        }

static void sigmoid(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels) { ROWS(sigmoid_one(v)) }
static void hardsigmoid_row(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels) { ROWS(hardsigmoid(v)) }
static void leaky_relu(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels, float slope) { ROWS(leaky_one(v, slope)) }
