/* winograd_layer.c - layers whose convolutions go through winograd_pass.c: their transformed weights, and one image forward, backward and into the weights' gradient. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "base/status.h"
#include "train/train.h"

enum { POSITIONS = DN_WINO_F32_POSITIONS, LEAST_CHANNELS = 12, MANY_TILES = 64, MANY_IMAGES = 4 };

static size_t wino_panel(size_t panel) { return panel / 9 * POSITIONS; }
static size_t panels_of(const dn_layer *layer) { return (size_t)layer->groups * (size_t)layer->group_panels; }
static size_t back_panels_of(const dn_layer *layer) {
    size_t panels = 0;
    for (int32_t k = 0; k < layer->cut_count; k++) panels += dn_ceil_div((size_t)layer->cuts[k].full, 16);
    return panels;
}

static int32_t map_tiles(const dn_node *node) { return node->height / 2 * (node->width / 2); }

static void choose_block(const dn_trainer *trainer, dn_layer *layer) {
    const int32_t all = map_tiles(layer->node), block = dn_wino_f32_block(trainer->kernels.product_f32, layer->group_in, layer->group_out, MANY_TILES);
    const int32_t grad_block = dn_wino_f32_grad_block(layer->group_in, layer->group_out, MANY_TILES);
    layer->wino_images = layer->heavy && all < block ? (int32_t)dn_size_min(dn_ceil_div((size_t)block, (size_t)all), MANY_IMAGES) : 1;
    layer->wino_tiles = block < all ? block : all;
    layer->wino_grad_tiles = grad_block < all ? grad_block : all;
}

dn_status dn_winograd_new(dn_trainer *trainer, dn_layer *layer, dn_error *err) {
    const dn_node *node = layer->node;
    layer->wino = layer->kind == DN_LAYER_DENSE && dn_winograd_fits(node, &trainer->graph->nodes[layer->source_node]);
    if (!layer->wino) return DN_OK;
    choose_block(trainer, layer);
    if (layer->split_size) layer->split_size = layer->split_size / 9 * POSITIONS;
    DN_TRY(DN_OWN(trainer, &layer->wino_forward, panels_of(layer) * wino_panel(layer->panel), err));
    DN_TRY(DN_OWN(trainer, &layer->wino_back, back_panels_of(layer) * wino_panel(layer->back_panel), err));
    return DN_OWN(trainer, &layer->wino_runs, (size_t)layer->cut_count, err);
}

dn_status dn_winograd_scratch(dn_trainer *trainer, dn_error *err) {
    size_t floats = 0;
    bool heavy = false;
    for (int32_t k = 0; k < trainer->layer_count; k++) {
        const dn_layer *layer = &trainer->layers[k];
        size_t widest = dn_round_up(dn_size_max((size_t)layer->group_in, (size_t)layer->group_out), 16);
        size_t tiles = dn_size_max((size_t)layer->wino_tiles, (size_t)layer->wino_grad_tiles) * (size_t)layer->wino_images;
        if (layer->wino) floats = dn_size_max(floats, POSITIONS * tiles * widest);
        heavy |= layer->wino && layer->heavy;
    }
    for (int32_t w = 0; floats && w < trainer->threads; w++) {
        if (heavy) DN_TRY(DN_OWN(trainer, &trainer->scratch[w].sums, (size_t)DN_ITEM_PANELS * POSITIONS * DN_ITEM_CHANNELS * 16, err));
        DN_TRY(DN_OWN(trainer, &trainer->scratch[w].v, floats + 16, err));
        DN_TRY(DN_OWN(trainer, &trainer->scratch[w].m, floats + 16, err));
    }
    return DN_OK;
}

/* Few channels would make short sums, dearer to start and to store than what they save. */
bool dn_winograd_pays(const dn_layer *layer) {
    const dn_train_hooks *h = &layer->hooks;
    if (!layer->wino || h->input || h->weight || h->gradient || h->accumulator) return false;
    return layer->in_active >= LEAST_CHANNELS * layer->groups && layer->out_active >= LEAST_CHANNELS * layer->groups;
}

static void transform(const dn_trainer *trainer, const float *weights, size_t panels, size_t panel, float *to) {
    size_t tap = panel / 9;
    for (size_t p = 0; p < panels; p++) trainer->kernels.wino_f32->weights(weights + p * panel, tap, to + p * wino_panel(panel), tap, tap);
}

void dn_winograd_refresh(const dn_trainer *trainer, dn_layer *layer) {
    if (!layer->wino) return;
    transform(trainer, layer->working, panels_of(layer), layer->panel, layer->wino_forward);
    transform(trainer, layer->transposed, back_panels_of(layer), layer->back_panel, layer->wino_back);
}

/* First dense channel of a group, and how many of the layer's input belong to it. */
static int32_t group_channels(const dn_layer *layer, int32_t group, int32_t *first, int32_t *cut, int32_t *cuts) {
    int32_t count = 0;
    *first = *cut = *cuts = 0;
    for (int32_t k = 0; k < layer->cut_count; k++) {
        if (layer->cuts[k].group != group) continue;
        if (!(*cuts)++) *cut = k, *first = layer->cuts[k].dense;
        count += layer->cuts[k].active;
    }
    return count;
}

