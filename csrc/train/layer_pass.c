/* layer_pass.c - one image through a convolution: forward, gradient of its weights, gradient of its input; a block of images through a linear layer. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "train/train.h"

/* x and dy of a row block of this many bytes stay in L1 while all taps and channel tiles go over them. */
enum { BLOCK_BYTES = 24 * 1024 };

static dn_layer *layer_of(const dn_trainer *trainer, const dn_unit *unit) { return &trainer->layers[trainer->layer_of[unit->node]]; }

/* ---- forward ---- */

static dn_epilogue plain_epilogue(const dn_trainer *trainer, const float *bias, dn_act act) {
    dn_epilogue e = {.scale = trainer->ones, .bias = bias ? bias : trainer->zeros, .lo = -INFINITY, .hi = INFINITY};
    if (act == DN_ACT_RELU || act == DN_ACT_RELU6) e.lo = 0;
    if (act == DN_ACT_RELU6) e.hi = 6;
    return e;
}

/* An accumulator hook comes between the sum and the activation. */
static dn_act fused_act(const dn_layer *layer, const dn_unit *unit) { return layer->hooks.accumulator ? DN_ACT_NONE : unit->act; }

dn_epilogue dn_layer_epilogue(const dn_trainer *trainer, const dn_unit *unit, int32_t group) {
    const dn_layer *layer = layer_of(trainer, unit);
    return plain_epilogue(trainer, layer->node->has_bias ? layer->bias.value + group * layer->group_out : NULL, fused_act(layer, unit));
}

static void hook_accumulator(const dn_trainer *trainer, const dn_unit *unit, const dn_layer *layer, const dn_value *y, size_t image) {
    float *out = dn_made(y, image);
    if (!layer->hooks.accumulator) return;
    dn_layer_run_hook(layer->hooks.accumulator, layer, y, image, out);
    dn_norm_job job = {out, NULL, out, 1, y->size / (size_t)y->channels, (size_t)y->channels, 0, trainer->zeros, trainer->ones, trainer->zeros, unit->act, 0};
    trainer->kernels.train_f32->norm(&job);
}

static void dense_forward(const dn_trainer *trainer, const dn_unit *unit, const dn_layer *layer, const float *input, float *output, dn_ahead *ahead) {
    const dn_node *node = layer->node;
    const dn_value *x = &trainer->values[unit->z];
    const size_t row = (size_t)(x->width + node->pad_left + node->pad_right) * (size_t)x->channels;
    const bool edges = layer->share[DN_EDGE_LEFT] + layer->share[DN_EDGE_RIGHT] < 2;
    for (int32_t g = 0; g < layer->groups; g++) {
        int32_t outputs = dn_active_outputs(layer, g);
        if (!outputs) break;
        dn_conv_pass pass = {
            .input = input,
            .in_row = node->stride_h * (ptrdiff_t)row,
            .in_step = node->stride_w * x->channels,
            .output = output + g * layer->group_out,
            .out_row = (ptrdiff_t)node->width * layer->out_active,
            .out_step = layer->out_active,
            .rows = node->height,
            .columns = node->width,
            .weights = layer->working + (size_t)(g * layer->group_panels) * layer->panel,
            .panel_stride = layer->panel,
            .outputs = outputs,
            .runs = layer->runs,
            .taps = layer->rows + g * (node->kernel_h + 1),
            .left = edges ? layer->rows + (layer->groups + g) * (node->kernel_h + 1) : NULL,
            .right = edges ? layer->rows + (2 * layer->groups + g) * (node->kernel_h + 1) : NULL,
            .left_share = layer->share[DN_EDGE_LEFT],
            .right_share = layer->share[DN_EDGE_RIGHT],
            .taps_count = node->kernel_h,
            .row_step = node->stride_h,
            .row_limit = x->height,
            .epilogue = dn_layer_epilogue(trainer, unit, g),
            .ahead = ahead,
        };
        dn_conv_pass_run(trainer->kernels.conv_f32, &pass);
    }
}

