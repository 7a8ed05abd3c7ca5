/* dwconv_float_ref.h - rows of a float depthwise convolution, written for reading; needs elements (elem_*_ref.h). */

/* Rows of the window that are summed together, column by column, the last one first: two of bfloat16, as the CPUs' dot products of pairs do. */
enum { ROWS = sizeof(elem) == sizeof(float) ? 1 : 2 };

static void run_row(const dn_dwconv_f32_job *job) {
    const dn_epilogue *e = &job->epilogue;
    ptrdiff_t taps = (ptrdiff_t)job->kernel_h * job->kernel_w;
    bool wide = sizeof(elem) == sizeof(float) || e->flags & DN_CONV_F32_OUT;
    for (int32_t p = 0; p < job->width; p++)
        for (int32_t c = 0; c < job->channels; c++) {
            const elem *input = (const elem *)job->input + p * job->in_step + c;
            const elem *weights = (const elem *)job->weights + c / 16 * taps * 16 + c % 16;
            float acc = 0;
            for (int32_t first = job->kh_begin; first < job->kh_end; first += ROWS)
                for (int32_t kw = 0; kw < job->kernel_w; kw++)
                    for (int32_t kh = first + ROWS - 1; kh >= first; kh--)
                        if (kh < job->kh_end) acc = fmaf(widen_one(input[kh * job->in_row + kw * job->in_tap]), widen_one(weights[((ptrdiff_t)kh * job->kernel_w + kw) * 16]), acc);
            float residual = e->flags & DN_EPI_RESIDUAL ? widen_one(((const elem *)job->residual)[p * job->residual_step + c]) : 0;
            float v = finish(fmaf(acc, e->scale[c], e->bias[c]), residual, e);
            if (wide) ((float *)job->output)[p * job->out_step + c] = v;
            else ((elem *)job->output)[p * job->out_step + c] = narrow(v);
        }
}

static void run(const dn_dwconv_f32_job *job) {
    dn_dwconv_f32_job row = *job;
    for (int32_t y = 0; y < job->rows; y++, dn_dwconv_f32_advance(&row, sizeof(elem))) run_row(&row);
}
