/* conv_bf16_ref.c - convolution tiles in bfloat16: the definition. */
#include "kernels/elem_bf16_ref.h"
#include "kernels/conv_float_ref.h"

static void widen(const uint16_t *x, float *out, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = widen_one(x[i]);
}

static void widen_weights(const uint16_t *weights, float *out, size_t channels) {
    for (size_t c = 0; c < channels; c++)
        for (int32_t output = 0; output < 16; output++) out[c * 16 + (size_t)output] = widen_one(weights[weight_place((int32_t)c, output)]);
}

const dn_conv_bf16 dn_conv_bf16_ref = {"ref", variants, sizeof variants / sizeof *variants, widen, widen_weights};
