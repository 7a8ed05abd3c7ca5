/* layer_bind.c - what a convolution reads and writes in one pass: runs of channels per tap for its active channels, forward and backward. */
#include <string.h>

#include "base/size.h"
#include "train/train.h"

/* Appends a run, or lengthens the one before it (not before `first`) when both input and weights go on where it ended. */
static int32_t append(dn_run *runs, int32_t count, int32_t first, dn_run run) {
    if (run.count == 0) return count;
    if (count > first) {
        dn_run *last = &runs[count - 1];
        if (last->input + last->count == run.input && last->weight + 16 * last->count == run.weight) {
            last->count += run.count;
            return count;
        }
    }
    runs[count] = run;
    return count + 1;
}

static void place_cuts(dn_layer *layer, const dn_value *input) {
    int32_t dense = 0;
    for (int32_t k = 0; k < layer->cut_count; k++) {
        dn_cut *cut = &layer->cuts[k];
        cut->active = 0;
        for (int32_t r = 0; r < input->range_count; r++) {
            int32_t begin = input->ranges[r].begin, end = begin + input->ranges[r].count, cut_end = cut->begin + cut->full;
            int32_t low = begin > cut->begin ? begin : cut->begin, high = end < cut_end ? end : cut_end;
            if (high > low) cut->active += high - low; /* a cut lies inside one segment, so active channels are its first ones */
        }
        cut->dense = dense;
        dense += cut->active;
    }
}

/* Is column `position` + offset of an input `width` wide outside it, seen from the given edge? Only the outermost column counts: the others take all taps. */
static bool beyond(int edge, int32_t position, int32_t width) { return (edge == DN_EDGE_LEFT && position < 0) || (edge == DN_EDGE_RIGHT && position >= width); }

static void bind_forward(dn_layer *layer, const dn_value *input) {
    const dn_node *node = layer->node;
    int32_t padded_width = input->width + node->pad_left + node->pad_right, count = 0;
    dn_row_taps *rows = layer->rows;
    for (int edge = 0; edge < DN_EDGES; edge++) {
        int32_t cut_begin = 0, column = edge == DN_EDGE_RIGHT ? (node->width - 1) * node->stride_w : 0, kept = 0;
        for (int32_t g = 0; g < layer->groups; g++, rows += node->kernel_h + 1) {
            int32_t cut_end = cut_begin;
            while (cut_end < layer->cut_count && layer->cuts[cut_end].group == g) cut_end++;
            for (int32_t kh = 0; kh < node->kernel_h; kh++) {
                rows[kh] = (dn_row_taps){kh * node->dilation_h - node->pad_top, count};
                for (int32_t kw = 0; kw < node->kernel_w; kw++) {
                    int32_t pixel = (kh * node->dilation_h * padded_width + kw * node->dilation_w) * input->channels, tap = kh * node->kernel_w + kw;
                    if (beyond(edge, column + kw * node->dilation_w - node->pad_left, input->width)) continue;
                    kept++;
                    for (int32_t k = cut_begin; k < cut_end; k++) {
                        const dn_cut *cut = &layer->cuts[k];
                        dn_run run = {pixel + cut->dense, (tap * layer->group_in + cut->begin - g * layer->group_in) * 16, cut->active};
                        count = append(layer->runs, count, rows[kh].first, run);
                    }
                }
            }
            rows[node->kernel_h] = (dn_row_taps){0, count};
            cut_begin = cut_end;
        }
        layer->share[edge] = (float)kept / (float)(layer->taps * layer->groups);
    }
}

/* offset such that output row `phase + stride * y` meets dy row y + offset through tap k; false if it never does. */
static bool meets(int32_t phase, int32_t pad, int32_t k, int32_t dilation, int32_t stride, int32_t *offset) {
    int32_t distance = phase + pad - k * dilation;
    if (distance % stride) return false;
    *offset = distance / stride;
    return true;
}

