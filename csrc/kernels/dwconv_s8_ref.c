/* dwconv_s8_ref.c - the definition of int8 depthwise convolution. */
#include "kernels/ref_s8.h"

static int32_t window_sum(const dn_dwconv_s8_job *job, const int8_t *weights, int x, int channel) {
    int32_t acc = 0;
    for (int kh = job->kh_begin; kh < job->kh_end; kh++)
        for (int kw = 0; kw < job->kernel_w; kw++) {
            int a = job->input[x * job->in_step + kh * job->in_row + kw * job->in_tap + channel];
            acc += a * view_weight(weights[(kh * job->kernel_w + kw) * 16 + channel % 16], job->view_add, job->view_mask);
        }
    return acc;
}

static void run_row(const dn_dwconv_s8_job *job) {
    const dn_epilogue *e = &job->epilogue;
    for (int x = 0; x < job->width; x++)
        for (int c = 0; c < job->channels; c++) {
            const int8_t *weights = job->weights + (ptrdiff_t)(c / 16) * job->kernel_h * job->kernel_w * 16;
            const uint8_t *residual = e->flags & DN_EPI_RESIDUAL ? &job->residual[x * job->residual_step + c] : NULL;
            store_s8(e, window_sum(job, weights, x, c), (size_t)c, job->output, x * job->out_step + c, residual);
        }
}

static void run(const dn_dwconv_s8_job *job) {
    for (int y = 0; y < job->rows; y++) {
        const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
        run_row(&row);
    }
}

const dn_dwconv_s8 dn_dwconv_s8_ref = {.isa = "ref", .run = run};
