/* linear_s8_ref.c - the definition of the linear layer on planes of nibbles, written for reading; its sums are those of conv_s8 over the same weights. */
#include "kernels/ref_s8.h"

enum { PANEL = 16, HALF = PANEL / 2, STEP = 4 }; /* outputs in a panel, and in each half of its bytes; channels in a step */

/* The nibble of one output of a panel and one channel. */
static int32_t nibble(const uint8_t *panel, int lane, int32_t channel) {
    const uint8_t byte = panel[channel / STEP * DN_PLANE_STEP + lane % HALF * STEP + channel % STEP];
    return lane < HALF ? byte & 15 : byte >> 4;
}

/* The weight as `bits` bits see it. */
static int32_t weight(const uint8_t *high, const uint8_t *low, int lane, int32_t channel, int32_t bits) {
    const int32_t h = nibble(high, lane, channel);
    if (bits == 8) return 16 * h + nibble(low, lane, channel) - DN_PLANE_ZERO;
    return (dn_plane_view(h, bits < 4 ? nibble(low, lane, channel) : 0, bits) << (8 - bits)) - 128;
}

static int32_t dot(const dn_linear_s8_job *job, size_t panel, int lane) {
    const uint8_t *high = job->high + panel * job->panel_stride, *low = job->low + panel * job->panel_stride;
    int32_t acc = 0;
    for (size_t r = 0; r < job->run_count; r++)
        for (int32_t c = 0; c < job->runs[r].count; c++) acc += job->input[job->runs[r].input + c] * weight(high, low, lane, job->runs[r].weight + c, job->bits);
    return acc;
}

static void run(const dn_linear_s8_job *job) {
    for (int panel = 0; panel < job->panels; panel++)
        for (int lane = 0; lane < (panel == job->panels - 1 ? job->last : PANEL); lane++) {
            const int channel = panel * PANEL + lane;
            store_s8(&job->epilogue, dot(job, (size_t)panel, lane), (size_t)channel, job->output, channel, job->residual + channel);
        }
}

const dn_linear_s8 dn_linear_s8_ref = {.isa = "ref", .run = run};