static void depthwise_forward(const dn_trainer *trainer, const dn_unit *unit, const dn_layer *layer, const float *input, float *output) {
    const dn_node *node = layer->node;
    const dn_value *x = &trainer->values[unit->z];
    const ptrdiff_t c = x->channels, row = (x->width + node->pad_left + node->pad_right) * c;
    dn_dwconv_f32_job job = {
        .input = input,
        .weights = layer->active_weight,
        .output = output,
        .in_row = node->dilation_h * row,
        .in_tap = node->dilation_w * c,
        .in_step = node->stride_w * c,
        .out_step = c,
        .in_next = node->stride_h * row,
        .out_next = node->width * c,
        .kernel_h = node->kernel_h,
        .kernel_w = node->kernel_w,
        .kh_end = node->kernel_h,
        .rows = node->height,
        .width = node->width,
        .channels = x->channels,
        .epilogue = plain_epilogue(trainer, NULL, fused_act(layer, unit)),
    };
    if (node->has_bias) job.epilogue.bias = layer->active_bias;
    trainer->kernels.dwconv_f32->run(&job);
}

void dn_layer_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch) {
    dn_layer *layer = layer_of(trainer, unit);
    const dn_value *y = &trainer->values[unit - trainer->units];
    if (dn_winograd_pays(layer)) {
        dn_winograd_forward(trainer, unit, image, 1, scratch);
        return;
    }
    const float *input = dn_layer_padded(trainer, unit, image, scratch);
    if (layer->kind == DN_LAYER_DEPTHWISE) depthwise_forward(trainer, unit, layer, input, dn_made(y, image));
    else dense_forward(trainer, unit, layer, input, dn_made(y, image), &scratch->ahead);
    hook_accumulator(trainer, unit, layer, y, image);
}

void dn_linear_forward(dn_trainer *trainer, const dn_unit *unit, size_t first, size_t count) {
    dn_layer *layer = layer_of(trainer, unit);
    const dn_value *x = &trainer->values[unit->z], *y = &trainer->values[unit - trainer->units];
    const float *input = dn_image(x, first);
    if (layer->hooks.input) {
        for (size_t i = 0; i < count; i++) (void)dn_layer_hook_input(trainer, unit, layer, first + i);
        input = layer->hooked_input + first * x->size;
    }
    for (int32_t g = 0; g < layer->groups; g++) {
        int32_t outputs = dn_active_outputs(layer, g);
        if (!outputs) break;
        dn_conv_pass pass = {
            .input = input,
            .in_step = (ptrdiff_t)x->size,
            .output = dn_made(y, first) + g * layer->group_out,
            .out_step = (ptrdiff_t)y->size,
            .rows = 1,
            .columns = (int32_t)count,
            .weights = layer->working + (size_t)(g * layer->group_panels) * layer->panel,
            .panel_stride = layer->panel,
            .outputs = outputs,
            .runs = layer->runs,
            .taps = layer->rows + g * (layer->node->kernel_h + 1),
            .taps_count = layer->node->kernel_h,
            .row_limit = x->height,
            .epilogue = dn_layer_epilogue(trainer, unit, g),
        };
        dn_conv_pass_run(trainer->kernels.conv_f32, &pass);
    }
    for (size_t i = 0; i < count; i++) hook_accumulator(trainer, unit, layer, y, first + i);
}

/* ---- gradient of the weights ---- */

/* Output positions whose tap k falls inside the input. */
static void valid(int32_t in, int32_t out, int32_t k, int32_t stride, int32_t dilation, int32_t pad, int32_t *begin, int32_t *end) {
    int32_t low = pad - k * dilation, high = in - 1 + low;
    *begin = low > 0 ? (low + stride - 1) / stride : 0;
    *end = high < 0 ? 0 : high / stride + 1;
    if (*end > out) *end = out;
    if (*begin > *end) *begin = *end;
}

