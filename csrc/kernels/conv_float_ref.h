/* conv_float_ref.h - float convolution tiles, written for reading; needs elements (elem_*_ref.h). */

/* The product of one channel's activation and weight: of floats, or of elements as they are packed. */
static float dot(const dn_conv_f32_job *job, ptrdiff_t pixel, size_t panel, int output, bool floats) {
    float acc = 0;
    for (size_t r = 0; r < job->run_count; r++) {
        ptrdiff_t x = pixel + job->runs[r].input, w = (ptrdiff_t)(panel * job->panel_stride) + job->runs[r].weight;
        for (int32_t k = 0; k < job->runs[r].count; k++) {
            const int32_t c = channel_at(k, job->runs[r].count);
            if (floats) acc = fmaf(((const float *)job->input)[x + c], ((const float *)job->weights)[w + c * 16 + output], acc);
            else acc = fmaf(widen_one(((const elem *)job->input)[x + c]), widen_one(((const elem *)job->weights)[w + weight_place(c, output)]), acc);
        }
    }
    return acc;
}

static void tile(const dn_conv_f32_job *job, int mr, int nr, int form, bool floats) {
    const dn_epilogue *e = &job->epilogue;
    bool wide = sizeof(elem) == sizeof(float) || e->flags & DN_CONV_F32_OUT;
    for (int i = 0; i < mr; i++) {
        bool row = form == DN_FORM_ROW;
        ptrdiff_t input = row ? i * job->in_step : job->in_offset[i], output = row ? i * job->out_step : job->out_offset[i];
        const elem *residual = NULL;
        if (e->flags & DN_EPI_RESIDUAL) residual = (const elem *)job->residual + (row ? i * job->residual_step : job->residual_offset[i]);
        int channels = 16 * (nr - 1) + job->last;
        for (int c = 0; c < channels; c++) {
            float acc = dot(job, input, (size_t)(c / 16), c % 16, floats);
            float v = fmaf(acc, e->scale[c], e->flags & DN_CONV_ACCUMULATE ? ((float *)job->output)[output + c] : e->bias[c]);
            v = finish(v, residual ? widen_one(residual[c]) : 0, e);
            if (wide) ((float *)job->output)[output + c] = v;
            else ((elem *)job->output)[output + c] = narrow(v);
        }
    }
}

static void row_4x2(const dn_conv_f32_job *job) { tile(job, 4, 2, DN_FORM_ROW, true); }
static void pointer_4x2(const dn_conv_f32_job *job) { tile(job, 4, 2, DN_FORM_POINTER, true); }
static void row_4x1(const dn_conv_f32_job *job) { tile(job, 4, 1, DN_FORM_ROW, true); }
static void pointer_4x1(const dn_conv_f32_job *job) { tile(job, 4, 1, DN_FORM_POINTER, true); }
static void row_1x1(const dn_conv_f32_job *job) { tile(job, 1, 1, DN_FORM_ROW, false); }

/* More than one tile only so that what drives the kernels meets the choices it meets on fast ISAs. */
static const dn_conv_f32_variant variants[] = {
    {row_4x2, 4, 2, DN_FORM_ROW, true},         {pointer_4x2, 4, 2, DN_FORM_POINTER, true}, {row_4x1, 4, 1, DN_FORM_ROW, true},
    {pointer_4x1, 4, 1, DN_FORM_POINTER, true}, {row_1x1, 1, 1, DN_FORM_ROW, false},
};
