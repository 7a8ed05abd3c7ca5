/* pointwise_u8_ref.c - the definitions of the byte-wise operations on rows of pixels. */
#include <math.h>

#include "kernels/kernels.h"

static float clamp(float v, float lo, float hi) { return fminf(fmaxf(v, lo), hi); }

static void affine(const dn_pixels_u8 *job) {
    const dn_epilogue *e = &job->epilogue;
    for (int x = 0; x < job->width; x++)
        for (int c = 0; c < job->channels; c++) {
            float v = fmaf((float)job->input[x * job->in_step + c], e->scale[c], e->bias[c]);
            if (e->flags & DN_EPI_RESIDUAL) v = fmaf((float)job->residual[x * job->residual_step + c], e->residual_scale, v);
            if (e->flags & DN_EPI_HARDSWISH) {
                float t = clamp(fmaf(v, 1 / 6.0f, 0.5f), 0, 1);
                v = fmaf(v * t, e->out_scale, e->out_zero);
            }
            job->output[x * job->out_step + c] = (uint8_t)rintf(clamp(v, e->lo, e->hi));
        }
}

static void quantize(const float *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, float inverse_scale, float zero) {
    for (int i = 0; i < width; i++) {
        uint8_t *pixel = out + i * out_step;
        for (int c = 0; c < channels; c++) pixel[c] = (uint8_t)rintf(clamp(fmaf(x[(ptrdiff_t)i * channels + c], inverse_scale, zero), 0, 255));
        for (int c = channels; c % 4; c++) pixel[c] = (uint8_t)rintf(clamp(zero, 0, 255));
    }
}

static void lookup(const uint8_t *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t *table, uint8_t zero) {
    for (int i = 0; i < width; i++) {
        uint8_t *pixel = out + i * out_step;
        for (int c = 0; c < channels; c++) pixel[c] = table[(ptrdiff_t)c * 256 + x[(ptrdiff_t)i * channels + c]];
        for (int c = channels; c % 4; c++) pixel[c] = zero;
    }
}

static void dequantize(const uint8_t *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float scale, int32_t zero) {
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c++) out[i * out_step + c] = (float)(x[i * in_step + c] - zero) * scale;
}

static void mul(const uint8_t *a, ptrdiff_t a_step, int32_t za, const uint8_t *b, ptrdiff_t b_step, int32_t zb, uint8_t *out, ptrdiff_t out_step, int32_t width,
                int32_t channels, float factor, float zero, float lo, float hi) {
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c++) {
            int32_t product = (a[i * a_step + c] - za) * (b[i * b_step + c] - zb);
            out[i * out_step + c] = (uint8_t)rintf(clamp(fmaf((float)product, factor, zero), lo, hi));
        }
}

static void map(const uint8_t *x, ptrdiff_t in_step, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t table[256]) {
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c++) out[i * out_step + c] = table[x[i * in_step + c]];
}

const dn_pointwise_u8 dn_pointwise_u8_ref = {
    .isa = "ref", .affine = affine, .quantize = quantize, .lookup = lookup, .dequantize = dequantize, .mul = mul, .map = map};