void dn_winograd_bind(dn_layer *layer) {
    if (!layer->wino) return;
    for (int32_t k = 0, first = 0, group = -1; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        if (cut->group != group) group = cut->group, first = cut->dense;
        layer->wino_runs[k] = (dn_run){cut->dense - first, (cut->begin - cut->group * layer->group_in) * 16, cut->active};
    }
}

void dn_winograd_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, size_t count, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_node *node = layer->node;
    const dn_value *x = &trainer->values[unit->z], *y = &trainer->values[unit - trainer->units];
    const int32_t all = map_tiles(node);
    for (int32_t g = 0; g < layer->groups; g++) {
        int32_t outputs = dn_active_outputs(layer, g), first, cut, cuts, channels = group_channels(layer, g, &first, &cut, &cuts);
        if (!outputs) break;
        dn_winograd_pass pass = {
            .in_row = (ptrdiff_t)(x->width + node->pad_left + node->pad_right) * x->channels,
            .in_step = x->channels,
            .channels = channels,
            .out_row = (ptrdiff_t)node->width * layer->out_active,
            .out_step = layer->out_active,
            .rows = node->height,
            .columns = node->width,
            .outputs = outputs,
            .weights = layer->wino_forward + (size_t)(g * layer->group_panels) * wino_panel(layer->panel),
            .panel_stride = wino_panel(layer->panel),
            .position_stride = layer->panel / 9,
            .runs = layer->wino_runs + cut,
            .run_count = cuts,
            .epilogue = dn_layer_epilogue(trainer, unit, g),
            .v = scratch->v,
            .m = scratch->m,
            .ahead = &scratch->ahead,
        };
        for (size_t i = 0; i < count; i++) {
            pass.input = dn_layer_padded(trainer, unit, image + i, scratch) + first;
            pass.output = dn_made(y, image + i) + g * layer->group_out;
            if (count == 1) dn_winograd_pass_run(&trainer->kernels, &pass, layer->wino_tiles);
            else dn_winograd_load(&trainer->kernels, &pass, &(dn_winograd_block){0, all, (int32_t)i * all, (int32_t)count * all});
        }
        if (count == 1) continue;
        const float *m = dn_winograd_multiply(&trainer->kernels, &pass, (int32_t)count * all);
        for (size_t i = 0; i < count; i++) {
            pass.output = dn_made(y, image + i) + g * layer->group_out;
            dn_winograd_store(&trainer->kernels, &pass, &(dn_winograd_block){0, all, (int32_t)i * all, (int32_t)count * all}, m);
        }
    }
}

/* What all images of a pass to one cut of the input have in common. */
static dn_winograd_pass back_pass(const dn_trainer *trainer, const dn_unit *unit, const dn_cut *cut, const dn_run *run, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *x = &trainer->values[unit->z], *y = &trainer->values[unit - trainer->units];
    return (dn_winograd_pass){
        .in_row = (ptrdiff_t)(y->width + layer->left + layer->right) * y->channels,
        .in_step = y->channels,
        .channels = run->count,
        .out_row = (ptrdiff_t)x->width * x->channels,
        .out_step = x->channels,
        .rows = x->height,
        .columns = x->width,
        .outputs = cut->active,
        .weights = layer->wino_back + (size_t)cut->panel * wino_panel(layer->back_panel),
        .panel_stride = wino_panel(layer->back_panel),
        .position_stride = layer->back_panel / 9,
        .runs = run,
        .run_count = run->count > 0,
        .epilogue = {.scale = trainer->ones, .bias = trainer->zeros, .lo = -INFINITY, .hi = INFINITY},
        .v = scratch->v,
        .m = scratch->m,
        .ahead = &scratch->ahead,
    };
}

void dn_winograd_input_gradient(dn_trainer *trainer, const dn_unit *unit, const float *framed, float *dx, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    for (int32_t k = 0; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        dn_run run = {0, 0, dn_active_outputs(layer, cut->group)};
        if (!cut->active) continue;
        dn_winograd_pass pass = back_pass(trainer, unit, cut, &run, scratch);
        pass.input = framed + cut->group * layer->group_out;
        pass.output = dx + cut->dense;
        dn_winograd_pass_run(&trainer->kernels, &pass, layer->wino_tiles);
    }
}

void dn_winograd_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t count, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *x = &trainer->values[unit->z];
    const int32_t all = x->height / 2 * (x->width / 2);
    for (int32_t k = 0; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        dn_run run = {0, 0, dn_active_outputs(layer, cut->group)};
        if (!cut->active) continue;
        dn_winograd_pass pass = back_pass(trainer, unit, cut, &run, scratch);
        for (size_t i = 0; i < count; i++) {
            pass.input = dn_layer_framed(trainer, unit, dn_slot(trainer, step->from, image + i), image + i, true, scratch).framed + cut->group * layer->group_out;
            dn_winograd_load(&trainer->kernels, &pass, &(dn_winograd_block){0, all, (int32_t)i * all, (int32_t)count * all});
        }
        const float *m = dn_winograd_multiply(&trainer->kernels, &pass, (int32_t)count * all);
        for (size_t i = 0; i < count; i++) {
            pass.output = dn_slot(trainer, step->to, image + i) + cut->dense;
            dn_winograd_store(&trainer->kernels, &pass, &(dn_winograd_block){0, all, (int32_t)i * all, (int32_t)count * all}, m);
        }
    }
}

