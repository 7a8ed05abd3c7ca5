/* convgrad_f32_ref.c - gradient of a convolution's weights, written for reading. */
#include "kernels/ref_float.h"

static void tile(const dn_convgrad_f32_job *job, int nr) {
    int outputs = 16 * (nr - 1) + job->last;
    for (int32_t i = 0; i < job->channels; i++)
        for (int o = 0; o < outputs; o++) {
            float *dw = job->dw + i * 16 + (size_t)(o / 16) * job->panel_stride + o % 16;
            float acc = *dw;
            for (int32_t row = 0; row < job->rows; row++)
                for (int32_t column = 0; column < job->columns; column++)
                    acc = fmaf(job->x[row * job->x_row + column * job->x_step + i], job->dy[row * job->dy_row + column * job->dy_step + o], acc);
            *dw = acc;
        }
}

static void tile_4x1(const dn_convgrad_f32_job *job) { tile(job, 1); }
static void tile_2x2(const dn_convgrad_f32_job *job) { tile(job, 2); }

/* More than one tile only so that what drives the kernels meets the choices it meets on fast ISAs. */
static const dn_convgrad_f32_variant variants[] = {{tile_4x1, 4, 1}, {tile_2x2, 2, 2}};

const dn_convgrad_f32 dn_convgrad_f32_ref = {"ref", variants, sizeof variants / sizeof *variants};
