/* pointwise_u8_neon.c - byte-wise operations on rows of pixels in NEON, 16 channels at a time. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/epilogue_neon.h"

NEON_INLINE int smaller(int a, int b) { return a < b ? a : b; }

/* ---- affine ---- */

NEON_INLINE void affine_block(const dn_pixels_u8 *job, const epilogue16 *e, int channel, int n) {
    for (int x = 0; x < job->width; x++) {
        const uint8_t *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + x * job->residual_step + channel : NULL;
        int32x4_t acc[4];
        widen16(load_bytes(job->input + x * job->in_step + channel, n), acc);
        finish_u8(acc, e, residual, job->output + x * job->out_step + channel, n);
    }
}

static void affine(const dn_pixels_u8 *job) {
    for (int channel = 0; channel < job->channels; channel += 16) {
        const epilogue16 e = epilogue16_load(&job->epilogue, channel);
        if (job->channels - channel >= 16) affine_block(job, &e, channel, 16);
        else affine_block(job, &e, channel, job->channels - channel);
    }
}

/* ---- quantize ---- */

NEON_INLINE uint8x16_t quantize16(const float32x4_t x[4], float32x4_t inverse_scale, float32x4_t zero) {
    int32x4_t q[4];
    UNROLL for (int i = 0; i < 4; i++) q[i] = clamp_round(vfmaq_f32(zero, x[i], inverse_scale), vdupq_n_f32(0), vdupq_n_f32(255));
    return pack16(q);
}

/* Lanes that are not loaded are 0 and so become `zero`, which is what pad lanes hold. */
NEON_INLINE void quantize_pixel(const float *x, uint8_t *out, int channels, float32x4_t inverse_scale, float32x4_t zero) {
    for (int c = 0; c < channels; c += 16) {
        float32x4_t v[4];
        UNROLL for (int i = 0; i < 4; i++) v[i] = load_floats(x + c + 4 * i, channels - c - 4 * i);
        store_bytes(out + c, quantize16(v, inverse_scale, zero), smaller(16, (channels - c + 3) & ~3));
    }
}

/* 3 channels, 4 pixels; reads one float beyond them. */
NEON_INLINE void quantize_rgb(const float *x, uint8_t *out, ptrdiff_t out_step, float32x4_t inverse_scale, float32x4_t zero) {
    float32x4_t v[4];
    uint8_t bytes[16];
    UNROLL for (int i = 0; i < 4; i++) v[i] = vsetq_lane_f32(0, vld1q_f32(x + 3 * i), 3);
    vst1q_u8(bytes, quantize16(v, inverse_scale, zero));
    for (int i = 0; i < 4; i++) memcpy(out + i * out_step, bytes + 4 * i, 4);
}

static void quantize(const float *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, float inverse_scale, float zero) {
    const float32x4_t inverse = vdupq_n_f32(inverse_scale), zeros = vdupq_n_f32(zero);
    int i = 0;
    if (channels == 3)
        for (; i + 4 < width; i += 4) quantize_rgb(x + 3 * i, out + i * out_step, out_step, inverse, zeros);
    for (; i < width; i++) quantize_pixel(x + (ptrdiff_t)i * channels, out + i * out_step, channels, inverse, zeros);
}

/* ---- tables ---- */

static void lookup(const uint8_t *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t *table, uint8_t zero) {
    for (int i = 0; i < width; i++, x += channels, out += out_step) {
        for (int c = 0; c < channels; c++) out[c] = table[(ptrdiff_t)c * 256 + x[c]];
        for (int c = channels; c % 4; c++) out[c] = zero;
    }
}

/* 256 entries as 4 look-ups of 64: an index that is out of range leaves what is there. */
NEON_INLINE uint8x16_t map16(uint8x16_t x, const uint8x16x4_t table[4]) {
    uint8x16_t result = vqtbl4q_u8(table[0], x);
    UNROLL for (int i = 1; i < 4; i++) result = vqtbx4q_u8(result, table[i], vsubq_u8(x, vdupq_n_u8((uint8_t)(64 * i))));
    return result;
}

