/* dwconv_s8_neon.c - int8 depthwise convolution in NEON, any kernel size: both sides widened to 16 bits and multiplied into 32. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/epilogue_neon.h"

/* Adds 16 channels of a tap. */
NEON_INLINE void add_tap(int32x4_t sum[4], uint8x16_t bytes, int16x8_t low, int16x8_t high) {
    const int16x8_t a0 = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))), a1 = vreinterpretq_s16_u16(vmovl_high_u8(bytes));
    sum[0] = vmlal_s16(sum[0], vget_low_s16(a0), vget_low_s16(low));
    sum[1] = vmlal_high_s16(sum[1], a0, low);
    sum[2] = vmlal_s16(sum[2], vget_low_s16(a1), vget_low_s16(high));
    sum[3] = vmlal_high_s16(sum[3], a1, high);
}

/* `pixels` pixels of the row, n channels of which the input may be read up to a multiple of 4; pixels is a constant. */
NEON_INLINE void tile(const dn_dwconv_s8_job *job, const int8_t *weights, const epilogue16 *e, int x, int channel, int n, const int pixels) {
    const int8x16_t view_add = vdupq_n_s8(job->view_add), view_mask = vdupq_n_s8(job->view_mask);
    const ptrdiff_t step = job->in_step;
    int32x4_t c[4][4];
    UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int k = 0; k < 4; k++) c[i][k] = vdupq_n_s32(0);
    for (int kh = job->kh_begin; kh < job->kh_end; kh++) {
        const uint8_t *p = job->input + x * step + channel + kh * job->in_row;
        const int8_t *w = weights + (ptrdiff_t)kh * job->kernel_w * 16;
        for (int kw = 0; kw < job->kernel_w; kw++, p += job->in_tap, w += 16) {
            const int8x16_t viewed = vandq_s8(vqaddq_s8(vld1q_s8(w), view_add), view_mask);
            const int16x8_t low = vmovl_s8(vget_low_s8(viewed)), high = vmovl_high_s8(viewed);
            UNROLL for (int i = 0; i < pixels; i++) add_tap(c[i], load_bytes(p + i * step, n >= 16 ? 16 : (n + 3) & ~3), low, high);
        }
    }
    UNROLL for (int i = 0; i < pixels; i++) {
        const uint8_t *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + (x + i) * job->residual_step + channel : NULL;
        finish_u8(c[i], e, residual, job->output + (x + i) * job->out_step + channel, n);
    }
}

/* A block of 16 channels (or the n < 16 last ones) along the rows; the last tile of a row overlaps the one before. */
NEON_INLINE void block(const dn_dwconv_s8_job *job, int channel, int n) {
    const int8_t *weights = job->weights + (ptrdiff_t)(channel / 16) * job->kernel_h * job->kernel_w * 16;
    const epilogue16 e = epilogue16_load(&job->epilogue, channel);
    for (int y = 0; y < job->rows; y++) {
        const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
        if (job->width < 4)
            for (int x = 0; x < job->width; x++) tile(&row, weights, &e, x, channel, n, 1);
        else
            for (int x = 0; x < job->width; x += 4) tile(&row, weights, &e, x + 4 > job->width ? job->width - 4 : x, channel, n, 4);
    }
}

static void run(const dn_dwconv_s8_job *job) {
    int channel = 0;
    for (; channel + 16 <= job->channels; channel += 16) block(job, channel, 16);
    if (job->channels - channel == 8) block(job, channel, 8);
    else if (channel < job->channels) block(job, channel, job->channels - channel);
}

const dn_dwconv_s8 dn_dwconv_s8_neon = {.isa = "neon", .run = run};

#endif
