/* epilogue_neon.h - the epilogue of kernels.h for 16 channels of one pixel in NEON, shared by the byte kernels: four registers of four channels. */
#ifndef DN_KERNELS_EPILOGUE_NEON_H
#define DN_KERNELS_EPILOGUE_NEON_H

#include <arm_neon.h>
#include <string.h>

#include "kernels/kernels.h"

#define NEON_INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* n bytes (at most 16), touching no others; the rest is 0. */
NEON_INLINE uint8x16_t load_bytes(const uint8_t *p, int n) {
    if (n >= 16) return vld1q_u8(p);
    if (n == 8) return vcombine_u8(vld1_u8(p), vdup_n_u8(0));
    uint8_t tail[16] = {0};
    memcpy(tail, p, (size_t)n);
    return vld1q_u8(tail);
}

NEON_INLINE void store_bytes(uint8_t *p, uint8x16_t bytes, int n) {
    if (n >= 16) {
        vst1q_u8(p, bytes);
    } else if (n == 8) {
        vst1_u8(p, vget_low_u8(bytes));
    } else {
        uint8_t tail[16];
        vst1q_u8(tail, bytes);
        memcpy(p, tail, (size_t)n);
    }
}

/* The first n of four floats. */
NEON_INLINE float32x4_t load_floats(const float *p, int n) {
    if (n >= 4) return vld1q_f32(p);
    float tail[4] = {0};
    for (int i = 0; i < n; i++) tail[i] = p[i];
    return vld1q_f32(tail);
}

NEON_INLINE void store_floats(float *p, float32x4_t v, int n) {
    float tail[4];
    if (n >= 4) {
        vst1q_f32(p, v);
        return;
    }
    vst1q_f32(tail, v);
    for (int i = 0; i < n; i++) p[i] = tail[i];
}

/* 16 bytes as integers. */
NEON_INLINE void widen16(uint8x16_t bytes, int32x4_t to[4]) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    to[0] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low)));
    to[1] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low)));
    to[2] = vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high)));
    to[3] = vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)));
}

/* fmaxnm and fminnm are fmaxf and fminf: a NaN becomes lo. Then round to nearest even. */
NEON_INLINE int32x4_t clamp_round(float32x4_t v, float32x4_t lo, float32x4_t hi) { return vcvtnq_s32_f32(vminnmq_f32(vmaxnmq_f32(v, lo), hi)); }

/* 16 integers 0..255 to bytes. */
NEON_INLINE uint8x16_t pack16(const int32x4_t q[4]) {
    const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1])), high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    return vcombine_u8(vreinterpret_u8_s8(vmovn_s16(low)), vreinterpret_u8_s8(vmovn_s16(high)));
}

/* What stays the same over the pixels of one panel. */
typedef struct epilogue16 {
    float32x4_t scale[4], bias[4], residual_scale, lo, hi, out_scale, out_zero;
    uint32_t flags;
} epilogue16;

NEON_INLINE epilogue16 epilogue16_load(const dn_epilogue *e, ptrdiff_t channel) {
    epilogue16 r = {.residual_scale = vdupq_n_f32(e->residual_scale),
                    .lo = vdupq_n_f32(e->lo),
                    .hi = vdupq_n_f32(e->hi),
                    .out_scale = vdupq_n_f32(e->out_scale),
                    .out_zero = vdupq_n_f32(e->out_zero),
                    .flags = e->flags};
    UNROLL for (int i = 0; i < 4; i++) {
        r.scale[i] = vld1q_f32(e->scale + channel + 4 * i);
        r.bias[i] = vld1q_f32(e->bias + channel + 4 * i);
    }
    return r;
}

NEON_INLINE float32x4_t hardswish(float32x4_t v, const epilogue16 *e) {
    float32x4_t t = vfmaq_f32(vdupq_n_f32(0.5f), v, vdupq_n_f32(1 / 6.0f));
    t = vminnmq_f32(vmaxnmq_f32(t, vdupq_n_f32(0)), vdupq_n_f32(1));
    return vfmaq_f32(e->out_zero, vmulq_f32(v, t), e->out_scale);
}

/* v += residual bytes * residual_scale. */
NEON_INLINE void add_residual(float32x4_t v[4], const uint8_t *residual, int n, const epilogue16 *e) {
    int32x4_t r[4];
    widen16(load_bytes(residual, n), r);
    UNROLL for (int i = 0; i < 4; i++) v[i] = vfmaq_f32(v[i], vcvtq_f32_s32(r[i]), e->residual_scale);
}

/* acc -> n bytes at out. */
NEON_INLINE void finish_u8(const int32x4_t acc[4], const epilogue16 *e, const uint8_t *residual, uint8_t *out, int n) {
    float32x4_t v[4];
    int32x4_t q[4];
    UNROLL for (int i = 0; i < 4; i++) v[i] = vfmaq_f32(e->bias[i], vcvtq_f32_s32(acc[i]), e->scale[i]);
    if (e->flags & DN_EPI_RESIDUAL) add_residual(v, residual, n, e);
    if (e->flags & DN_EPI_HARDSWISH) {
        UNROLL for (int i = 0; i < 4; i++) v[i] = hardswish(v[i], e);
    }
    UNROLL for (int i = 0; i < 4; i++) q[i] = clamp_round(v[i], e->lo, e->hi);
    store_bytes(out, pack16(q), n);
}

/* acc -> n floats at out, added to what is there with DN_CONV_ACCUMULATE. */
NEON_INLINE void finish_f32(const int32x4_t acc[4], const epilogue16 *e, const uint8_t *residual, float *out, int n) {
    float32x4_t v[4];
    UNROLL for (int i = 0; i < 4; i++) {
        const float32x4_t base = e->flags & DN_CONV_ACCUMULATE ? load_floats(out + 4 * i, n - 4 * i) : e->bias[i];
        v[i] = vfmaq_f32(base, vcvtq_f32_s32(acc[i]), e->scale[i]);
    }
    if (e->flags & DN_EPI_RESIDUAL) add_residual(v, residual, n, e);
    UNROLL for (int i = 0; i < 4; i++) store_floats(out + 4 * i, v[i], n - 4 * i);
}

#endif
