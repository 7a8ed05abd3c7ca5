/* layer_new.c - memory and weight layout of one convolution or linear layer. */
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "train/train.h"

size_t dn_layer_weight_index(const dn_layer *layer, int32_t output, int32_t tap, int32_t input) {
    size_t lane = (size_t)(output % 16);
    if (layer->kind == DN_LAYER_DEPTHWISE) return ((size_t)(output / 16) * (size_t)layer->taps + (size_t)tap) * 16 + lane;
    int32_t group = output / layer->group_out, within = output % layer->group_out;
    size_t panel = (size_t)(group * layer->group_panels + within / 16);
    return panel * layer->panel + ((size_t)tap * (size_t)layer->group_in + (size_t)input) * 16 + (size_t)(within % 16);
}

/* Calls for every weight in natural order [out][tap][in]. */
#define FOR_EACH_WEIGHT(layer, body)                                                       \
    do {                                                                                   \
        size_t natural_index = 0;                                                          \
        for (int32_t o = 0; o < (layer)->node->channels; o++)                              \
            for (int32_t t = 0; t < (layer)->taps; t++)                                    \
                for (int32_t i = 0; i < (layer)->group_in; i++, natural_index++) {         \
                    size_t packed_index = dn_layer_weight_index(layer, o, t, i);           \
                    body;                                                                  \
                }                                                                          \
    } while (0)

void dn_layer_get(const dn_layer *layer, const float *packed, float *natural) { FOR_EACH_WEIGHT(layer, natural[natural_index] = packed[packed_index]); }
void dn_layer_set(const dn_layer *layer, const float *natural, float *packed) { FOR_EACH_WEIGHT(layer, packed[packed_index] = natural[natural_index]); }

/* Panels of 16 outputs [input][16] become panels of 16 inputs [output][16], block by block of 16 x 16; the last tap comes first so that runs along a row stay contiguous. */
static void transpose_cut(dn_layer *layer, const dn_cut *cut) {
    for (int32_t p = 0; p * 16 < cut->full; p++) {
        float *panel = layer->transposed + (size_t)(cut->panel + p) * layer->back_panel;
        int32_t first = cut->begin + p * 16 - cut->group * layer->group_in, lanes = cut->full - p * 16 < 16 ? cut->full - p * 16 : 16;
        for (int32_t t = 0; t < layer->taps; t++) {
            float *out = panel + (size_t)(layer->taps - 1 - t) * (size_t)layer->group_out * 16;
            for (int32_t o = 0; o < layer->group_out; o++, out += 16) {
                const float *in = layer->working + dn_layer_weight_index(layer, cut->group * layer->group_out + o, t, first);
                for (int32_t lane = 0; lane < lanes; lane++) out[lane] = in[16 * lane];
            }
        }
    }
}

void dn_layer_refresh(const dn_trainer *trainer, dn_layer *layer, bool transposed) {
    if (layer->hooks.weight) {
        dn_layer_get(layer, layer->weight.value, layer->natural);
        dn_hook_call call = {layer->index, -1, layer->natural, layer->node->channels, layer->taps, layer->group_in};
        layer->hooks.weight(layer->hooks.context, &call);
        dn_layer_set(layer, layer->natural, layer->hooked_weight);
        layer->working = layer->hooked_weight;
    } else if (layer->code_bits) {
        dn_layer_encode(layer, layer->hooked_weight);
        layer->working = layer->hooked_weight;
    } else {
        layer->working = layer->weight.value;
    }
    if (layer->rounded) {
        memcpy(layer->rounded, layer->working, layer->weight.count * sizeof(float));
        dn_round_rows(trainer, layer->rounded, 1, 0, layer->weight.count);
        layer->working = layer->rounded;
    }
    if (transposed && layer->kind != DN_LAYER_DEPTHWISE)
        for (int32_t k = 0; k < layer->cut_count; k++) transpose_cut(layer, &layer->cuts[k]);
    dn_winograd_refresh(trainer, layer);
}

