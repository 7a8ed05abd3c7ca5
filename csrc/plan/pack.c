/* pack.c - copies weights into the layout of the kernels, once, at full width. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

enum { PANEL = 16 };

/* Channels of one tap of one pack group in the packed weights: each segment is filled up to steps of 4 channels in int8, of 2 in bf16. */
static int32_t tap_channels(const dn_plan *plan, const dn_plan_op *op) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    size_t step = dn_weight_step(plan, op);
    if (op->group_in) return (int32_t)dn_round_up((size_t)op->group_in, step);
    int32_t channels = 0;
    for (int32_t s = 0; s < input->segment_count; s++) channels += (int32_t)dn_round_up((size_t)input->segments[s].full, step);
    return channels;
}

/* What a weight counts at most, in any of the views that the plan may have to show. */
static int64_t magnitude(const dn_plan *plan, int32_t code) {
    int32_t most = abs(code);
    for (int32_t bits = plan->least_bits; bits < 8; bits++)
        if (abs(dn_view_code(code, bits)) > most) most = abs(dn_view_code(code, bits));
    return most;
}

/* The largest sum that any activations can make of an output's products: they are 0 to 255, so either all that meet positive weights are 255 and the others 0, or the reverse. */
static int64_t largest_sum(const dn_plan *plan, const int8_t *codes, size_t outputs, size_t fan, size_t *where) {
    int64_t largest = -1, magnitudes[256];
    for (int32_t code = -128; code < 128; code++) magnitudes[code + 128] = magnitude(plan, code);
    for (size_t o = 0; o < outputs; o++) {
        int64_t sums[2] = {0, 0};
        for (size_t k = 0; k < fan; k++) sums[codes[o * fan + k] < 0] += magnitudes[codes[o * fan + k] + 128];
        int64_t sum = 255 * (sums[0] > sums[1] ? sums[0] : sums[1]);
        if (sum <= largest) continue;
        largest = sum;
        if (where) *where = o;
    }
    return largest;
}

/* Additions and multiplications per 16 outputs and 2 input channels: of the products, which are computed by quads of tiles, and of weights transformed once per block of them. */
static size_t wino_cost(const dn_node *node, int side, bool stored) {
    size_t tiles = dn_round_up(dn_ceil_div((size_t)node->height, (size_t)side) * dn_ceil_div((size_t)node->width, (size_t)side), DN_WINO_QUAD);
    size_t transform = stored ? 0 : side == 4 ? 400 : 140;
    return 4 * tiles * (size_t)dn_wino_positions(side) + dn_ceil_div(tiles, (size_t)dn_wino_block(side, 0, true)) * transform;
}

/* More transformed weights than a cache near the core holds cost more to fetch than to make. */
enum { NEAR = 1 << 19 };
static bool is_stored(const dn_plan *plan, const dn_plan_op *op, int side) {
    return !plan->compact && (size_t)plan->graph->nodes[op->node].channels * (size_t)tap_channels(plan, op) * (size_t)dn_wino_positions(side) * sizeof(int16_t) <= NEAR;
}

/* The side of Winograd's tiles, 0 if it cannot be used: 3 x 3, stride 1, at least one whole tile, and sums that fit in 32 bits also before they are divided. */
static void choose_wino(const dn_plan *plan, dn_plan_op *op, const int8_t *codes) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    if (op->kind != DN_DO_CONV || !op->int8 || op->partial || !plan->kernels.conv_s8->winograd) return;
    if (node->kernel_h != 3 || node->kernel_w != 3 || node->stride_h != 1 || node->stride_w != 1 || node->dilation_h != 1 || node->dilation_w != 1) return;
    size_t fan = (size_t)(input->channels / node->groups) * 9;
    int64_t sum = largest_sum(plan, codes, (size_t)node->channels, fan, NULL);
    int32_t least = node->height < node->width ? node->height : node->width;
    if (input->segment_count + input->channels / DN_WINO_CHUNK > DN_WINO_RUNS) return;
    for (int side = 2; side <= 4; side += 2) {
        bool stored = is_stored(plan, op, side);
        if (least < side || sum << dn_wino_bits(side) > INT32_MAX || (op->winograd && wino_cost(node, 2, op->stored) <= wino_cost(node, 4, stored))) continue;
        op->winograd = side;
        op->stored = stored;
    }
}

/* The same for float layers, whose transformed weights take 16 floats for 9. */
static void choose_wino_f32(const dn_plan *plan, dn_plan_op *op) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    if (op->kind != DN_DO_CONV || op->int8 || plan->bf16 || plan->compact || op->partial || !dn_wino_f32_fits(node)) return;
    if (!dn_wino_f32_pays(node, input->channels / node->groups, node->channels / node->groups)) return;
    op->winograd = 2;
    op->stored = true;
}

