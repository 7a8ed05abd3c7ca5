/* tables.c - what a step needs besides weights: scales and biases of its epilogue, lookup tables, lane maps. Everything is computed in double and rounded once. */
#include <math.h>

#include "base/size.h"
#include "plan/plan.h"

enum { PANEL = 16, SOME = 64 };

double dn_scale_of(const dn_binding *b, int32_t tensor, int32_t group) {
    for (;;) {
        int32_t root = b->root[tensor], from = b->plan->graph->nodes[root].scale_from;
        if (from == tensor) break;
        tensor = from;
    }
    return b->tables->scale ? (double)b->tables->scale[(size_t)tensor * (size_t)b->plan->graph->groups + (size_t)group] : 1;
}

int32_t dn_channel_groups(const dn_binding *b, int32_t tensor) {
    const dn_graph *graph = b->plan->graph;
    if (graph->groups == 1) return 1;
    const dn_node *node = &graph->nodes[tensor];
    if (node->segment_count != 1 || !graph->spaces[node->segments[0].space].elastic) return 1;
    return b->subnet->active[node->segments[0].space] / (node->channels / graph->groups);
}

/* ---- sizes ---- */

static bool by_lane(const dn_plan_op *op) { return op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE || op->kind == DN_DO_AFFINE; }

static int32_t groups_of(const dn_binding *b, const dn_plan_op *op, const dn_record *record) {
    if (op->kind == DN_DO_INPUT || op->kind == DN_DO_CONCAT || op->kind == DN_DO_SHORTCUT) return 1;
    if (op->kind == DN_DO_CONV) return op->pack_groups > 1 ? record->channels / op->group_out : 1;
    return dn_channel_groups(b, op->output);
}

/* Lanes of all inputs of a concatenation, which are those of its output. */
static size_t extra_bytes(const dn_binding *b, const dn_plan_op *op, const dn_record *record) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    size_t lanes = (size_t)record->pixel;
    if (op->kind == DN_DO_CONCAT) return (size_t)node->input_count * sizeof(int32_t) + (op->int8 ? 2 * lanes * sizeof(float) : 0);
    if (op->kind == DN_DO_SHORTCUT) return lanes * sizeof(int32_t);
    if (op->kind == DN_DO_ACTIVATION && op->int8) return 256 * (size_t)record->groups;
    if (op->kind == DN_DO_INPUT && op->int8 && b->plan->input_table) return 256 * (size_t)record->channels;
    if ((op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) || op->group_in) return 0;
    int32_t segments = b->plan->graph->nodes[b->root[dn_op_input(b->plan, op)]].segment_count;
    return segments > 1 ? (size_t)segments * sizeof(int32_t) : 0;
}

size_t dn_record_tables(const dn_binding *b, dn_record *record) {
    const dn_plan_op *op = &b->plan->ops[record->op];
    record->groups = groups_of(b, op, record);
    record->table_channels = by_lane(op) ? record->pixel : 0;
    if (op->partial) record->table_channels *= dn_channel_groups(b, b->root[dn_op_input(b->plan, op)]);
    return (size_t)dn_scale_sets(b->plan, record) * sizeof(dn_scales) + 2 * (size_t)record->table_channels * sizeof(float) + extra_bytes(b, op, record);
}

/* ---- scales and lists ---- */

static dn_scales scales_of(const dn_binding *b, const dn_plan_op *op, int32_t group) {
    dn_scales s = {1, 1, 1};
    int32_t input = dn_op_input(b->plan, op);
    if (dn_op_reads_u8(op) && input >= 0) s.in = (float)dn_scale_of(b, input, dn_channel_groups(b, input) > group ? group : 0);
    if (dn_op_writes_u8(op)) s.out = (float)dn_scale_of(b, op->output, group);
    if (op->residual >= 0 && dn_op_reads_u8(op)) s.second = (float)dn_scale_of(b, op->residual, group);
    if (op->kind == DN_DO_MUL && op->int8) {
        int32_t other = b->plan->graph->nodes[op->node].inputs[1];
        s.second = (float)dn_scale_of(b, other, dn_channel_groups(b, other) > group ? group : 0);
    }
    return s;
}

