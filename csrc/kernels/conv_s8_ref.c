/* conv_s8_ref.c - the definition of the int8 convolution, written for reading. */
#include "kernels/ref_s8.h"

enum { PANEL = 16, STEP = 4 }; /* outputs in a panel; channels in a step */

/* One pixel times one output: the list's entries in order, one step each. */
static int32_t dot(const dn_conv_s8_job *job, ptrdiff_t base, size_t panel, int lane, int view) {
    int32_t acc = 0;
    for (size_t t = 0; t < job->tap_count; t++) {
        const uint8_t *a = job->input + base + job->taps[t].input;
        const int8_t *w = job->weights + panel * job->panel_stride + job->taps[t].weight + lane * STEP;
        for (int c = 0; c < STEP; c++) acc += a[c] * (view ? view_weight(w[c], job->view_add, job->view_mask) : w[c]);
    }
    return acc;
}

static void tile(const dn_conv_s8_job *job, int mr, int nr, int form, int view) {
    for (int i = 0; i < mr; i++) {
        ptrdiff_t in = form == DN_FORM_ROW ? i * job->in_step : job->in_offset[i];
        ptrdiff_t out = form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i];
        ptrdiff_t residual = 0;
        if (job->epilogue.flags & DN_EPI_RESIDUAL) residual = form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i];
        for (int panel = 0; panel < nr; panel++) {
            int lanes = panel == nr - 1 ? job->last : PANEL;
            for (int lane = 0; lane < lanes; lane++) {
                int channel = panel * PANEL + lane;
                store_s8(&job->epilogue, dot(job, in, (size_t)panel, lane, view), (size_t)channel, job->output, out + channel, job->residual + residual + channel);
            }
        }
    }
}

#define SHAPE(mr, nr)                                                                                       \
    static void row_##mr##x##nr(const dn_conv_s8_job *job) { tile(job, mr, nr, DN_FORM_ROW, 0); }           \
    static void row_view_##mr##x##nr(const dn_conv_s8_job *job) { tile(job, mr, nr, DN_FORM_ROW, 1); }      \
    static void pointer_##mr##x##nr(const dn_conv_s8_job *job) { tile(job, mr, nr, DN_FORM_POINTER, 0); }   \
    static void pointer_view_##mr##x##nr(const dn_conv_s8_job *job) { tile(job, mr, nr, DN_FORM_POINTER, 1); }
#define WIDTHS(mr) SHAPE(mr, 1) SHAPE(mr, 2) SHAPE(mr, 3) SHAPE(mr, 4)
WIDTHS(1) WIDTHS(4) WIDTHS(8)

#define BOTH(mr, nr) \
    {row_##mr##x##nr, row_view_##mr##x##nr, mr, nr, 1, DN_FORM_ROW, 0}, {pointer_##mr##x##nr, pointer_view_##mr##x##nr, mr, nr, 1, DN_FORM_POINTER, 0},
#define ALL(mr) BOTH(mr, 1) BOTH(mr, 2) BOTH(mr, 3) BOTH(mr, 4)
static const dn_conv_s8_variant variants[] = {ALL(1) ALL(4) ALL(8)};

const dn_conv_s8 dn_conv_s8_ref = {.isa = "ref", .variants = variants, .variant_count = sizeof variants / sizeof *variants};