NEON_INLINE void map_run(const uint8_t *x, uint8_t *out, ptrdiff_t count, const uint8_t *entries, const uint8x16x4_t table[4]) {
    ptrdiff_t i = 0;
    for (; i + 16 <= count; i += 16) vst1q_u8(out + i, map16(vld1q_u8(x + i), table));
    for (; i < count; i++) out[i] = entries[x[i]];
}

static void map(const uint8_t *x, ptrdiff_t in_step, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t table[256]) {
    const uint8x16x4_t parts[4] = {vld1q_u8_x4(table), vld1q_u8_x4(table + 64), vld1q_u8_x4(table + 128), vld1q_u8_x4(table + 192)};
    if (in_step == channels && out_step == channels) map_run(x, out, (ptrdiff_t)width * channels, table, parts);
    else
        for (int i = 0; i < width; i++) map_run(x + i * in_step, out + i * out_step, channels, table, parts);
}

/* ---- dequantize, mul ---- */

static void dequantize(const uint8_t *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float scale, int32_t zero) {
    const int32x4_t zeros = vdupq_n_s32(zero);
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c += 16) {
            const int n = smaller(16, channels - c);
            float *to = out + i * out_step + c;
            int32x4_t q[4];
            widen16(load_bytes(x + i * in_step + c, n), q);
            UNROLL for (int k = 0; k < 4; k++) store_floats(to + 4 * k, vmulq_n_f32(vcvtq_f32_s32(vsubq_s32(q[k], zeros)), scale), n - 4 * k);
        }
}

/* (a - za) * (b - zb) of 16 bytes. */
NEON_INLINE void products(uint8x16_t a, uint8x16_t b, int16x8_t za, int16x8_t zb, int32x4_t to[4]) {
    const int16x8_t a0 = vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))), za), a1 = vsubq_s16(vreinterpretq_s16_u16(vmovl_high_u8(a)), za);
    const int16x8_t b0 = vsubq_s16(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(b))), zb), b1 = vsubq_s16(vreinterpretq_s16_u16(vmovl_high_u8(b)), zb);
    to[0] = vmull_s16(vget_low_s16(a0), vget_low_s16(b0));
    to[1] = vmull_high_s16(a0, b0);
    to[2] = vmull_s16(vget_low_s16(a1), vget_low_s16(b1));
    to[3] = vmull_high_s16(a1, b1);
}

static void mul(const uint8_t *a, ptrdiff_t a_step, int32_t za, const uint8_t *b, ptrdiff_t b_step, int32_t zb, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels,
                float factor, float zero, float lo, float hi) {
    const int16x8_t zero_a = vdupq_n_s16((int16_t)za), zero_b = vdupq_n_s16((int16_t)zb);
    const float32x4_t factors = vdupq_n_f32(factor), zeros = vdupq_n_f32(zero), los = vdupq_n_f32(lo), his = vdupq_n_f32(hi);
    for (int i = 0; i < width; i++)
        for (int c = 0; c < channels; c += 16) {
            const int n = smaller(16, channels - c);
            int32x4_t q[4];
            products(load_bytes(a + i * a_step + c, n), load_bytes(b + i * b_step + c, n), zero_a, zero_b, q);
            UNROLL for (int k = 0; k < 4; k++) q[k] = clamp_round(vfmaq_f32(zeros, vcvtq_f32_s32(q[k]), factors), los, his);
            store_bytes(out + i * out_step + c, pack16(q), n);
        }
}

const dn_pointwise_u8 dn_pointwise_u8_neon = {
    .isa = "neon", .affine = affine, .quantize = quantize, .lookup = lookup, .dequantize = dequantize, .mul = mul, .map = map};

#endif