void dn_step_facts(const dn_binding *b, int32_t number) {
    const dn_record *record = &b->point->records[number];
    const dn_plan_op *op = &b->plan->ops[record->op];
    dn_scales *scales = (dn_scales *)(void *)(b->point->tables + record->table);
    int32_t sets = dn_scale_sets(b->plan, record), value;
    for (int32_t g = 0; g < sets; g++) scales[g] = scales_of(b, op, g);
    int32_t *list = (int32_t *)(void *)((float *)(void *)(scales + sets) + 2 * record->table_channels);
    for (int32_t k = 0; op->kind == DN_DO_CONCAT && (value = dn_op_read(b, op, k)) >= 0; k++) list[k] = b->first[value];
    if ((op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) || op->group_in) return;
    const dn_node *input = &b->plan->graph->nodes[b->root[dn_op_input(b->plan, op)]];
    for (int32_t s = 0; input->segment_count > 1 && s < input->segment_count; s++) list[s] = b->subnet->active[input->segments[s].space];
}

/* ---- sums of weights ---- */

static int64_t wino_sum(const dn_plan *plan, const dn_plan_op *op, const dn_step *step, int32_t g, int32_t within) {
    const int16_t *base = (const int16_t *)(const void *)(plan->blob + op->wino_offset);
    const int16_t *sums = base + (size_t)g * op->wino_group_stride + (size_t)(within / PANEL) * op->wino_panel_stride +
                          (size_t)(dn_wino_sum_position(op->winograd) * op->wino_chunk * PANEL + within % PANEL * 2);
    int64_t sum = 0;
    for (int32_t s = 0; s < step->parts; s++)
        for (int32_t c = step->runs[s].weight; c < step->runs[s].weight + step->runs[s].lanes; c++) sum += sums[dn_wino_place(op, c)];
    return sum / dn_wino_sum_factor(op->winograd);
}

/* The code of a convolution's weight: output channel `within` of pack group g, input channel c of tap t. */
static int32_t packed_code(const dn_plan *plan, const dn_plan_op *op, size_t g, size_t within, size_t t, size_t c) {
    if (op->planes) return dn_plane_code(plan, op, g, within, t * op->tap_stride / PANEL + c);
    const int8_t *panel = (const int8_t *)plan->blob + op->weight_offset + g * op->group_stride + within / PANEL * op->panel_stride;
    return panel[t * op->tap_stride + c / 4 * 64 + within % PANEL * 4 + c % 4];
}

/* Sum of the weights that output channel `within` of pack group g meets in these runs; padding lanes included, as the kernels include them. */
static int64_t weight_sum(const dn_plan *plan, const dn_step *step, const dn_segment_run *runs, int32_t parts, int32_t g, int32_t within) {
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_node *node = &plan->graph->nodes[op->node];
    int32_t taps = node->kernel_h * node->kernel_w;
    int64_t sum = 0;
    if (op->kind == DN_DO_DEPTHWISE) {
        const int8_t *base = (const int8_t *)plan->blob + op->weight_offset;
        for (int32_t t = 0; t < taps; t++) sum += dn_view_code(base[(size_t)((within / PANEL * taps + t) * PANEL + within % PANEL)], step->bits);
        return sum;
    }
    if (step->winograd && !step->packed) return wino_sum(plan, op, step, g, within);
    for (int32_t t = 0; t < taps; t++)
        for (int32_t s = 0; s < parts; s++)
            for (int32_t c = runs[s].weight; c < runs[s].weight + runs[s].lanes; c++)
                sum += dn_view_code(packed_code(plan, op, (size_t)g, (size_t)within, (size_t)t, (size_t)c), step->bits);
    return sum;
}

/* ---- scales and biases ---- */

/* Neighbouring channels, which stand in neighbouring lanes of one group. */
typedef struct span {
    int32_t lane, channel, count, group;
} span;

/* y = x * k + shift: batch norm (and the layer's own bias) of up to SOME channels. raw: the bias alone. */
typedef struct lines {
    double k[SOME], shift[SOME];
} lines;