static dn_status new_param(dn_trainer *trainer, dn_param *param, size_t count, bool decays, bool frozen, dn_error *err) {
    *param = (dn_param){.count = count, .decays = decays, .frozen = frozen};
    DN_TRY(DN_OWN(trainer, &param->value, count + 16, err)); /* an epilogue reads up to 16 values from any channel on */
    DN_TRY(DN_OWN(trainer, &param->gradient, count + 16, err));
    DN_TRY(DN_OWN(trainer, &param->moment1, count + 16, err));
    return DN_OWN(trainer, &param->moment2, count + 16, err);
}

/* Segments of the input cut at group boundaries. */
static dn_status make_cuts(dn_trainer *trainer, dn_layer *layer, const dn_node *input, dn_error *err) {
    DN_TRY(DN_OWN(trainer, &layer->cuts, (size_t)(input->segment_count + layer->groups), err));
    int32_t segment = 0, segment_end = input->segments[0].full, at = 0, panel = 0;
    while (at < input->channels) {
        int32_t group = at / layer->group_in, group_end = (group + 1) * layer->group_in, end = segment_end < group_end ? segment_end : group_end;
        layer->cuts[layer->cut_count++] = (dn_cut){.begin = at, .full = end - at, .group = group, .panel = panel};
        panel += (int32_t)dn_ceil_div((size_t)(end - at), 16);
        at = end;
        while (at == segment_end && segment + 1 < input->segment_count) segment_end += input->segments[++segment].full;
    }
    return DN_OWN(trainer, &layer->transposed, (size_t)panel * layer->back_panel, err);
}