/* Does a point exist at which the layer has fewer channels, so that it may have to be computed directly? */
static bool is_elastic(const dn_plan *plan, const dn_plan_op *op) {
    const dn_node *nodes[2] = {&plan->graph->nodes[op->node], &plan->graph->nodes[plan->graph->nodes[op->node].inputs[0]]};
    for (int k = 0; k < 2; k++)
        for (int32_t s = 0; s < nodes[k]->segment_count; s++)
            if (plan->graph->spaces[nodes[k]->segments[s].space].elastic) return true;
    return false;
}

static dn_status place_wino(const dn_plan *plan, dn_plan_op *op, size_t *used, dn_error *err) {
    size_t bytes;
    const size_t element = op->int8 ? sizeof(int16_t) : sizeof(float);
    op->wino_offset = *used;
    size_t channels = (size_t)tap_channels(plan, op);
    op->wino_chunk = channels < DN_WINO_CHUNK || !op->int8 ? (int32_t)channels : DN_WINO_CHUNK;
    op->wino_panel_stride = dn_round_up(channels, (size_t)op->wino_chunk) * PANEL * (size_t)dn_wino_positions(op->winograd);
    op->wino_group_stride = op->wino_panel_stride * dn_ceil_div((size_t)op->group_out, PANEL);
    bool fits = dn_size_mul(op->wino_group_stride, (size_t)op->pack_groups * element, &bytes) && dn_size_add(*used, dn_round_up(bytes, 64), used);
    return fits ? DN_OK : dn_fail(err, DN_ENOMEM, "%s: weights do not fit in memory", plan->graph->nodes[op->node].name);
}

static dn_status place(dn_plan *plan, dn_plan_op *op, size_t *used, dn_error *err) {
    const dn_node *node = &plan->graph->nodes[op->node];
    size_t taps = (size_t)node->kernel_h * (size_t)node->kernel_w, element = dn_weight_size(plan, op), bytes;
    op->weight_offset = *used;
    if (op->kind == DN_DO_DEPTHWISE) {
        bytes = dn_round_up((size_t)node->channels, PANEL) * taps * element;
    } else {
        op->tap_stride = (size_t)tap_channels(plan, op) * PANEL * element;
        op->panel_stride = op->tap_stride * taps;
        op->group_stride = op->panel_stride * dn_ceil_div((size_t)op->group_out, PANEL);
        if (!dn_size_mul(op->group_stride, (size_t)op->pack_groups, &bytes)) return dn_fail(err, DN_ENOMEM, "%s: weights do not fit in memory", node->name);
        if (op->stored) DN_TRY(place_wino(plan, op, used, err));
        if (!op->direct) return DN_OK;
        op->weight_offset = *used;
    }
    if (!dn_size_add(*used, dn_round_up(bytes, 64), used)) return dn_fail(err, DN_ENOMEM, "weights do not fit in memory");
    return DN_OK;
}

/* An accumulator must fit in 31 bits. */
static dn_status check_accumulator(const dn_plan *plan, const dn_plan_op *op, const int8_t *codes, dn_error *err) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    size_t fan = (size_t)(input->channels / node->groups) * (size_t)node->kernel_h * (size_t)node->kernel_w;
    size_t output;
    if (largest_sum(plan, codes, (size_t)node->channels, fan, &output) > INT32_MAX)
        return dn_fail(err, DN_EUNSUPPORTED, "%s: output %zu could overflow a 32-bit sum (%zu inputs); leave this layer in float", node->name, output, fan);
    return DN_OK;
}

static void pack_depthwise(const dn_plan *plan, const dn_plan_op *op, const dn_params *p) {
    const dn_node *node = &plan->graph->nodes[op->node];
    size_t taps = (size_t)node->kernel_h * (size_t)node->kernel_w;
    uint8_t *base = plan->blob + op->weight_offset;
    for (size_t c = 0; c < (size_t)node->channels; c++)
        for (size_t t = 0; t < taps; t++) {
            size_t to = (c / PANEL * taps + t) * PANEL + c % PANEL, from = c * taps + t;
            if (op->int8) ((int8_t *)base)[to] = p->codes[from];
            else if (plan->bf16) ((uint16_t *)(void *)base)[to] = dn_bf16_round(p->weight[from]);
            else ((float *)(void *)base)[to] = p->weight[from];
        }
}