static void add_gradient(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *input, const float *dy, ptrdiff_t dy_row, const dn_grad_part *part, float *dw) {
    const dn_node *node = layer->node;
    int32_t outputs = dn_active_outputs(layer, part->group), last = part->panel_end * 16 < outputs ? part->panel_end * 16 : outputs;
    const ptrdiff_t c = x->channels;
    dw += (size_t)(part->group * layer->group_panels + part->panel) * layer->panel;
    for (int32_t kh = 0; kh < node->kernel_h; kh++) {
        int32_t y0, y1, x0, x1;
        valid(x->height, node->height, kh, node->stride_h, node->dilation_h, node->pad_top, &y0, &y1);
        if (y0 < part->row) y0 = part->row;
        if (y1 > part->row_end) y1 = part->row_end;
        if (y0 >= y1) continue;
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            valid(x->width, node->width, kw, node->stride_w, node->dilation_w, node->pad_left, &x0, &x1);
            if (x0 >= x1) continue;
            ptrdiff_t in_y = (ptrdiff_t)y0 * node->stride_h + kh * node->dilation_h - node->pad_top, in_x = (ptrdiff_t)x0 * node->stride_w + kw * node->dilation_w - node->pad_left;
            int32_t within = part->cut->begin - part->group * layer->group_in + part->c;
            dn_grad_pass pass = {
                .x = input + (in_y * x->width + in_x) * c + part->cut->dense + part->c,
                .dy = dy + y0 * dy_row + (ptrdiff_t)x0 * layer->out_active + part->group * layer->group_out + part->panel * 16,
                .x_row = node->stride_h * x->width * c,
                .x_step = node->stride_w * c,
                .dy_row = dy_row,
                .dy_step = layer->out_active,
                .rows = y1 - y0,
                .columns = x1 - x0,
                .channels = part->c_end - part->c,
                .outputs = last - part->panel * 16,
                .dw = dw + ((size_t)(kh * node->kernel_w + kw) * (size_t)layer->group_in + (size_t)within) * 16,
                .panel_stride = layer->panel,
            };
            dn_grad_pass_run(trainer->kernels.convgrad_f32, &pass);
        }
    }
}

static int32_t rows_of_block(const dn_layer *layer, const dn_value *x) {
    size_t bytes = ((size_t)layer->node->stride_h * (size_t)x->width * (size_t)x->channels + (size_t)layer->node->width * (size_t)layer->out_active) * sizeof(float);
    size_t rows = BLOCK_BYTES / bytes;
    return rows < 2 ? 2 : rows > 64 ? 64 : (int32_t)rows;
}

static void dense_weights(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *input, const float *dy, ptrdiff_t dy_row, float *dw) {
    int32_t step = rows_of_block(layer, x), rows = layer->node->height;
    for (int32_t row = 0; row < rows; row += step)
        for (int32_t k = 0; k < layer->cut_count; k++) {
            const dn_cut *cut = &layer->cuts[k];
            if (!cut->active || !dn_active_outputs(layer, cut->group)) continue;
            dn_grad_part part = {cut->group, 0, layer->group_panels, row, row + step < rows ? row + step : rows, cut, 0, cut->active};
            add_gradient(trainer, layer, x, input, dy, dy_row, &part, dw);
        }
}

static void depthwise_weights(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *input, const float *dy, ptrdiff_t dy_row, float *dw) {
    const dn_node *node = layer->node;
    const ptrdiff_t c = x->channels;
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            int32_t y0, y1, x0, x1;
            valid(x->height, node->height, kh, node->stride_h, node->dilation_h, node->pad_top, &y0, &y1);
            valid(x->width, node->width, kw, node->stride_w, node->dilation_w, node->pad_left, &x0, &x1);
            if (y0 >= y1 || x0 >= x1) continue;
            ptrdiff_t in_y = (ptrdiff_t)y0 * node->stride_h + kh * node->dilation_h - node->pad_top, in_x = (ptrdiff_t)x0 * node->stride_w + kw * node->dilation_w - node->pad_left;
            trainer->kernels.train_f32->product_sums(input + (in_y * x->width + in_x) * c, node->stride_h * x->width * c, node->stride_w * c, dy + y0 * dy_row + x0 * c, dy_row, c,
                                                     (size_t)(y1 - y0), (size_t)(x1 - x0), (size_t)c, dw + (kh * node->kernel_w + kw) * c);
        }
}