void dn_winograd_weights(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *padded, const float *dy, ptrdiff_t dy_row, float *sums, dn_scratch *scratch) {
    const dn_node *node = layer->node;
    for (int32_t k = 0; k < layer->cut_count; k++) {
        const dn_cut *cut = &layer->cuts[k];
        int32_t outputs = dn_active_outputs(layer, cut->group);
        if (!cut->active || !outputs) continue;
        dn_winograd_grad grad = {
            .x = padded + cut->dense,
            .x_row = (ptrdiff_t)(x->width + node->pad_left + node->pad_right) * x->channels,
            .x_step = x->channels,
            .dy = dy + cut->group * layer->group_out,
            .dy_row = dy_row,
            .dy_step = layer->out_active,
            .rows = node->height,
            .columns = node->width,
            .channels = cut->active,
            .outputs = outputs,
            .sums = sums + (size_t)(cut->group * layer->group_panels) * wino_panel(layer->panel) + (size_t)layer->wino_runs[k].weight,
            .panel_stride = wino_panel(layer->panel),
            .position_stride = layer->panel / 9,
            .v = scratch->v,
            .m = scratch->m,
        };
        dn_winograd_grad_run(&trainer->kernels, &grad, layer->wino_grad_tiles);
    }
}

/* One item of a heavy layer's gradient: every image in order, some at a time. */
void dn_winograd_heavy(dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const dn_step *step, const dn_grad_part *part, int worker) {
    const dn_node *node = layer->node;
    const int32_t all = map_tiles(node), channels = part->c_end - part->c, outputs = dn_active_outputs(layer, part->group), last = part->panel_end * 16 < outputs ? part->panel_end * 16 : outputs;
    const int32_t within = part->cut->begin - part->group * layer->group_in + part->c;
    dn_scratch *scratch = &trainer->scratch[worker];
    const size_t position = (size_t)channels * 16, panels = (size_t)(part->panel_end - part->panel);
    dn_winograd_grad grad = {
        .x_row = (ptrdiff_t)(x->width + node->pad_left + node->pad_right) * channels,
        .x_step = channels,
        .dy_row = (ptrdiff_t)node->width * layer->out_active,
        .dy_step = layer->out_active,
        .rows = node->height,
        .columns = node->width,
        .channels = channels,
        .outputs = last - part->panel * 16,
        .sums = scratch->sums,
        .panel_stride = POSITIONS * position,
        .position_stride = position,
        .v = scratch->v,
        .m = scratch->m,
    };
    memset(scratch->sums, 0, panels * POSITIONS * position * sizeof(float));
    for (size_t i = 0; i < trainer->n && !dn_trainer_stop(trainer, worker); i += (size_t)layer->wino_images) {
        size_t count = dn_size_min((size_t)layer->wino_images, trainer->n - i);
        for (size_t k = 0; k < count; k++) {
            grad.x = dn_layer_padded_channels(layer, x, dn_image(x, i + k), part->cut->dense + part->c, channels, scratch->padded);
            grad.dy = dn_slot(trainer, step->from, i + k) + part->group * layer->group_out + part->panel * 16;
            if (layer->wino_images == 1) dn_winograd_grad_run(&trainer->kernels, &grad, layer->wino_grad_tiles);
            else dn_winograd_grad_load(&trainer->kernels, &grad, &(dn_winograd_block){0, all, (int32_t)k * all, (int32_t)count * all});
        }
        if (layer->wino_images > 1) dn_winograd_grad_add(&trainer->kernels, &grad, (int32_t)count * all);
    }
    for (size_t p = 0; p < panels; p++)
        trainer->kernels.wino_f32->sums(scratch->sums + p * POSITIONS * position, position,
                                              layer->weight.gradient + ((size_t)(part->group * layer->group_panels + part->panel) + p) * layer->panel + (size_t)within * 16, layer->panel / 9, position);
}

/* The runs of images are added in order, then turned into the gradient of the weights. */
void dn_winograd_finish_splits(const dn_trainer *trainer, const dn_layer *layer) {
    float *splits = trainer->splits + layer->split_offset;
    const size_t panel = wino_panel(layer->panel), tap = layer->panel / 9;
    for (size_t s = 1; s < DN_SPLITS; s++) trainer->kernels.train_f32->add(splits, splits + s * trainer->split_floats, layer->split_size);
    for (size_t p = 0; p < panels_of(layer); p++) trainer->kernels.wino_f32->sums(splits + p * panel, tap, layer->weight.gradient + p * layer->panel, tap, tap);
}
