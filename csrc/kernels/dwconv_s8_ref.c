/* dwconv_s8_ref.c - the definition of a row of int8 depthwise convolution. */
#include <math.h>

#include "kernels/kernels.h"

static int view_weight(int weight, const dn_dwconv_s8_job *job) {
    int sum = weight + job->view_add;
    sum = sum < -128 ? -128 : sum > 127 ? 127 : sum;
    return (int8_t)(sum & job->view_mask);
}

static int32_t window_sum(const dn_dwconv_s8_job *job, const int8_t *weights, int x, int channel) {
    int32_t acc = 0;
    for (int kh = job->kh_begin; kh < job->kh_end; kh++)
        for (int kw = 0; kw < job->kernel_w; kw++) {
            int a = job->input[x * job->in_step + kh * job->in_row + kw * job->in_tap + channel];
            acc += a * view_weight(weights[(kh * job->kernel_w + kw) * 16 + channel % 16], job);
        }
    return acc;
}

static void run(const dn_dwconv_s8_job *job) {
    const dn_epilogue *e = &job->epilogue;
    for (int x = 0; x < job->width; x++)
        for (int c = 0; c < job->channels; c++) {
            const int8_t *weights = job->weights + (ptrdiff_t)(c / 16) * job->kernel_h * job->kernel_w * 16;
            float v = fmaf((float)window_sum(job, weights, x, c), e->scale[c], e->bias[c]);
            if (e->flags & DN_EPI_RESIDUAL) v = fmaf((float)job->residual[x * job->residual_step + c], e->residual_scale, v);
            if (e->flags & DN_EPI_HARDSWISH) {
                float t = fminf(fmaxf(fmaf(v, 1 / 6.0f, 0.5f), 0), 1);
                v = fmaf(v * t, e->out_scale, e->out_zero);
            }
            v = fminf(fmaxf(v, e->lo), e->hi);
            job->output[x * job->out_step + c] = (uint8_t)rintf(v);
        }
}

const dn_dwconv_s8 dn_dwconv_s8_ref = {.isa = "ref", .run = run};
