/* linear_s8_neon_template.h - the linear layer on planes of nibbles in NEON, with or without the dot product.
 *
 * Everything is unsigned here, nibbles and, since shifts that insert put two of them together in one instruction, whole weights with their constant too: nothing needs the detour
 * over a - 128 that conv_s8 takes.
 *
 * The file that includes this defines TARGET (function attributes), PARTS (registers that hold the sums of 4 outputs), and
 *   dot(sum, w, a)   adds the products of 4 outputs x 4 channels with the 4 bytes that a repeats
 *   total(sum)       4 sums from the parts. */
#include "kernels/epilogue_neon.h"

enum { STEPS = 4 };

NEON_INLINE TARGET uint8x16_t repeat4(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, 4);
    return vreinterpretq_u8_u32(vdupq_n_u32(four));
}

/* 16 bytes of dn_plane_view: no nibble carries into its neighbour, and what a shift brings in from one is masked. */
NEON_INLINE TARGET uint8x16_t view(uint8x16_t high, const uint8_t *low, const int bits) {
    if (bits == 4) return high;
    const uint8x16_t x = vaddq_u8(high, vandq_u8(vshrq_n_u8(vld1q_u8(low), 3), vdupq_n_u8(0x11)));
    if (bits == 3) return vandq_u8(vshrq_n_u8(x, 1), vdupq_n_u8(0x77));
    return vandq_u8(vshrq_n_u8(vaddq_u8(x, vdupq_n_u8(0x11)), 2), vdupq_n_u8(0x33));
}

/* One step: the low halves of bytes 0-15 and 16-31 are outputs 0-3 and 4-7, the high halves 8-11 and 12-15. */
NEON_INLINE TARGET void multiply(uint32x4_t (*c)[PARTS], const uint8_t *a, const uint8_t *high, const uint8_t *low, const int bits) {
    const uint8x16_t four = repeat4(a);
    UNROLL for (int i = 0; i < 2; i++) {
        uint8x16_t x = vld1q_u8(high + 16 * i), first, second;
        if (bits == 8) {
            const uint8x16_t y = vld1q_u8(low + 16 * i);
            first = vsliq_n_u8(y, x, 4);
            second = vsriq_n_u8(x, y, 4);
        } else {
            x = view(x, low + 16 * i, bits);
            first = vandq_u8(x, vdupq_n_u8(15));
            second = vshrq_n_u8(x, 4);
        }
        dot(c[i], first, four);
        dot(c[2 + i], second, four);
    }
}

/* 16 sums of the panel that begins at byte `at` of both planes, each with what the weights' constant adds. */
NEON_INLINE TARGET void panel_sums(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4], const int bits) {
    uint32x4_t c[2][4][PARTS]; /* neighbouring steps add to sums of their own, since a sum has to wait for the one before */
    UNROLL for (int s = 0; s < 2; s++) UNROLL for (int i = 0; i < 4; i++) UNROLL for (int k = 0; k < PARTS; k++) c[s][i][k] = vdupq_n_u32(0);
    for (const dn_run *run = job->runs, *end = run + job->run_count; run != end; run++) {
        const uint8_t *a = job->input + run->input, *const stop = a + run->count;
        const size_t weight = at + (size_t)(run->weight / 4) * DN_PLANE_STEP;
        const uint8_t *high = job->high + weight, *low = job->low + weight;
        for (; stop - a >= 4 * STEPS; a += 4 * STEPS, high += STEPS * DN_PLANE_STEP, low += STEPS * DN_PLANE_STEP)
            UNROLL for (int k = 0; k < STEPS; k++) multiply(c[k % 2], a + 4 * k, high + DN_PLANE_STEP * k, low + DN_PLANE_STEP * k, bits);
        for (; a != stop; a += 4, high += DN_PLANE_STEP, low += DN_PLANE_STEP) multiply(c[0], a, high, low, bits);
    }
    const int32x4_t shift = vdupq_n_s32(bits == 8 ? 0 : 8 - bits);
    UNROLL for (int i = 0; i < 4; i++) acc[i] = vshlq_u32(vaddq_u32(total(c[0][i]), total(c[1][i])), shift);
}

typedef void panel_fn(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4]);
TARGET static void panel_8(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4]) { panel_sums(job, at, acc, 8); }
TARGET static void panel_4(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4]) { panel_sums(job, at, acc, 4); }
TARGET static void panel_3(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4]) { panel_sums(job, at, acc, 3); }
TARGET static void panel_2(const dn_linear_s8_job *job, size_t at, uint32x4_t acc[4]) { panel_sums(job, at, acc, 2); }

/* Every weight holds a constant too much: 136, or 128 at fewer than 8 bits. What that adds to every sum. */
NEON_INLINE TARGET uint32_t constant_share(const dn_linear_s8_job *job) {
    uint32_t sum = 0;
    for (const dn_run *run = job->runs, *end = run + job->run_count; run != end; run++) {
        const uint8_t *a = job->input + run->input, *const stop = a + run->count;
        for (; stop - a >= 16; a += 16) sum += vaddlvq_u8(vld1q_u8(a));
        for (; a != stop; a++) sum += *a;
    }
    return sum * (job->bits == 8 ? DN_PLANE_ZERO : 128);
}

/* Sums with their constant share may exceed 32 bits; those without do not, and arithmetic is modulo 2^32. */
TARGET static void run(const dn_linear_s8_job *job) {
    panel_fn *const sums = job->bits == 8 ? panel_8 : job->bits == 4 ? panel_4 : job->bits == 3 ? panel_3 : panel_2;
    const uint32x4_t share = vdupq_n_u32(constant_share(job));
    for (int panel = 0; panel < job->panels; panel++) {
        const int channel = 16 * panel, n = panel == job->panels - 1 ? job->last : 16;
        const epilogue16 e = epilogue16_load(&job->epilogue, channel);
        const uint8_t *residual = e.flags & DN_EPI_RESIDUAL ? job->residual + channel : NULL;
        uint32x4_t acc[4];
        int32x4_t finished[4];
        sums(job, (size_t)panel * job->panel_stride, acc);
        UNROLL for (int i = 0; i < 4; i++) finished[i] = vreinterpretq_s32_u32(vsubq_u32(acc[i], share));
        if (e.flags & DN_CONV_F32_OUT) finish_f32(finished, &e, residual, (float *)job->output + channel, n);
        else finish_u8(finished, &e, residual, (uint8_t *)job->output + channel, n);
    }
}