static int32_t floor_div(int32_t a, int32_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/* How far backward-data reaches beyond dy along one axis. */
static void reach(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t *before, int32_t *after) {
    *before = *after = 0;
    for (int32_t phase = 0; phase < stride && phase < in; phase++) {
        int32_t last = (in - 1 - phase) / stride;
        for (int32_t k = 0; k < kernel; k++) {
            int32_t distance = phase + pad - k * dilation;
            if (distance - floor_div(distance, stride) * stride) continue;
            int32_t offset = floor_div(distance, stride);
            if (-offset > *before) *before = -offset;
            if (last + offset - (out - 1) > *after) *after = last + offset - (out - 1);
        }
    }
}

static dn_status make_lists(dn_trainer *trainer, dn_layer *layer, dn_error *err) {
    const dn_node *node = layer->node;
    size_t groups = (size_t)layer->groups, taps = (size_t)layer->taps, kernel_h = (size_t)node->kernel_h, sh = (size_t)node->stride_h, sw = (size_t)node->stride_w;
    DN_TRY(DN_OWN(trainer, &layer->runs, DN_EDGES * taps * (size_t)layer->cut_count, err));
    DN_TRY(DN_OWN(trainer, &layer->rows, DN_EDGES * groups * (kernel_h + 1), err));
    DN_TRY(DN_OWN(trainer, &layer->back_runs, DN_EDGES * taps * groups, err));
    DN_TRY(DN_OWN(trainer, &layer->back_rows, DN_EDGES * groups * sw * (kernel_h + sh), err));
    return DN_OWN(trainer, &layer->phases, DN_EDGES * groups * sh * sw, err);
}

static dn_status copy_params(dn_layer *layer, const dn_params *params, dn_error *err) {
    const dn_node *node = layer->node;
    if (params->codes) return dn_fail(err, DN_EINVAL, "%s %d (%s): its weights are quantised; training needs float weights", dn_op_name(node->op), layer->index, node->name);
    if (!params->weight || (node->has_bias && !params->bias))
        return dn_fail(err, DN_EINVAL, "%s %d (%s): no %s given", dn_op_name(node->op), layer->index, node->name, params->weight ? "bias" : "weight");
    dn_layer_set(layer, params->weight, layer->weight.value);
    if (node->has_bias) memcpy(layer->bias.value, params->bias, layer->bias.count * sizeof(float));
    layer->working = layer->weight.value;
    layer->stale = true;
    return DN_OK;
}

dn_status dn_layer_new(dn_trainer *trainer, dn_layer *layer, int32_t index, const dn_params *params, bool frozen, dn_error *err) {
    const dn_node *node = &trainer->graph->nodes[index], *input = &trainer->graph->nodes[node->inputs[0]];
    *layer = (dn_layer){.node = node, .index = index, .source_node = node->inputs[0], .groups = node->groups, .taps = node->kernel_h * node->kernel_w};
    layer->kind = node->depthwise ? DN_LAYER_DEPTHWISE : node->op == DN_OP_LINEAR ? DN_LAYER_LINEAR : DN_LAYER_DENSE;
    layer->group_in = input->channels / node->groups;
    layer->group_out = node->channels / node->groups;
    layer->group_panels = (int32_t)dn_ceil_div((size_t)layer->group_out, 16);
    layer->panel = (size_t)layer->taps * (size_t)layer->group_in * 16;
    layer->back_panel = (size_t)layer->taps * (size_t)layer->group_out * 16;
    size_t count = (size_t)layer->groups * (size_t)layer->group_panels * layer->panel, padded = dn_round_up((size_t)node->channels, 16);
    if (layer->kind == DN_LAYER_DEPTHWISE) count = padded * (size_t)layer->taps;
    layer->heavy = layer->kind == DN_LAYER_DENSE && count > DN_LIGHT_WEIGHTS;
    layer->split_size = layer->kind == DN_LAYER_LINEAR || layer->heavy ? 0 : count;
    DN_TRY(new_param(trainer, &layer->weight, count, true, frozen, err));
    if (node->has_bias) {
        DN_TRY(new_param(trainer, &layer->bias, (size_t)node->channels, false, frozen, err));
        DN_TRY(DN_OWN(trainer, &layer->partial, 2 * (size_t)trainer->batch * (size_t)node->channels, err));
    }
    reach(input->height, node->height, node->kernel_h, node->stride_h, node->dilation_h, node->pad_top, &layer->top, &layer->bottom);
    reach(input->width, node->width, node->kernel_w, node->stride_w, node->dilation_w, node->pad_left, &layer->left, &layer->right);
    if (layer->kind == DN_LAYER_DEPTHWISE) {
        DN_TRY(DN_OWN(trainer, &layer->active_weight, count, err));
        DN_TRY(DN_OWN(trainer, &layer->active_flipped, count, err));
        DN_TRY(DN_OWN(trainer, &layer->active_taps, count, err));
        DN_TRY(DN_OWN(trainer, &layer->active_bias, padded + 16, err));
    } else {
        DN_TRY(make_cuts(trainer, layer, input, err));
        DN_TRY(make_lists(trainer, layer, err));
        DN_TRY(dn_winograd_new(trainer, layer, err));
    }
    if (trainer->bf16) DN_TRY(DN_OWN(trainer, &layer->rounded, count + 16, err));
    return copy_params(layer, params, err);
}

static dn_layer *find_layer(dn_trainer *trainer, int32_t node) {
    if (node < 0 || node >= trainer->graph->count || trainer->layer_of[node] < 0) return NULL;
    return &trainer->layers[trainer->layer_of[node]];
}

dn_status dn_trainer_set_hooks(dn_trainer *trainer, int32_t node, const dn_train_hooks *hooks, dn_error *err) {
    dn_layer *layer = find_layer(trainer, node);
    if (!layer) return dn_fail(err, DN_EINVAL, "node %d is neither a convolution nor linear", node);
    dn_train_hooks wanted = hooks ? *hooks : (dn_train_hooks){0};
    const dn_value *input = &trainer->values[layer->source_node];
    if (wanted.input && !layer->hooked_input) DN_TRY(DN_OWN(trainer, &layer->hooked_input, (size_t)trainer->batch * input->full_size + 16, err));
    if (wanted.weight && !layer->natural) DN_TRY(DN_OWN(trainer, &layer->natural, layer->weight.count, err));
    if (wanted.weight && !layer->hooked_weight) DN_TRY(DN_OWN(trainer, &layer->hooked_weight, layer->weight.count, err));
    layer->hooks = wanted;
    layer->stale = true;
    return DN_OK;
}
