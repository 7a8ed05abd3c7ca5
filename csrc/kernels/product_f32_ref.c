/* product_f32_ref.c - rows times panels: the definition. */
#include <math.h>

#include "kernels/kernels.h"

enum { MOST_PANELS = 2 };

static void product(const dn_product_f32_job *job, int panels) {
    for (int32_t row = 0; row < job->rows; row++) {
        const float *x = job->x + row * job->in_step;
        float sums[16 * MOST_PANELS] = {0};
        for (int c = 0; c < 16 * panels; c++)
            for (size_t r = 0; r < job->run_count; r++) {
                const float *w = job->weights + (size_t)(c / 16) * job->panel_stride + job->runs[r].weight + c % 16;
                for (int32_t k = 0; k < job->runs[r].count; k++) sums[c] = fmaf(x[job->runs[r].input + k], w[16 * k], sums[c]);
            }
        for (int c = 0; c < 16 * panels; c++) job->out[row * job->out_step + c] = sums[c];
    }
}

static void run_1x1(const dn_product_f32_job *job) { product(job, 1); }
static void run_1x2(const dn_product_f32_job *job) { product(job, 2); }

/* Two only so that what drives them meets the choice it meets on fast ISAs. */
static const dn_product_f32_variant variants[] = {{run_1x1, 1, 1}, {run_1x2, 1, 2}};

const dn_product_f32 dn_product_f32_ref = {"ref", variants, sizeof variants / sizeof *variants};