/* ---- gradient of the input ---- */

static void dense_input_gradient(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const dn_value *y, const float *dy, float *dx, dn_ahead *ahead) {
    const dn_node *node = layer->node;
    const ptrdiff_t c = x->channels, row = (y->width + layer->left + layer->right) * (ptrdiff_t)y->channels;
    const int32_t phases = layer->groups * node->stride_h * node->stride_w;
    const bool edges = layer->back_share[DN_EDGE_LEFT] + layer->back_share[DN_EDGE_RIGHT] < 2;
    for (int32_t k = 0; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        if (!cut->active) continue;
        for (int32_t py = 0; py < node->stride_h && py < x->height; py++)
            for (int32_t px = 0; px < node->stride_w && px < x->width; px++) {
                const dn_phase_taps *phase = &layer->phases[(cut->group * node->stride_h + py) * node->stride_w + px];
                dn_conv_pass pass = {
                    .input = dy,
                    .in_row = row,
                    .in_step = y->channels,
                    .output = dx + ((ptrdiff_t)py * x->width + px) * c + cut->dense,
                    .out_row = node->stride_h * x->width * c,
                    .out_step = node->stride_w * c,
                    .rows = (x->height - py + node->stride_h - 1) / node->stride_h,
                    .columns = (x->width - px + node->stride_w - 1) / node->stride_w,
                    .weights = layer->transposed + (size_t)cut->panel * layer->back_panel,
                    .panel_stride = layer->back_panel,
                    .outputs = cut->active,
                    .runs = layer->back_runs,
                    .taps = layer->back_rows + phase->rows_first,
                    .left = edges ? layer->back_rows + phase[phases].rows_first : NULL,
                    .right = edges ? layer->back_rows + phase[2 * phases].rows_first : NULL,
                    .left_share = layer->back_share[DN_EDGE_LEFT],
                    .right_share = layer->back_share[DN_EDGE_RIGHT],
                    .taps_count = phase->rows_count,
                    .row_step = 1,
                    .row_limit = y->height,
                    .epilogue = plain_epilogue(trainer, NULL, DN_ACT_NONE),
                    .ahead = ahead,
                };
                dn_conv_pass_run(trainer->kernels.conv_f32, &pass);
            }
    }
}

static void depthwise_input_gradient(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *dy, ptrdiff_t dy_row, float *dx) {
    const dn_node *node = layer->node;
    const ptrdiff_t c = x->channels;
    memset(dx, 0, x->size * sizeof(float));
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            int32_t y0, y1, x0, x1;
            valid(x->height, node->height, kh, node->stride_h, node->dilation_h, node->pad_top, &y0, &y1);
            valid(x->width, node->width, kw, node->stride_w, node->dilation_w, node->pad_left, &x0, &x1);
            if (y0 >= y1 || x0 >= x1) continue;
            ptrdiff_t in_y = (ptrdiff_t)y0 * node->stride_h + kh * node->dilation_h - node->pad_top, in_x = (ptrdiff_t)x0 * node->stride_w + kw * node->dilation_w - node->pad_left;
            trainer->kernels.train_f32->add_scaled(dx + (in_y * x->width + in_x) * c, node->stride_h * x->width * c, node->stride_w * c, dy + y0 * dy_row + x0 * c, dy_row, c,
                                                   layer->active_taps + (kh * node->kernel_w + kw) * c, (size_t)(y1 - y0), (size_t)(x1 - x0), (size_t)c);
        }
}

