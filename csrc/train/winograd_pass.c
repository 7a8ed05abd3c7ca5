/* winograd_pass.c - 3 x 3 convolutions of stride 1 by Winograd's F(2 x 2, 3 x 3): 16 products per tile of 4 outputs instead of 36, forward, backward and for the weights.
 *
 * Tiles are taken in blocks; a block's 16 positions lie apart as [position][tile][channel], and each position is a product of matrices. So the bits are those of every ISA, as everywhere; they are not those of the direct sum, from which they differ by a few units in the last place. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "train/train.h"

enum { POSITIONS = DN_WINO_F32_POSITIONS };

bool dn_winograd_fits(const dn_node *node, const dn_node *input) {
    bool even = node->height % 2 == 0 && node->width % 2 == 0 && input->height % 2 == 0 && input->width % 2 == 0;
    bool pads = node->pad_top < 3 && node->pad_bottom < 3 && node->pad_left < 3 && node->pad_right < 3;
    return !node->depthwise && node->kernel_h == 3 && node->kernel_w == 3 && node->stride_h == 1 && node->stride_w == 1 && node->dilation_h == 1 && node->dilation_w == 1 && even && pads;
}

/* Where tile t of a map begins. */
static ptrdiff_t place(int32_t t, int32_t across, ptrdiff_t row, ptrdiff_t step) { return 2 * (t / across) * row + 2 * (t % across) * step; }

/* How many of `left` tiles from number t on stand side by side. */
static int32_t beside(int32_t t, int32_t left, int32_t across) { return across - t % across < left ? across - t % across : left; }

void dn_winograd_load(const dn_kernels *kernels, const dn_winograd_pass *pass, const dn_winograd_block *block) {
    const size_t channels = (size_t)pass->channels;
    const int32_t across = pass->columns / 2;
    for (int32_t t = 0, n; t < block->count; t += n) {
        n = beside(block->first + t, block->count - t, across);
        kernels->wino_f32->input(pass->input + place(block->first + t, across, pass->in_row, pass->in_step), pass->in_row, pass->in_step, channels, (size_t)n,
                                 pass->v + (size_t)(block->at + t) * channels, (size_t)block->all * channels);
    }
}

void dn_winograd_store(const dn_kernels *kernels, const dn_winograd_pass *pass, const dn_winograd_block *block, const float *m) {
    const size_t lanes = dn_round_up((size_t)pass->outputs, 16);
    const int32_t across = pass->columns / 2;
    for (int32_t t = 0, n; t < block->count; t += n) {
        n = beside(block->first + t, block->count - t, across);
        kernels->wino_f32->output(m + (size_t)(block->at + t) * lanes, (size_t)block->all * lanes, lanes, (size_t)pass->outputs, (size_t)n,
                                  pass->output + place(block->first + t, across, pass->out_row, pass->out_step), pass->out_row, pass->out_step, NULL, 0, 0, &pass->epilogue);
    }
}

static void fetch(void *ahead) { dn_fetch_ahead(ahead); }

const float *dn_winograd_multiply(const dn_kernels *kernels, const dn_winograd_pass *pass, int32_t tiles) {
    dn_wino_f32_product product = {
        .v = pass->v,
        .weights = pass->weights,
        .m = pass->m,
        .tiles = tiles,
        .channels = pass->channels,
        .panels = (int32_t)dn_ceil_div((size_t)pass->outputs, 16),
        .panel_stride = pass->panel_stride,
        .position_stride = pass->position_stride,
        .runs = pass->runs,
        .run_count = (size_t)pass->run_count,
        .between = pass->ahead ? fetch : NULL,
        .context = pass->ahead,
    };
    return dn_wino_f32_multiply(kernels->product_f32, &product);
}

void dn_winograd_pass_run(const dn_kernels *kernels, const dn_winograd_pass *pass, int32_t tiles) {
    const int32_t all = pass->columns / 2 * (pass->rows / 2);
    for (int32_t first = 0; first < all; first += tiles) {
        int32_t count = all - first < tiles ? all - first : tiles;
        dn_winograd_block block = {first, count, 0, count};
        dn_winograd_load(kernels, pass, &block);
        dn_winograd_store(kernels, pass, &block, dn_winograd_multiply(kernels, pass, count));
    }
}

/* ---- gradient of the weights: sums over tiles of (B' d B)(A dy A'), in the layout of the weights they become ---- */

void dn_winograd_grad_load(const dn_kernels *kernels, const dn_winograd_grad *grad, const dn_winograd_block *block) {
    const int32_t across = grad->columns / 2;
    const size_t channels = (size_t)grad->channels, outputs = (size_t)grad->outputs;
    for (int32_t t = 0, n; t < block->count; t += n) {
        n = beside(block->first + t, block->count - t, across);
        kernels->wino_f32->input(grad->x + place(block->first + t, across, grad->x_row, grad->x_step), grad->x_row, grad->x_step, channels, (size_t)n,
                                 grad->v + (size_t)(block->at + t) * channels, (size_t)block->all * channels);
        kernels->wino_f32->gradient(grad->dy + place(block->first + t, across, grad->dy_row, grad->dy_step), grad->dy_row, grad->dy_step, outputs, (size_t)n,
                                    grad->m + (size_t)(block->at + t) * outputs, (size_t)block->all * outputs);
    }
}

void dn_winograd_grad_add(const dn_kernels *kernels, const dn_winograd_grad *grad, int32_t tiles) {
    for (size_t position = 0; position < POSITIONS; position++) {
        dn_grad_pass pass = {
            .x = grad->v + position * (size_t)tiles * (size_t)grad->channels,
            .dy = grad->m + position * (size_t)tiles * (size_t)grad->outputs,
            .x_step = grad->channels,
            .dy_step = grad->outputs,
            .rows = 1,
            .columns = tiles,
            .channels = grad->channels,
            .outputs = grad->outputs,
            .dw = grad->sums + position * grad->position_stride,
            .panel_stride = grad->panel_stride,
        };
        dn_grad_pass_run(kernels->convgrad_f32, &pass);
    }
}

void dn_winograd_grad_run(const dn_kernels *kernels, const dn_winograd_grad *grad, int32_t tiles) {
    const int32_t all = grad->columns / 2 * (grad->rows / 2);
    for (int32_t first = 0; first < all; first += tiles) {
        int32_t count = all - first < tiles ? all - first : tiles;
        dn_winograd_block block = {first, count, 0, count};
        dn_winograd_grad_load(kernels, grad, &block);
        dn_winograd_grad_add(kernels, grad, count);
    }
}
