/* pointwise_f32_ref.c - element-wise float operations on rows of pixels, written for reading. */
#include <string.h>

#include "kernels/ref_f32.h"
#include "kernels/sigmoid_f32.h"

static void affine(const dn_pixels_f32 *job) {
    const dn_epilogue *e = &job->epilogue;
    for (int32_t p = 0; p < job->width; p++)
        for (int32_t c = 0; c < job->channels; c++) {
            const float *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + p * job->residual_step + c : NULL;
            float v = fmaf(job->input[p * job->in_step + c], e->scale[c], e->bias[c]);
            job->output[p * job->out_step + c] = finish(v, residual, e);
        }
}

static void mul(const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels) {
    for (int32_t p = 0; p < width; p++)
        for (int32_t c = 0; c < channels; c++) out[p * out_step + c] = a[p * a_step + c] * b[p * b_step + c];
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

static void sigmoid(const float *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels) {
    for (int32_t p = 0; p < width; p++)
        for (int32_t c = 0; c < channels; c++) out[p * out_step + c] = sigmoid_one(x[p * in_step + c]);
}

static void hardsigmoid_row(const float *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels) {
    for (int32_t p = 0; p < width; p++)
        for (int32_t c = 0; c < channels; c++) out[p * out_step + c] = hardsigmoid(x[p * in_step + c]);
}

static void leaky_relu(const float *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float slope) {
    for (int32_t p = 0; p < width; p++)
        for (int32_t c = 0; c < channels; c++) {
            float v = x[p * in_step + c];
            out[p * out_step + c] = v > 0 ? v : v * slope;
        }
}

const dn_pointwise_f32 dn_pointwise_f32_ref = {"ref", affine, mul, sigmoid, hardsigmoid_row, leaky_relu};
