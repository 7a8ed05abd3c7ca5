/* conv_s8_neon_template.h - int8 convolution tiles of NEON, with or without the dot product.
 *
 * Both multiply signed by signed bytes, so activations enter as a - 128 (their top bit flipped). What is missing then, 128 times the sum of the weights a tile has met, is counted
 * beside the tile, once for all its pixels, and added before the epilogue: the sums are those of `ref`, and a_offset is 0. Leaving it to the bias instead (a_offset 128) would
 * round it to float in another place, and the last bit of a result would depend on the CPU.
 *
 * The file that includes this defines TARGET (function attributes) and PARTS (registers that hold the sums of 4 outputs), and
 *   dot(sum, w, a, k)    adds the products of 4 outputs x 4 channels with the 4 bytes at lane k of a
 *   total(sum)           4 sums from the parts
 *   weight_sums(s, w)    adds each output's 4 weights. */
#include "kernels/epilogue_neon.h"

enum { MAX_MR = 8 };

NEON_INLINE TARGET int8x16_t load_weights(const int8_t *p, const int view, int8x16_t view_add, int8x16_t view_mask) {
    const int8x16_t w = vld1q_s8(p);
    return view ? vandq_s8(vqaddq_s8(w, view_add), view_mask) : w;
}

/* 4 * steps channels of a pixel, less 128. */
NEON_INLINE TARGET int8x16_t load_channels(const uint8_t *p, const int steps) {
    uint32_t four;
    if (steps == 4) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80)));
    memcpy(&four, p, 4);
    return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(vsetq_lane_u32(four, vdupq_n_u32(0), 0)), vdupq_n_u8(0x80)));
}

/* mr pixels by 4 * groups outputs from output 4 * first on; mr, groups, steps and view are constants. */
NEON_INLINE TARGET void tile(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, int32x4_t (*acc)[4], int first, const int mr, const int groups,
                             const int steps, const int view) {
    const int8x16_t view_add = vdupq_n_s8(job->view_add), view_mask = vdupq_n_s8(job->view_mask);
    const uint8_t *p[MAX_MR];
    int32x4_t c[MAX_MR][4][PARTS], beside[4];
    UNROLL for (int g = 0; g < groups; g++) beside[g] = vdupq_n_s32(0);
    UNROLL for (int i = 0; i < mr; i++) {
        p[i] = pixel[i];
        UNROLL for (int g = 0; g < groups; g++) UNROLL for (int k = 0; k < PARTS; k++) c[i][g][k] = vdupq_n_s32(0);
    }
    weights += 16 * first;
    for (const dn_tap *t = job->taps, *end = t + job->tap_count; t != end; t++) {
        int8x16_t a[MAX_MR];
        UNROLL for (int i = 0; i < mr; i++) a[i] = load_channels(p[i] + t->input, steps);
        UNROLL for (int k = 0; k < steps; k++) UNROLL for (int g = 0; g < groups; g++) {
            const int8x16_t w = load_weights(weights + t->weight + 64 * k + 16 * g, view, view_add, view_mask);
            beside[g] = weight_sums(beside[g], w);
            UNROLL for (int i = 0; i < mr; i++) dot(c[i][g], w, a[i], k);
        }
    }
    UNROLL for (int i = 0; i < mr; i++) UNROLL for (int g = 0; g < groups; g++) acc[i][first + g] = vaddq_s32(total(c[i][g]), vshlq_n_s32(beside[g], 7));
}

typedef void tile_fn(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, int32x4_t (*acc)[4], int first);

/* A register tile for each number of steps, seen through the bit view or not. */
#define TILE(mr, groups, steps)                                                                                                                            \
    TARGET static void tile_##mr##_##steps(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, int32x4_t(*acc)[4], int first) {     \
        tile(job, weights, pixel, acc, first, mr, groups, steps, 0);                                                                                       \
    }                                                                                                                                                      \
    TARGET static void tile_view_##mr##_##steps(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, int32x4_t(*acc)[4], int first) { \
        tile(job, weights, pixel, acc, first, mr, groups, steps, 1);                                                                                       \
    }

NEON_INLINE TARGET void finish_panel(const dn_conv_s8_job *job, int32x4_t (*acc)[4], int panel, int mr, int n, const ptrdiff_t *out, const ptrdiff_t *residual) {
    const int channel = 16 * panel;
    const epilogue16 e = epilogue16_load(&job->epilogue, channel);
    for (int i = 0; i < mr; i++) {
        const uint8_t *add = e.flags & DN_EPI_RESIDUAL ? job->residual + residual[i] + channel : NULL;
        if (e.flags & DN_CONV_F32_OUT) finish_f32(acc[i], &e, add, (float *)job->output + out[i] + channel, n);
        else if (n == 16) finish_u8(acc[i], &e, add, (uint8_t *)job->output + out[i] + channel, 16);
        else finish_u8(acc[i], &e, add, (uint8_t *)job->output + out[i] + channel, n);
    }
}

TARGET static void conv(const dn_conv_s8_job *job, tile_fn *run, int mr, int groups, int nr, int form) {
    const uint8_t *pixel[MAX_MR];
    ptrdiff_t out[MAX_MR], residual[MAX_MR];
    const int adds = (job->epilogue.flags & DN_EPI_RESIDUAL) != 0;
    for (int i = 0; i < mr; i++) {
        pixel[i] = job->input + (form == DN_FORM_ROW ? i * job->in_step : job->in_offset[i]);
        out[i] = form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i];
        residual[i] = !adds ? 0 : form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i];
    }
    int32x4_t acc[MAX_MR][4];
    for (int panel = 0; panel < nr; panel++) {
        const int8_t *weights = job->weights + (size_t)panel * job->panel_stride;
        const int last = panel == nr - 1 ? job->last : 16;
        int first = 0;
        for (; 4 * first < last; first += groups) run(job, weights, pixel, acc, first);
        for (; first < 4; first++) /* channels nobody computes still go through the epilogue */
            for (int i = 0; i < mr; i++) acc[i][first] = vdupq_n_s32(0);
        finish_panel(job, acc, panel, mr, last, out, residual);
    }
}

#define DEFINE(mr, groups, nr, steps)                                                                                                                             \
    TARGET static void row_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_##mr##_##steps, mr, groups, nr, DN_FORM_ROW); }                      \
    TARGET static void row_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_view_##mr##_##steps, mr, groups, nr, DN_FORM_ROW); }            \
    TARGET static void pointer_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_##mr##_##steps, mr, groups, nr, DN_FORM_POINTER); }              \
    TARGET static void pointer_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_view_##mr##_##steps, mr, groups, nr, DN_FORM_POINTER); }
#define LINE(mr, groups, nr, steps)                                                             \
    {row_##mr##x##nr##_##steps, row_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_ROW, 0}, \
    {pointer_##mr##x##nr##_##steps, pointer_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_POINTER, 0},
#define PANELS(X, mr, groups, steps) X(mr, groups, 1, steps) X(mr, groups, 2, steps) X(mr, groups, 3, steps) X(mr, groups, 4, steps)
/* Everything about the tile of mr pixels x 4 * groups outputs: SHAPE before the list of variants, LINES in it. */
#define SHAPE(mr, groups) TILE(mr, groups, 1) TILE(mr, groups, 4) PANELS(DEFINE, mr, groups, 1) PANELS(DEFINE, mr, groups, 4)
#define LINES(mr, groups) PANELS(LINE, mr, groups, 1) PANELS(LINE, mr, groups, 4)