/* With stride 1 it is the depthwise convolution of dy with flipped taps. */
static void depthwise_stride1_gradient(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const dn_value *y, const float *dy, float *dx) {
    const dn_node *node = layer->node;
    const ptrdiff_t c = x->channels, row = (y->width + layer->left + layer->right) * c;
    const int32_t from_y = node->pad_top - (node->kernel_h - 1) * node->dilation_h + layer->top, from_x = node->pad_left - (node->kernel_w - 1) * node->dilation_w + layer->left;
    trainer->kernels.dwconv_f32->run(&(dn_dwconv_f32_job){
        .input = dy + from_y * row + from_x * c,
        .weights = layer->active_flipped,
        .output = dx,
        .in_row = node->dilation_h * row,
        .in_tap = node->dilation_w * c,
        .in_step = c,
        .out_step = c,
        .in_next = row,
        .out_next = x->width * c,
        .kernel_h = node->kernel_h,
        .kernel_w = node->kernel_w,
        .kh_end = node->kernel_h,
        .rows = x->height,
        .width = x->width,
        .channels = x->channels,
        .epilogue = plain_epilogue(trainer, NULL, DN_ACT_NONE),
    });
}

/* ---- backward ---- */

static void sum_bias(const dn_trainer *trainer, const dn_unit *unit, const dn_layer *layer, const dn_framed *dy, size_t image) {
    const dn_value *y = &trainer->values[unit - trainer->units];
    if (!layer->bias.count || layer->bias.frozen || unit->act != DN_ACT_NONE) return;
    trainer->kernels.train_f32->column_sums(dy->inside, dy->row, (size_t)y->height, (size_t)y->width, (size_t)y->channels, layer->partial + image * 2 * (size_t)y->channels);
}

void dn_layer_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t split, dn_scratch *scratch) {
    dn_layer *layer = layer_of(trainer, unit);
    const dn_value *x = &trainer->values[unit->z], *y = &trainer->values[unit - trainer->units];
    const dn_framed dy = dn_layer_framed(trainer, unit, dn_slot(trainer, step->from, image), image, step->to != DN_NOWHERE, scratch);
    const bool wino = dn_winograd_pays(layer);
    sum_bias(trainer, unit, layer, &dy, image);
    if (!layer->weight.frozen && !layer->heavy) {
        float *dw = trainer->splits + split * trainer->split_floats + layer->split_offset;
        const float *input = wino ? dn_layer_padded(trainer, unit, image, scratch) : dn_layer_dense(trainer, unit, image, scratch);
        if (wino) dn_winograd_weights(trainer, layer, x, input, dy.inside, dy.row, dw, scratch);
        else if (layer->kind == DN_LAYER_DEPTHWISE) depthwise_weights(trainer, layer, x, input, dy.inside, dy.row, dw);
        else dense_weights(trainer, layer, x, input, dy.inside, dy.row, dw);
    }
    if (step->to == DN_NOWHERE) return;
    float *dx = step->to == DN_SCRATCH ? scratch->back : dn_slot(trainer, step->to, image);
    bool stride1 = layer->node->stride_h == 1 && layer->node->stride_w == 1;
    if (wino) dn_winograd_input_gradient(trainer, unit, dy.framed, dx, scratch);
    else if (layer->kind == DN_LAYER_DENSE) dense_input_gradient(trainer, layer, x, y, dy.framed, dx, &scratch->ahead);
    else if (stride1) depthwise_stride1_gradient(trainer, layer, x, y, dy.framed, dx);
    else depthwise_input_gradient(trainer, layer, x, dy.inside, dy.row, dx);
}

/* Some images of a heavy layer at once: its weights, which are more than a cache holds, are read once for all of them. */
void dn_layer_backward_together(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t count, dn_scratch *scratch) {
    const dn_layer *layer = layer_of(trainer, unit);
    for (size_t i = image; i < image + count; i++) {
        const float *dense = dn_slot(trainer, step->from, i);
        const dn_framed dy = {dense, dense, (ptrdiff_t)layer->node->width * layer->out_active};
        sum_bias(trainer, unit, layer, &dy, i);
    }
    dn_winograd_backward(trainer, unit, step, image, count, scratch);
}