static void lines_of(const dn_binding *b, const dn_plan_op *op, int32_t begin, int32_t count, bool raw, lines *l) {
    const dn_plan *plan = b->plan;
    const float *bias = plan->bias[op->node] == SIZE_MAX ? NULL : plan->params + plan->bias[op->node] + begin;
    bool weighted = op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE;
    for (int32_t i = 0; i < count; i++) l->k[i] = 1, l->shift[i] = weighted && bias ? (double)bias[i] : 0;
    if (op->norm < 0 || raw) return;
    const dn_node *norm = &plan->graph->nodes[op->norm];
    const float *gamma = dn_gamma_of(plan, b->tables, op->norm) + begin, *beta = dn_beta_of(plan, b->tables, op->norm) + begin;
    const float *mean = b->tables->mean + norm->norm_offset + begin, *variance = b->tables->variance + norm->norm_offset + begin;
    const double epsilon = (double)norm->value;
    for (int32_t i = 0; i < count; i++) {
        l->k[i] = (double)gamma[i] / sqrt((double)variance[i] + epsilon);
        l->shift[i] = (l->shift[i] - (double)mean[i]) * l->k[i] + (double)beta[i];
    }
}

/* Up to SOME channels of a convolution. raw: as if nothing were fused and the output were real. */
static void weighted_entries(const dn_binding *b, const dn_step *step, const span *p, bool raw, float *scale, float *bias) {
    const dn_plan *plan = b->plan;
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_real_scales s = dn_step_scales(b->point, step, p->group);
    const float *weight = op->int8 ? plan->params + plan->weight_scale[op->node] + p->channel : NULL;
    const double divide = raw ? 1 : dn_op_divisor(plan, op, &s);
    const bool is_code = !raw && !dn_op_has_act(plan, op, DN_OP_HARDSWISH);
    const double zero = op->int8 ? s.zero_in - (op->kind == DN_DO_CONV && !step->winograd ? plan->kernels.conv_s8->a_offset : 0) : 0;
    const double residual = !raw && op->residual >= 0 ? s.zero_second * s.second / divide : 0;
    lines l;
    lines_of(b, op, p->channel, p->count, raw, &l);
    for (int32_t i = 0; i < p->count; i++) {
        l.k[i] = s.in * (weight ? (double)weight[i] : 1) * l.k[i] / divide;
        l.shift[i] = l.shift[i] / divide;
    }
    for (int32_t i = 0; is_code && i < p->count; i++) l.shift[i] += s.zero_out;
    for (int32_t i = 0; zero != 0 && i < p->count; i++) {
        int32_t g = op->kind == DN_DO_CONV ? (p->channel + i) / op->group_out : 0;
        l.shift[i] -= zero * (double)weight_sum(plan, step, step->runs, step->parts, g, p->channel + i - g * op->group_out) * l.k[i];
    }
    for (int32_t i = 0; i < p->count; i++) scale[i] = (float)l.k[i], bias[i] = (float)(l.shift[i] - residual);
}

/* The same for what multiplies nothing. */
static void affine_entries(const dn_binding *b, const dn_step *step, const span *p, bool raw, float *scale, float *bias) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    const dn_real_scales s = dn_step_scales(b->point, step, p->group);
    const double divide = raw ? 1 : dn_op_divisor(b->plan, op, &s), zero_out = raw || dn_op_has_act(b->plan, op, DN_OP_HARDSWISH) ? 0 : s.zero_out;
    const double residual = !raw && op->residual >= 0 ? s.zero_second * s.second : 0;
    lines l;
    lines_of(b, op, p->channel, p->count, raw, &l);
    for (int32_t i = 0; i < p->count; i++) {
        scale[i] = (float)(s.in * l.k[i] / divide);
        bias[i] = (float)((l.shift[i] - s.zero_in * s.in * l.k[i] - residual) / divide + zero_out);
    }
}

/* Lanes beyond the active channels: what the epilogue makes there must be the zero point. */
static void lane_entries(const dn_binding *b, const dn_step *step, int32_t count, float *scale, float *bias) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    const dn_real_scales s = dn_step_scales(b->point, step, step->groups - 1);
    double shift = dn_op_has_act(b->plan, op, DN_OP_HARDSWISH) ? 0 : s.zero_out;
    if (op->residual >= 0) shift -= s.zero_second * s.second / dn_op_divisor(b->plan, op, &s);
    for (int32_t i = 0; i < count; i++) scale[i] = 0, bias[i] = (float)shift;
}

