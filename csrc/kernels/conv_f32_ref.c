/* conv_f32_ref.c - float convolution tiles, written for reading. */
#include "kernels/ref_f32.h"

static float dot(const dn_conv_f32_job *job, const float *input, const float *weights) {
    float acc = 0;
    for (size_t r = 0; r < job->run_count; r++) {
        const float *x = input + job->runs[r].input, *w = weights + job->runs[r].weight;
        for (int32_t c = 0; c < job->runs[r].count; c++) acc = fmaf(x[c], w[c * 16], acc);
    }
    return acc;
}

static void tile(const dn_conv_f32_job *job, int mr, int nr, int form) {
    const dn_epilogue *e = &job->epilogue;
    for (int i = 0; i < mr; i++) {
        bool row = form == DN_FORM_ROW;
        const float *input = job->input + (row ? i * job->in_step : job->in_offset[i]);
        float *output = job->output + (row ? i * job->out_step : job->out_offset[i]);
        const float *residual = NULL;
        if (e->flags & DN_EPI_RESIDUAL) residual = job->residual + (row ? i * job->residual_step : job->residual_offset[i]);
        int channels = 16 * (nr - 1) + job->last;
        for (int c = 0; c < channels; c++) {
            float acc = dot(job, input, job->weights + (size_t)(c / 16) * job->panel_stride + c % 16);
            float v = fmaf(acc, e->scale[c], e->flags & DN_CONV_ACCUMULATE ? output[c] : e->bias[c]);
            output[c] = finish(v, residual ? residual + c : NULL, e);
        }
    }
}

static void row_4x2(const dn_conv_f32_job *job) { tile(job, 4, 2, DN_FORM_ROW); }
static void pointer_4x2(const dn_conv_f32_job *job) { tile(job, 4, 2, DN_FORM_POINTER); }
static void row_4x1(const dn_conv_f32_job *job) { tile(job, 4, 1, DN_FORM_ROW); }
static void pointer_4x1(const dn_conv_f32_job *job) { tile(job, 4, 1, DN_FORM_POINTER); }
static void row_1x1(const dn_conv_f32_job *job) { tile(job, 1, 1, DN_FORM_ROW); }

/* More than one tile only so that what drives the kernels meets the choices it meets on fast ISAs. */
static const dn_conv_f32_variant variants[] = {
    {row_4x2, 4, 2, DN_FORM_ROW},     {pointer_4x2, 4, 2, DN_FORM_POINTER}, {row_4x1, 4, 1, DN_FORM_ROW},
    {pointer_4x1, 4, 1, DN_FORM_POINTER}, {row_1x1, 1, 1, DN_FORM_ROW},
};

const dn_conv_f32 dn_conv_f32_ref = {"ref", variants, sizeof variants / sizeof *variants};