/* One output channel of a convolution: [tap][channel] in the source to its lane of the panel. */
static void pack_output(const dn_plan *plan, const dn_plan_op *op, const dn_params *p, size_t output) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    size_t taps = (size_t)node->kernel_h * (size_t)node->kernel_w, fan = (size_t)(input->channels / node->groups);
    if (!op->direct) return;
    size_t group = output / (size_t)op->group_out, within = output % (size_t)op->group_out, lane = within % PANEL;
    uint8_t *panel = plan->blob + op->weight_offset + group * op->group_stride + within / PANEL * op->panel_stride;
    dn_segment whole = {0, (int32_t)fan, 1};
    const dn_segment *segments = op->group_in ? &whole : input->segments;
    int32_t count = op->group_in ? 1 : input->segment_count;
    for (size_t t = 0; t < taps; t++) {
        size_t from = (output * taps + t) * fan, to = 0;
        for (int32_t s = 0; s < count; s++) {
            size_t full = (size_t)segments[s].full;
            for (size_t c = 0; c < full; c++) {
                if (op->planes) dn_plane_put(plan, op, group, within, t * op->tap_stride / PANEL + to + c, p->codes[from + c]);
                else if (op->int8) ((int8_t *)(panel + t * op->tap_stride))[(to + c) / 4 * 64 + lane * 4 + (to + c) % 4] = p->codes[from + c];
                else if (plan->bf16) ((uint16_t *)(void *)(panel + t * op->tap_stride))[(to + c) / 2 * 32 + lane * 2 + (to + c) % 2] = dn_bf16_round(p->weight[from + c]);
                else ((float *)(void *)(panel + t * op->tap_stride))[(to + c) * PANEL + lane] = p->weight[from + c];
            }
            from += full;
            to += dn_round_up(full, dn_weight_step(plan, op));
        }
    }
}

/* The same output channel for wino_s8. */
static void pack_wino(const dn_plan *plan, const dn_plan_op *op, const dn_params *p, size_t output) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    size_t fan = (size_t)(input->channels / node->groups), group = output / (size_t)op->group_out, within = output % (size_t)op->group_out;
    int16_t *panel = (int16_t *)(void *)(plan->blob + op->wino_offset) + group * op->wino_group_stride + within / PANEL * op->wino_panel_stride + within % PANEL * 2;
    size_t segment = 0, left = op->group_in ? fan : (size_t)input->segments[0].full, to = 0;
    for (size_t c = 0; c < fan; c++, left--, to++) {
        if (left == 0) left = (size_t)input->segments[++segment].full, to = dn_round_up(to, 4);
        int8_t kernel[9];
        int16_t transformed[DN_WINO_POSITIONS];
        for (size_t t = 0; t < 9; t++) kernel[t] = p->codes[(output * 9 + t) * fan + c];
        dn_wino_weights(op->winograd, kernel, transformed);
        for (size_t i = 0; i < (size_t)dn_wino_positions(op->winograd); i++) panel[i * (size_t)op->wino_chunk * PANEL + dn_wino_place(op, (int32_t)to)] = transformed[i];
    }
}

/* The same output channel for wino_f32: [position][channel][16]. */
static void pack_wino_f32(const dn_plan *plan, const dn_plan_op *op, const dn_params *p, size_t output) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    size_t fan = (size_t)(input->channels / node->groups), group = output / (size_t)op->group_out, within = output % (size_t)op->group_out;
    float *lane = (float *)(void *)(plan->blob + op->wino_offset) + group * op->wino_group_stride + within / PANEL * op->wino_panel_stride + within % PANEL;
    for (size_t c = 0; c < fan; c++)
        plan->kernels.wino_f32->weights(p->weight + output * 9 * fan + c, fan, lane + c * PANEL, (size_t)op->wino_chunk * PANEL, 1);
}

/* ---- the parameters that binding reads ---- */

static size_t keep(dn_plan *plan, const float *values, size_t count) {
    if (!values) return SIZE_MAX;
    size_t at = plan->param_count;
    if (plan->params) memcpy(plan->params + at, values, count * sizeof *values);
    plan->param_count += count;
    return at;
}