static float *scales_at(const dn_binding *b, const dn_step *step) { return (float *)(void *)(b->point->tables + step->table); }

static void fill_lanes(const dn_binding *b, const dn_step *step, bool raw) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    const dn_node *node = &b->plan->graph->nodes[op->output];
    const int32_t width = step->groups > 1 ? step->out.channels / step->groups : step->out.pixel;
    float *scale = scales_at(b, step), *bias = scale + step->table_channels;
    int32_t lane = 0, channel = 0;
    for (int32_t k = 0; k < node->segment_count; k++) {
        int32_t active = b->subnet->active[node->segments[k].space], lanes = (int32_t)dn_round_up((size_t)active, 4);
        for (int32_t at = 0, count; at < active; at += count) {
            count = active - at < SOME ? active - at : SOME;
            if (count > width - at % width) count = width - at % width;
            const span p = {lane + at, channel + at, count, step->groups > 1 ? at / width : 0};
            (op->kind == DN_DO_AFFINE ? affine_entries : weighted_entries)(b, step, &p, raw, scale + p.lane, bias + p.lane);
        }
        lane_entries(b, step, lanes - active, scale + lane + active, bias + lane + active);
        channel += node->segments[k].full;
        lane += lanes;
    }
}

/* A dense layer over a grouped network: one pass per input group. Each pass has its own group's compensation, so that its sums do not depend on which groups follow; all but the first add
 * theirs only where there is one. */
static void fill_partial(const dn_binding *b, const dn_step *step) {
    const dn_plan *plan = b->plan;
    const dn_plan_op *op = &plan->ops[step->op];
    const int32_t lanes = step->out.pixel, passes = (int32_t)step->table_channels / lanes, width = step->in.channels / passes;
    float *scale = scales_at(b, step), *bias = scale + step->table_channels;
    lines l;
    for (int32_t c = 0; c < step->out.channels; c++) {
        lines_of(b, op, c, 1, false, &l);
        for (int32_t g = 0; g < passes; g++) {
            const dn_real_scales s = dn_step_scales(b->point, step, g);
            const dn_segment_run run = {.lane = g * width, .lanes = width, .weight = g * width, .channels = width};
            double k = s.in * (op->int8 ? (double)plan->params[plan->weight_scale[op->node] + (size_t)c] : 1) * l.k[0], shift = g ? 0 : l.shift[0];
            if (step->pass_bias) shift -= (s.zero_in - plan->kernels.conv_s8->a_offset) * (double)weight_sum(plan, step, &run, 1, 0, c) * k;
            if (op->residual >= 0 && g == 0) shift -= s.zero_second * s.second;
            scale[g * lanes + c] = (float)k;
            bias[g * lanes + c] = (float)shift;
        }
    }
}

/* ---- the rest ---- */

static double apply_activation(const dn_node *node, double x) {
    if (node->op == DN_OP_SIGMOID) return 1 / (1 + exp(-x));
    if (node->op == DN_OP_HARDSIGMOID) return fmin(fmax(x / 6 + 0.5, 0), 1);
    return x < 0 ? x * (double)node->value : x;
}

static void fill_activation(const dn_binding *b, const dn_step *step) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    uint8_t *table = b->point->tables + step->extra;
    for (int32_t g = 0; op->int8 && g < step->groups; g++) {
        const dn_real_scales s = dn_step_scales(b->point, step, g);
        for (int q = 0; q < 256; q++) {
            double y = apply_activation(&b->plan->graph->nodes[op->node], (q - s.zero_in) * s.in);
            table[g * 256 + q] = (uint8_t)rint(fmin(fmax(y / s.out + s.zero_out, 0), 255));
        }
    }
}

static void fill_input(const dn_binding *b, const dn_step *step) {
    if (!step->out.u8 || !b->plan->input_table) return;
    float inverse = (float)(1 / dn_step_scales(b->point, step, 0).out);
    b->plan->kernels.pointwise_u8->quantize(b->plan->input_table, b->point->tables + step->extra, 256, step->out.channels, 256, inverse, 128);
}