/* Tap by tap: pixel t of the input gets dy times the weights of tap t; the images are the pixels of the kernel. */
void dn_linear_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t first, size_t count) {
    dn_layer *layer = layer_of(trainer, unit);
    const dn_value *x = &trainer->values[unit->z];
    for (int32_t k = 0; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        int32_t outputs = dn_active_outputs(layer, cut->group);
        if (!cut->active) continue;
        for (int32_t tap = 0; tap < layer->taps; tap++) {
            dn_run run = {cut->group * layer->group_out, (layer->taps - 1 - tap) * layer->group_out * 16, outputs};
            dn_row_taps taps[2] = {{0, 0}, {0, outputs ? 1 : 0}};
            dn_conv_pass pass = {
                .input = dn_slot(trainer, step->from, first),
                .in_step = (ptrdiff_t)trainer->slot_stride,
                .output = dn_slot(trainer, step->to, first) + (ptrdiff_t)tap * x->channels + cut->dense,
                .out_step = (ptrdiff_t)trainer->slot_stride,
                .rows = 1,
                .columns = (int32_t)count,
                .weights = layer->transposed + (size_t)cut->panel * layer->back_panel,
                .panel_stride = layer->back_panel,
                .outputs = cut->active,
                .runs = &run,
                .taps = taps,
                .taps_count = 1,
                .row_limit = 1,
                .epilogue = plain_epilogue(trainer, NULL, DN_ACT_NONE),
            };
            dn_conv_pass_run(trainer->kernels.conv_f32, &pass);
        }
    }
}

/* ---- weight gradients of heavy and linear layers: items of some panels and channels, every image in order ---- */

static size_t channel_items(const dn_cut *cut) { return dn_ceil_div((size_t)cut->active, DN_ITEM_CHANNELS); }
static size_t panel_items(const dn_layer *layer, int32_t group) { return dn_ceil_div(dn_ceil_div((size_t)dn_active_outputs(layer, group), 16), DN_ITEM_PANELS); }

size_t dn_weights_items(const dn_trainer *trainer, const dn_layer *layer) {
    (void)trainer;
    size_t items = 0;
    for (int32_t k = 0; k < layer->cut_count; k++) items += channel_items(&layer->cuts[k]) * panel_items(layer, layer->cuts[k].group);
    return items;
}

static dn_grad_part find_part(const dn_layer *layer, size_t item) {
    int32_t k = 0;
    for (size_t here; here = channel_items(&layer->cuts[k]) * panel_items(layer, layer->cuts[k].group), item >= here; k++) item -= here;
    const dn_cut *cut = &layer->cuts[k];
    int32_t panels = (int32_t)dn_ceil_div((size_t)dn_active_outputs(layer, cut->group), 16);
    int32_t panel = (int32_t)(item / channel_items(cut)) * DN_ITEM_PANELS, c = (int32_t)(item % channel_items(cut)) * DN_ITEM_CHANNELS;
    return (dn_grad_part){cut->group, panel, panel + DN_ITEM_PANELS < panels ? panel + DN_ITEM_PANELS : panels, 0, layer->node->height, cut, c, c + DN_ITEM_CHANNELS < cut->active ? c + DN_ITEM_CHANNELS : cut->active};
}