static void keep_params(dn_plan *plan, const dn_params *params) {
    plan->param_count = 0;
    for (int32_t i = 0; i < plan->graph->count; i++) {
        const dn_node *node = &plan->graph->nodes[i];
        plan->weight_scale[i] = plan->bias[i] = plan->gamma[i] = plan->beta[i] = SIZE_MAX;
        if (node->op == DN_OP_CONV2D || node->op == DN_OP_LINEAR) {
            plan->weight_scale[i] = keep(plan, params[i].codes ? params[i].code_scale : NULL, (size_t)node->channels);
            plan->bias[i] = keep(plan, node->has_bias ? params[i].bias : NULL, (size_t)node->channels);
        } else if (node->op == DN_OP_BATCHNORM) {
            plan->gamma[i] = keep(plan, params[i].weight, (size_t)node->channels);
            plan->beta[i] = keep(plan, params[i].bias, (size_t)node->channels);
        }
    }
}

static dn_status check_finite(const dn_graph *graph, int32_t i, const float *values, size_t count, const char *what, dn_error *err) {
    for (size_t k = 0; values && k < count; k++)
        if (!isfinite(values[k])) return dn_fail(err, DN_ENONFINITE, "%s: %s %zu is %g", graph->nodes[i].name, what, k, (double)values[k]);
    return DN_OK;
}

/* A weight that rounds to infinity would turn the zeros it meets into NaN. */
static dn_status check_range(const dn_graph *graph, int32_t i, const float *values, size_t count, dn_error *err) {
    for (size_t k = 0; k < count; k++)
        if (isinf(dn_bf16_widen(dn_bf16_round(values[k])))) return dn_fail(err, DN_ENONFINITE, "%s: weight %zu is %g: too large for bf16", graph->nodes[i].name, k, (double)values[k]);
    return DN_OK;
}

static dn_status check_params(const dn_plan *plan, const dn_params *params, dn_error *err) {
    for (int32_t i = 0; i < plan->graph->count; i++) {
        const dn_node *node = &plan->graph->nodes[i];
        dn_tensor_info info;
        dn_graph_tensor(plan->graph, i, &info);
        bool weighted = node->op == DN_OP_CONV2D || node->op == DN_OP_LINEAR;
        if (!info.weights) continue;
        if (!params[i].weight && !(weighted && params[i].codes && params[i].code_scale)) return dn_fail(err, DN_EINVAL, "%s has no weights", node->name);
        if (info.biases && !params[i].bias) return dn_fail(err, DN_EINVAL, "%s has no bias", node->name);
        DN_TRY(check_finite(plan->graph, i, params[i].codes ? NULL : params[i].weight, (size_t)info.weights, "weight", err));
        if (plan->bf16 && weighted) DN_TRY(check_range(plan->graph, i, params[i].weight, (size_t)info.weights, err));
        DN_TRY(check_finite(plan->graph, i, params[i].codes ? params[i].code_scale : NULL, (size_t)node->channels, "weight scale", err));
        DN_TRY(check_finite(plan->graph, i, params[i].bias, (size_t)info.biases, "bias", err));
    }
    return DN_OK;
}

dn_status dn_plan_pack(dn_plan *plan, const dn_params *params, dn_error *err) {
    const size_t nodes = (size_t)plan->graph->count;
    DN_TRY(check_params(plan, params, err));
    for (int32_t k = 0; k < plan->op_count; k++) {
        dn_plan_op *op = &plan->ops[k];
        if (op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) continue;
        if (op->int8) DN_TRY(check_accumulator(plan, op, params[op->node].codes, err));
        choose_wino(plan, op, params[op->node].codes);
        op->planes = dn_planes_fit(plan, op, params[op->node].codes);
        choose_wino_f32(plan, op);
        op->direct = !op->stored || (op->int8 ? plan->least_bits < 8 : is_elastic(plan, op));
        DN_TRY(place(plan, op, &plan->blob_bytes, err));
    }
    plan->blob_bytes += 64; /* depthwise kernels read whole panels, also from the middle of the last one */
    DN_TRY(DN_NEW(&plan->blob, plan->blob_bytes, err));
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (op->kind == DN_DO_DEPTHWISE) pack_depthwise(plan, op, &params[op->node]);
        if (op->planes) dn_planes_clear(plan, op);
        for (int32_t o = 0; op->kind == DN_DO_CONV && o < plan->graph->nodes[op->node].channels; o++) {
            pack_output(plan, op, &params[op->node], (size_t)o);
            if (op->stored) (op->int8 ? pack_wino : pack_wino_f32)(plan, op, &params[op->node], (size_t)o);
        }
    }
    DN_TRY(DN_NEW(&plan->weight_scale, 4 * nodes, err));
    plan->bias = plan->weight_scale + nodes;
    plan->gamma = plan->bias + nodes;
    plan->beta = plan->gamma + nodes;
    keep_params(plan, params);
    DN_TRY(DN_NEW(&plan->params, plan->param_count, err));
    keep_params(plan, params);
    return DN_OK;
}