/* Taps of one output phase of group g, from the last to the first so that rows and columns of dy come in ascending order. */
static void bind_phase(dn_layer *layer, const dn_value *output, int edge, int32_t g, int32_t py, int32_t px, int32_t last_column, int32_t *row_count, int32_t *count, int32_t *kept) {
    const dn_node *node = layer->node;
    int32_t padded_width = output->width + layer->left + layer->right, channels = dn_active_outputs(layer, g), column = edge == DN_EDGE_RIGHT ? last_column : 0;
    for (int32_t kh = node->kernel_h - 1; kh >= 0; kh--) {
        int32_t y, x;
        if (!meets(py, node->pad_top, kh, node->dilation_h, node->stride_h, &y)) continue;
        dn_row_taps *row = &layer->back_rows[(*row_count)++];
        *row = (dn_row_taps){y, *count};
        for (int32_t kw = node->kernel_w - 1; kw >= 0; kw--) {
            if (!meets(px, node->pad_left, kw, node->dilation_w, node->stride_w, &x) || beyond(edge, column + x, output->width)) continue;
            int32_t tap = layer->taps - 1 - (kh * node->kernel_w + kw);
            dn_run run = {((y + layer->top) * padded_width + x + layer->left) * output->channels + g * layer->group_out, tap * layer->group_out * 16, channels};
            *count = append(layer->back_runs, *count, row->first, run);
            ++*kept;
        }
    }
}

static void bind_backward(dn_layer *layer, const dn_value *input, const dn_value *output) {
    const dn_node *node = layer->node;
    int32_t count = 0, row_count = 0;
    dn_phase_taps *phase = layer->phases;
    for (int edge = 0; edge < DN_EDGES; edge++) {
        int32_t kept = 0;
        for (int32_t g = 0; g < layer->groups; g++)
            for (int32_t py = 0; py < node->stride_h; py++)
                for (int32_t px = 0; px < node->stride_w; px++, phase++) {
                    phase->rows_first = row_count;
                    bind_phase(layer, output, edge, g, py, px, (input->width - 1 - px) / node->stride_w, &row_count, &count, &kept);
                    phase->rows_count = row_count - phase->rows_first;
                    layer->back_rows[row_count++] = (dn_row_taps){0, count};
                }
        layer->back_share[edge] = (float)kept / (float)(layer->taps * layer->groups);
    }
}

static void bind_depthwise(dn_layer *layer, const dn_value *input) {
    size_t dense = 0, taps = (size_t)layer->taps, active = (size_t)input->channels;
    memset(layer->active_weight, 0, layer->weight.count * sizeof(float));
    memset(layer->active_flipped, 0, layer->weight.count * sizeof(float));
    for (int32_t r = 0; r < input->range_count; r++)
        for (int32_t c = 0; c < input->ranges[r].count; c++, dense++) {
            if (layer->bias.count) layer->active_bias[dense] = layer->bias.value[input->ranges[r].begin + c];
            for (size_t t = 0; t < taps; t++) {
                float w = layer->working[dn_layer_weight_index(layer, input->ranges[r].begin + c, (int32_t)t, 0)];
                layer->active_weight[(dense / 16 * taps + t) * 16 + dense % 16] = w;
                layer->active_flipped[(dense / 16 * taps + taps - 1 - t) * 16 + dense % 16] = w;
                layer->active_taps[t * active + dense] = w;
            }
        }
}

void dn_layer_bind(dn_trainer *trainer, dn_layer *layer, const dn_value *input, const dn_value *output) {
    (void)trainer;
    layer->in_active = input->channels;
    layer->out_active = output->channels;
    if (layer->kind == DN_LAYER_DEPTHWISE) {
        bind_depthwise(layer, input);
        return;
    }
    place_cuts(layer, input);
    bind_forward(layer, input);
    dn_winograd_bind(layer);
    if (layer->kind == DN_LAYER_DENSE) bind_backward(layer, input, output);
}