/* All images of a linear layer are one row of pixels. */
static void linear_gradient(dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *input, const dn_step *step, const dn_grad_part *part) {
    int32_t outputs = dn_active_outputs(layer, part->group), last = part->panel_end * 16 < outputs ? part->panel_end * 16 : outputs;
    int32_t within = part->cut->begin - part->group * layer->group_in + part->c;
    float *dw = layer->weight.gradient + (size_t)(part->group * layer->group_panels + part->panel) * layer->panel;
    for (int32_t tap = 0; tap < layer->taps; tap++) {
        dn_grad_pass pass = {
            .x = input + (ptrdiff_t)tap * x->channels + part->cut->dense + part->c,
            .dy = dn_slot(trainer, step->from, 0) + part->group * layer->group_out + part->panel * 16,
            .x_step = (ptrdiff_t)x->size,
            .dy_step = (ptrdiff_t)trainer->slot_stride,
            .rows = 1,
            .columns = (int32_t)trainer->n,
            .channels = part->c_end - part->c,
            .outputs = last - part->panel * 16,
            .dw = dw + ((size_t)tap * (size_t)layer->group_in + (size_t)within) * 16,
            .panel_stride = layer->panel,
        };
        dn_grad_pass_run(trainer->kernels.convgrad_f32, &pass);
    }
}

void dn_weights_item(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t item, int worker) {
    dn_layer *layer = layer_of(trainer, unit);
    const dn_value *x = &trainer->values[unit->z];
    const float *input = layer->hooks.input ? layer->hooked_input : x->data;
    const dn_grad_part whole = find_part(layer, item);
    if (layer->kind == DN_LAYER_LINEAR) {
        linear_gradient(trainer, layer, x, input, step, &whole);
        return;
    }
    if (dn_winograd_pays(layer)) {
        dn_winograd_heavy(trainer, layer, x, step, &whole, worker);
        return;
    }
    for (size_t i = 0; i < trainer->n && !dn_trainer_stop(trainer, worker); i++) {
        const float *dy = dn_slot(trainer, step->from, i);
        add_gradient(trainer, layer, x, input + i * x->size, dy, (ptrdiff_t)layer->node->width * layer->out_active, &whole, layer->weight.gradient);
    }
}

/* ---- after a phase ---- */

void dn_layer_finish_bias(dn_trainer *trainer, dn_layer *layer) {
    size_t channels = (size_t)layer->out_active, dense = 0;
    const dn_value *y = &trainer->values[layer->index];
    for (int32_t r = 0; r < y->range_count; r++)
        for (int32_t c = 0; c < y->ranges[r].count; c++, dense++) {
            double sum = 0;
            for (size_t i = 0; i < trainer->n; i++) sum += (double)layer->partial[i * 2 * channels + dense];
            layer->bias.gradient[y->ranges[r].begin + c] += (float)sum;
        }
}

/* dy of a linear layer is one pixel per image: nothing has to be summed before. */
void dn_linear_finish_bias(dn_trainer *trainer, dn_layer *layer, int32_t slot) {
    for (int32_t c = 0; c < layer->out_active; c++) {
        double sum = 0;
        for (size_t i = 0; i < trainer->n; i++) sum += (double)dn_slot(trainer, slot, i)[c];
        layer->bias.gradient[c] += (float)sum;
    }
}

void dn_layer_finish_splits(dn_trainer *trainer, dn_layer *layer) {
    const float *splits = trainer->splits + layer->split_offset;
    if (dn_winograd_pays(layer)) {
        dn_winograd_finish_splits(trainer, layer);
        return;
    }
    if (layer->kind != DN_LAYER_DEPTHWISE) {
        for (size_t s = 0; s < DN_SPLITS; s++) trainer->kernels.train_f32->add(layer->weight.gradient, splits + s * trainer->split_floats, layer->weight.count);
        return;
    }
    const dn_value *x = &trainer->values[layer->index];
    size_t dense = 0, active = (size_t)layer->in_active;
    for (int32_t r = 0; r < x->range_count; r++)
        for (int32_t c = 0; c < x->ranges[r].count; c++, dense++)
            for (int32_t t = 0; t < layer->taps; t++) {
                float *g = &layer->weight.gradient[dn_layer_weight_index(layer, x->ranges[r].begin + c, t, 0)];
                for (size_t s = 0; s < DN_SPLITS; s++) *g += splits[s * trainer->split_floats + (size_t)t * active + dense];
            }
}
