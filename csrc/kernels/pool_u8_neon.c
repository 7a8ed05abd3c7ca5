/* pool_u8_neon.c - pooling over a clipped window of bytes in NEON, 16 channels at a time. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/epilogue_neon.h"

NEON_INLINE const uint8_t *pixel_at(const dn_window *window, int row, int column, int channel) {
    return (const uint8_t *)window->input + row * window->in_row + column * window->in_tap + channel;
}

NEON_INLINE void max16(const dn_window *window, uint8_t *out, int channel, int n) {
    uint8x16_t best = vdupq_n_u8(0);
    for (int row = 0; row < window->rows; row++)
        for (int column = 0; column < window->columns; column++) best = vmaxq_u8(best, load_bytes(pixel_at(window, row, column, channel), n));
    store_bytes(out + channel, best, n);
}

static void max(const dn_window *window, uint8_t *out) {
    int c = 0;
    for (; c + 16 <= window->channels; c += 16) max16(window, out, c, 16);
    if (c < window->channels) max16(window, out, c, window->channels - c);
}

/* 16-bit sums of at most 256 pixels to 32 bits. */
NEON_INLINE void move_sums(uint16x8_t sum[2], uint32x4_t total[4]) {
    UNROLL for (int i = 0; i < 2; i++) {
        total[2 * i] = vaddw_u16(total[2 * i], vget_low_u16(sum[i]));
        total[2 * i + 1] = vaddw_high_u16(total[2 * i + 1], sum[i]);
        sum[i] = vdupq_n_u16(0);
    }
}

NEON_INLINE void avg16(const dn_window *window, uint8_t *out, int channel, int n, float32x4_t factor, float32x4_t bias) {
    uint16x8_t sum[2] = {vdupq_n_u16(0), vdupq_n_u16(0)};
    uint32x4_t total[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    int32x4_t q[4];
    int held = 0;
    for (int row = 0; row < window->rows; row++)
        for (int column = 0; column < window->columns; column++) {
            const uint8x16_t bytes = load_bytes(pixel_at(window, row, column, channel), n);
            sum[0] = vaddw_u8(sum[0], vget_low_u8(bytes));
            sum[1] = vaddw_high_u8(sum[1], bytes);
            if (++held < 256) continue;
            move_sums(sum, total);
            held = 0;
        }
    move_sums(sum, total);
    UNROLL for (int i = 0; i < 4; i++) q[i] = clamp_round(vfmaq_f32(bias, vcvtq_f32_u32(total[i]), factor), vdupq_n_f32(0), vdupq_n_f32(255));
    store_bytes(out + channel, pack16(q), n);
}

static void avg(const dn_window *window, uint8_t *out, float factor, float bias) {
    const float32x4_t factors = vdupq_n_f32(factor), biases = vdupq_n_f32(bias);
    int c = 0;
    for (; c + 16 <= window->channels; c += 16) avg16(window, out, c, 16, factors, biases);
    if (c < window->channels) avg16(window, out, c, window->channels - c, factors, biases);
}

const dn_pool_u8 dn_pool_u8_neon = {.isa = "neon", .max = max, .avg = avg};

#endif