static void fill_concat(const dn_binding *b, const dn_step *step) {
    const dn_node *node = &b->plan->graph->nodes[b->plan->ops[step->op].node];
    double s_out = dn_step_scales(b->point, step, 0).out, zero_out = step->out.zero;
    for (int32_t k = 0; step->out.u8 && k < step->parts; k++) {
        const dn_concat_part *part = &step->inputs[k];
        double ratio = dn_scale_of(b, node->inputs[k], 0) / s_out;
        float *scale = (float *)(void *)(b->point->tables + part->table);
        for (int32_t c = 0; c < part->in.pixel; c++) scale[c] = (float)ratio, scale[part->in.pixel + c] = (float)(zero_out - part->in.zero * ratio);
    }
}

/* The lane of an active channel, -1 if it is not active. */
static int32_t channel_lane(const dn_binding *b, int32_t tensor, int32_t channel) {
    const dn_node *node = &b->plan->graph->nodes[tensor];
    int32_t begin = 0, first = 0;
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = b->subnet->active[node->segments[s].space];
        if (channel < begin + node->segments[s].full) return channel - begin < active ? first + channel - begin : -1;
        begin += node->segments[s].full;
        first += (int32_t)dn_round_up((size_t)active, 4);
    }
    return -1;
}

/* For each output lane the input lane it copies, or -1. */
static void fill_shortcut(const dn_binding *b, const dn_step *step) {
    const dn_node *node = &b->plan->graph->nodes[b->plan->ops[step->op].node];
    int32_t *map = (int32_t *)(void *)(b->point->tables + step->extra), begin = 0;
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = b->subnet->active[node->segments[s].space], lanes = (int32_t)dn_round_up((size_t)active, 4);
        for (int32_t i = 0; i < lanes; i++) {
            int32_t from = i < active ? node->map[begin + i] : -1;
            *map++ = from < 0 ? -1 : channel_lane(b, b->root[node->inputs[0]], from);
        }
        begin += node->segments[s].full;
    }
}

/* Whether no sum can leave the range of 32-bit integers on its way through the epilogue, with a margin of 2 for the roundings. */
static bool is_bounded(const dn_binding *b, const dn_step *step) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    if (!by_lane(op) || !dn_op_writes_u8(op) || step->flags & DN_EPI_HARDSWISH) return false;
    const float *scale = scales_at(b, step), *bias = scale + step->table_channels;
    float residual = 0;
    bool outside = false;
    for (int32_t g = 0; g < step->groups; g++) {
        outside |= step->scalars[g].lo != 0;
        residual = fmaxf(residual, 255 * fabsf(step->scalars[g].residual_scale));
    }
    for (size_t k = 0; k < step->table_channels; k++) outside |= !(fabsf(scale[k]) * 0x1p31f + fabsf(bias[k]) + residual < 0x1p30f);
    return !outside;
}

void dn_step_fill(const dn_binding *b, int32_t number) {
    const dn_step *step = &b->steps.steps[number];
    switch (b->plan->ops[step->op].kind) {
    case DN_DO_CONV:
        if (b->plan->ops[step->op].partial) fill_partial(b, step);
        else fill_lanes(b, step, false);
        break;
    case DN_DO_DEPTHWISE:
    case DN_DO_AFFINE: fill_lanes(b, step, false); break;
    case DN_DO_ACTIVATION: fill_activation(b, step); break;
    case DN_DO_INPUT: fill_input(b, step); break;
    case DN_DO_CONCAT: fill_concat(b, step); break;
    case DN_DO_SHORTCUT: fill_shortcut(b, step); break;
    case DN_DO_MUL:
    case DN_DO_MAX_POOL:
    case DN_DO_AVG_POOL:
    case DN_DO_PAD:
    case DN_DO_QUANTIZE:
    case DN_DO_DEQUANTIZE:
    case DN_DO_OUTPUT: break;
    }
    b->point->records[number].bounded = is_bounded(b, step);
}

void dn_step_raw_tables(const dn_binding *b, const dn_step *step) { fill_lanes(b, step, true); }
