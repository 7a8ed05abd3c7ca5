/* dwconv_f32_ref.c - one row of a float depthwise convolution, written for reading. */
#include "kernels/ref_f32.h"

static void run(const dn_dwconv_f32_job *job) {
    const dn_epilogue *e = &job->epilogue;
    ptrdiff_t taps = (ptrdiff_t)job->kernel_h * job->kernel_w;
    for (int32_t p = 0; p < job->width; p++)
        for (int32_t c = 0; c < job->channels; c++) {
            const float *input = job->input + p * job->in_step + c;
            const float *weights = job->weights + c / 16 * taps * 16 + c % 16;
            float acc = 0;
            for (int32_t kh = job->kh_begin; kh < job->kh_end; kh++)
                for (int32_t kw = 0; kw < job->kernel_w; kw++)
                    acc = fmaf(input[kh * job->in_row + kw * job->in_tap], weights[((ptrdiff_t)kh * job->kernel_w + kw) * 16], acc);
            const float *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + p * job->residual_step + c : NULL;
            job->output[p * job->out_step + c] = finish(fmaf(acc, e->scale[c], e->bias[c]), residual, e);
        }
}

const dn_dwconv_f32 dn_dwconv_f32_ref = {"ref", run};
