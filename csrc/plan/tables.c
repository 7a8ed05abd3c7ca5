/* tables.c - what a step needs besides weights: epilogue scales and biases, lookup tables, lane maps. Everything is computed in double and rounded once. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "plan/plan.h"

enum { PANEL = 16 };

size_t dn_tables_take(dn_binding *b, size_t bytes, void **memory) {
    size_t at = b->table_used;
    b->table_used = dn_round_up(at + bytes, 64);
    *memory = b->measure ? NULL : b->point->tables + at;
    return at;
}

double dn_scale_of(const dn_binding *b, int32_t tensor, int32_t group) {
    for (;;) {
        int32_t root = b->root[tensor], from = b->plan->graph->nodes[root].scale_from;
        if (from == tensor) break;
        tensor = from;
    }
    return b->tables->scale ? (double)b->tables->scale[(size_t)tensor * (size_t)b->plan->graph->groups + (size_t)group] : 1;
}

int32_t dn_channel_groups(const dn_binding *b, int32_t tensor, int32_t *channels) {
    const dn_graph *graph = b->plan->graph;
    const dn_node *node = &graph->nodes[tensor];
    int32_t active = dn_graph_active(graph, b->subnet->active, tensor);
    *channels = active;
    if (graph->groups == 1 || node->segment_count != 1 || !graph->spaces[node->segments[0].space].elastic) return 1;
    *channels = node->channels / graph->groups;
    return active / *channels;
}

/* y = x * k + shift: the batch norm (and the layer's own bias) of full channel c. */
typedef struct line {
    double k, shift;
} line;

static line line_of(const dn_binding *b, const dn_plan_op *op, int32_t c) {
    const dn_plan *plan = b->plan;
    line l = {1, 0};
    bool weighted = op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE;
    if (weighted && plan->bias[op->node] != SIZE_MAX) l.shift = (double)plan->params[plan->bias[op->node] + (size_t)c];
    if (op->norm < 0) return l;
    const dn_node *norm = &plan->graph->nodes[op->norm];
    size_t at = (size_t)norm->norm_offset + (size_t)c;
    double gamma = (double)plan->params[plan->gamma[op->norm] + (size_t)c], beta = (double)plan->params[plan->beta[op->norm] + (size_t)c];
    l.k = gamma / sqrt((double)b->tables->variance[at] + (double)norm->value);
    l.shift = (l.shift - (double)b->tables->mean[at]) * l.k + beta;
    return l;
}

/* ---- scalars ---- */

static bool act_is(const dn_binding *b, const dn_plan_op *op, dn_op kind) { return op->act >= 0 && b->plan->graph->nodes[op->act].op == kind; }

static void set_limits(const dn_binding *b, const dn_plan_op *op, double s_out, bool u8, dn_scalars *out) {
    out->lo = u8 ? 0 : -INFINITY;
    out->hi = u8 ? 255 : INFINITY;
    if (act_is(b, op, DN_OP_RELU) || act_is(b, op, DN_OP_RELU6)) out->lo = 0;
    if (act_is(b, op, DN_OP_RELU6)) out->hi = u8 ? (float)fmin(255, rint(6 / s_out)) : 6;
}

/* Scales of one channel group of a step: input, output, residual; 1 and 0 in float. */
typedef struct scales {
    double in, zero_in, out, zero_out, residual, zero_residual;
} scales;

static double zero_of(const dn_binding *b, int32_t tensor) { return b->plan->graph->nodes[b->root[tensor]].is_signed ? 128 : 0; }

static scales scales_of(const dn_binding *b, const dn_plan_op *op, int32_t group) {
    scales s = {1, 0, 1, 0, 1, 0};
    if (b->plan->graph->groups == 1) group = 0; /* groups of one convolution share scales; only incremental groups have their own */
    int32_t input = dn_op_input(b->plan, op), unused;
    if (dn_op_reads_u8(op) && input >= 0) {
        s.in = dn_scale_of(b, input, dn_channel_groups(b, input, &unused) > group ? group : 0);
        s.zero_in = zero_of(b, input);
    }
    if (dn_op_writes_u8(op)) {
        s.out = dn_scale_of(b, op->output, group);
        s.zero_out = zero_of(b, op->output);
    }
    if (op->residual >= 0 && dn_op_reads_u8(op)) {
        s.residual = dn_scale_of(b, op->residual, group);
        s.zero_residual = zero_of(b, op->residual);
    }
    return s;
}

/* Real value of the epilogue before the output's scale is divided out: hardswish works on real values. */
static double divisor(const dn_binding *b, const dn_plan_op *op, const scales *s) { return act_is(b, op, DN_OP_HARDSWISH) ? 1 : s->out; }

static dn_scalars scalars_of(const dn_binding *b, const dn_plan_op *op, int32_t group, int32_t begin, int32_t count) {
    scales s = scales_of(b, op, group);
    dn_scalars out = {.begin = begin, .count = count, .in_scale = (float)s.in, .in_zero = (float)s.zero_in};
    set_limits(b, op, s.out, dn_op_writes_u8(op), &out);
    out.residual_scale = (float)(s.residual / divisor(b, op, &s));
    out.out_scale = (float)(1 / s.out);
    out.out_zero = (float)s.zero_out;
    out.out_real = (float)s.out;
    if (op->kind == DN_DO_MUL && op->int8) {
        int32_t other = b->plan->graph->nodes[op->node].inputs[1], unused;
        out.factor = (float)(s.in * dn_scale_of(b, other, dn_channel_groups(b, other, &unused) > group ? group : 0) / s.out);
    }
    return out;
}

static void take_scalars(dn_binding *b, const dn_plan_op *op, dn_step *step, int32_t groups, int32_t channels) {
    void *memory;
    step->groups = groups;
    step->scalars = dn_tables_take(b, (size_t)groups * sizeof(dn_scalars), &memory);
    dn_scalars *scalars = memory;
    for (int32_t g = 0; scalars && g < groups; g++) scalars[g] = scalars_of(b, op, g, g * channels, channels);
}

/* ---- convolutions ---- */

static int64_t wino_sum(const dn_plan *plan, const dn_plan_op *op, const dn_step *step, const dn_segment_run *runs, int32_t g, int32_t within) {
    const int16_t *base = (const int16_t *)(const void *)(plan->blob + op->wino_offset);
    const int16_t *sums = base + (size_t)g * op->wino_group_stride + (size_t)(within / PANEL) * op->wino_panel_stride +
                          (size_t)(dn_wino_sum_position(op->winograd) * op->wino_chunk * PANEL + within % PANEL * 2);
    int64_t sum = 0;
    for (int32_t s = 0; s < step->parts; s++)
        for (int32_t c = runs[s].weight; c < runs[s].weight + runs[s].lanes; c++) sum += sums[dn_wino_place(op, c)];
    return sum / dn_wino_sum_factor(op->winograd);
}

/* The code of a convolution's weight: output channel `within` of pack group g, input channel c of tap t. */
static int32_t packed_code(const dn_plan *plan, const dn_plan_op *op, size_t g, size_t within, size_t t, size_t c) {
    if (op->planes) return dn_plane_code(plan, op, g, within, t * op->tap_stride / PANEL + c);
    const int8_t *panel = (const int8_t *)plan->blob + op->weight_offset + g * op->group_stride + within / PANEL * op->panel_stride;
    return panel[t * op->tap_stride + c / 4 * 64 + within % PANEL * 4 + c % 4];
}

/* Sum of the weights that output channel `within` of pack group g meets; padding lanes included, as the kernels include them. part: segment run to sum over, -1: all. */
static int64_t weight_sum(const dn_plan *plan, const dn_plan_op *op, const dn_step *step, const dn_segment_run *runs, int32_t g, int32_t within) {
    const dn_node *node = &plan->graph->nodes[op->node];
    int32_t taps = node->kernel_h * node->kernel_w;
    int64_t sum = 0;
    if (op->kind == DN_DO_DEPTHWISE) {
        const int8_t *base = (const int8_t *)plan->blob + op->weight_offset;
        for (int32_t t = 0; t < taps; t++) sum += dn_view_code(base[(size_t)((within / PANEL * taps + t) * PANEL + within % PANEL)], step->bits);
        return sum;
    }
    if (step->winograd && !step->packed) return wino_sum(plan, op, step, runs, g, within);
    for (int32_t t = 0; t < taps; t++)
        for (int32_t s = 0; s < step->parts; s++)
            for (int32_t c = runs[s].weight; c < runs[s].weight + runs[s].lanes; c++)
                sum += dn_view_code(packed_code(plan, op, (size_t)g, (size_t)within, (size_t)t, (size_t)c), step->bits);
    return sum;
}

static void make_runs(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    const dn_graph *graph = b->plan->graph;
    const dn_node *input = &graph->nodes[b->root[dn_op_input(b->plan, op)]];
    int32_t count = step->parts, lane = 0, weight = 0;
    void *memory;
    step->extra = dn_tables_take(b, (size_t)count * sizeof(dn_segment_run), &memory);
    dn_segment_run *runs = memory;
    for (int32_t s = 0; runs && s < count; s++) {
        int32_t channels = op->group_in ? op->group_in : b->subnet->active[input->segments[s].space];
        int32_t filled = (int32_t)dn_round_up((size_t)channels, 4), full = op->group_in ? op->group_in : input->segments[s].full;
        runs[s] = (dn_segment_run){.lane = lane, .lanes = filled, .weight = weight, .channels = channels};
        lane += filled;
        weight += op->kind == DN_DO_CONV ? (int32_t)dn_round_up((size_t)full, dn_weight_step(b->plan, op)) : full; /* depthwise weights stand by channel */
    }
}

/* Scale and bias of one output channel. raw: as if nothing were fused and the output were real. */
static void channel_entry(dn_binding *b, const dn_plan_op *op, const dn_step *step, const dn_segment_run *runs, int32_t g, int32_t within, int32_t c, const scales *s, bool raw,
                          float *scale, float *bias) {
    line l = raw ? (line){1, 0} : line_of(b, op, c);
    if (raw && b->plan->bias[op->node] != SIZE_MAX) l.shift = (double)b->plan->params[b->plan->bias[op->node] + (size_t)c];
    double divide = raw ? 1 : divisor(b, op, s), weight = op->int8 ? (double)b->plan->params[b->plan->weight_scale[op->node] + (size_t)c] : 1;
    double k = s->in * weight * l.k / divide, shift = l.shift / divide;
    if (!raw && !act_is(b, op, DN_OP_HARDSWISH)) shift += s->zero_out;
    double zero = s->zero_in - (op->kind == DN_DO_CONV && op->int8 && !step->winograd ? b->plan->kernels.conv_s8->a_offset : 0);
    if (op->int8 && zero != 0) shift -= zero * (double)weight_sum(b->plan, op, step, runs, g, within) * k;
    if (!raw && op->residual >= 0) shift -= s->zero_residual * s->residual / divide;
    *scale = (float)k;
    *bias = (float)shift;
}

/* Lanes beyond the active channels: what the epilogue makes there must be the zero point. */
static void lane_entry(const dn_binding *b, const dn_plan_op *op, const scales *s, float *scale, float *bias) {
    double shift = act_is(b, op, DN_OP_HARDSWISH) ? 0 : s->zero_out;
    if (op->residual >= 0) shift -= s->zero_residual * s->residual / divisor(b, op, s);
    *scale = 0;
    *bias = (float)shift;
}

static void fill_conv(dn_binding *b, const dn_plan_op *op, const dn_step *step, bool raw, float *scale, float *bias) {
    const dn_segment_run *runs = (const dn_segment_run *)(const void *)(b->point->tables + step->extra);
    int32_t per_group = (int32_t)(step->table_channels / (size_t)step->groups), active = step->out.channels;
    for (int32_t g = 0; g < step->groups; g++) {
        scales s = scales_of(b, op, g);
        int32_t channels = step->groups > 1 ? op->group_out : active;
        for (int32_t c = 0; c < per_group; c++, scale++, bias++) {
            if (c < channels) channel_entry(b, op, step, runs, g, c, g * op->group_out + c, &s, raw, scale, bias);
            else lane_entry(b, op, &s, scale, bias);
        }
    }
}

/* A dense layer over a grouped network: one pass per input group. Each pass has its own group's compensation, so that its sums do not depend on which groups follow; all but the first add
 * theirs only where there is one. */
static void fill_partial(dn_binding *b, const dn_plan_op *op, dn_step *step, float *scale, float *bias) {
    int32_t width, groups = dn_channel_groups(b, b->root[dn_op_input(b->plan, op)], &width), lanes = (int32_t)dn_round_up((size_t)step->out.channels, PANEL);
    double zero = op->int8 ? zero_of(b, dn_op_input(b->plan, op)) - b->plan->kernels.conv_s8->a_offset : 0;
    step->pass_bias = zero != 0;
    for (int32_t c = 0; c < step->out.channels; c++) {
        line l = line_of(b, op, c);
        for (int32_t g = 0; g < groups; g++) {
            double shift = g ? 0 : l.shift;
            scales s = scales_of(b, op, g);
            dn_segment_run run = {.lane = g * width, .lanes = width, .weight = g * width, .channels = width};
            double k = s.in * (op->int8 ? (double)b->plan->params[b->plan->weight_scale[op->node] + (size_t)c] : 1) * l.k;
            if (zero != 0) shift -= zero * (double)weight_sum(b->plan, op, step, &run, 0, c) * k;
            if (op->residual >= 0 && g == 0) shift -= s.zero_residual * s.residual;
            scale[g * lanes + c] = (float)k;
            bias[g * lanes + c] = (float)shift;
        }
    }
}

static void conv_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    int32_t width, in_groups = dn_channel_groups(b, b->root[dn_op_input(b->plan, op)], &width);
    int32_t groups = op->kind == DN_DO_CONV && op->pack_groups > 1 ? step->out.channels / op->group_out : 1;
    int32_t per_group = groups > 1 ? op->group_out : step->out.channels;
    int32_t passes = op->partial ? in_groups : 1;
    void *memory;
    make_runs(b, op, step);
    if (op->kind == DN_DO_DEPTHWISE) groups = dn_channel_groups(b, op->output, &per_group);
    if (op->kind == DN_DO_DEPTHWISE) per_group = groups > 1 ? per_group : step->out.pixel; /* tables follow the lanes */
    step->table_channels = (size_t)groups * (op->kind == DN_DO_DEPTHWISE ? (size_t)per_group : dn_round_up((size_t)per_group, PANEL)) * (size_t)passes;
    take_scalars(b, op, step, groups, per_group);
    size_t length = dn_round_up(step->table_channels, PANEL) + PANEL;
    step->table = dn_tables_take(b, 2 * length * sizeof(float), &memory);
    float *scale = memory;
    if (!scale) return;
    step->flags |= op->float_out ? DN_CONV_F32_OUT : 0;
    if (op->partial) fill_partial(b, op, step, scale, scale + length);
    else if (op->kind == DN_DO_CONV) fill_conv(b, op, step, false, scale, scale + length);
}

/* ---- tables that follow the lanes of a tensor: depthwise and affine ---- */

/* Full channel of every lane, -1 for padding, in lane order. */
static int32_t lane_channels(const dn_binding *b, int32_t tensor, int32_t lane) {
    const dn_node *node = &b->plan->graph->nodes[tensor];
    int32_t begin = 0, first = 0;
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = b->subnet->active[node->segments[s].space], lanes = (int32_t)dn_round_up((size_t)active, 4);
        if (lane < first + lanes) return lane - first < active ? begin + lane - first : -1;
        begin += node->segments[s].full;
        first += lanes;
    }
    return -1;
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

static void lane_tables(dn_binding *b, const dn_plan_op *op, const dn_step *step, bool raw, float *scale, float *bias) {
    int32_t width = 0, groups = dn_channel_groups(b, op->output, &width);
    for (int32_t lane = 0; lane < step->out.pixel; lane++) {
        scales s = scales_of(b, op, groups > 1 ? lane / width : 0);
        int32_t c = lane_channels(b, op->output, lane);
        if (c < 0) {
            lane_entry(b, op, &s, &scale[lane], &bias[lane]);
        } else if (op->kind == DN_DO_DEPTHWISE) {
            channel_entry(b, op, step, NULL, 0, c, c, &s, raw, &scale[lane], &bias[lane]);
        } else {
            line l = raw ? (line){1, 0} : line_of(b, op, c);
            double divide = raw ? 1 : divisor(b, op, &s), shift = l.shift - s.zero_in * s.in * l.k;
            if (!raw && op->residual >= 0) shift -= s.zero_residual * s.residual;
            scale[lane] = (float)(s.in * l.k / divide);
            bias[lane] = (float)(shift / divide + (raw || act_is(b, op, DN_OP_HARDSWISH) ? 0 : s.zero_out));
        }
    }
}

static void affine_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    int32_t width, groups = dn_channel_groups(b, op->output, &width);
    void *memory;
    take_scalars(b, op, step, groups, groups > 1 ? width : step->out.pixel);
    step->table_channels = (size_t)step->out.pixel;
    step->table = dn_tables_take(b, 2 * (dn_round_up(step->table_channels, PANEL) + PANEL) * sizeof(float), &memory);
}

/* ---- the rest ---- */

static double apply_activation(const dn_node *node, double x) {
    if (node->op == DN_OP_SIGMOID) return 1 / (1 + exp(-x));
    if (node->op == DN_OP_HARDSIGMOID) return fmin(fmax(x / 6 + 0.5, 0), 1);
    return x < 0 ? x * (double)node->value : x;
}

static void activation_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    int32_t width, groups = dn_channel_groups(b, op->output, &width);
    void *memory;
    take_scalars(b, op, step, groups, groups > 1 ? width : step->out.pixel);
    if (!op->int8) return;
    step->extra = dn_tables_take(b, 256 * (size_t)groups, &memory);
    for (int32_t g = 0; memory && g < groups; g++) {
        scales s = scales_of(b, op, g);
        for (int q = 0; q < 256; q++) {
            double y = apply_activation(&b->plan->graph->nodes[op->node], (q - s.zero_in) * s.in);
            ((uint8_t *)memory)[g * 256 + q] = (uint8_t)rint(fmin(fmax(y / s.out + s.zero_out, 0), 255));
        }
    }
}

static void input_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    void *memory;
    take_scalars(b, op, step, 1, step->out.pixel);
    if (!op->int8 || !b->plan->input_table) return;
    size_t channels = (size_t)step->out.channels;
    step->extra = dn_tables_take(b, 256 * channels, &memory);
    float inverse = (float)(1 / dn_scale_of(b, op->output, 0));
    for (size_t i = 0; memory && i < 256 * channels; i++)
        ((uint8_t *)memory)[i] = (uint8_t)rintf(fminf(fmaxf(fmaf(b->plan->input_table[i], inverse, 128), 0), 255));
}

static void concat_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    void *memory;
    int32_t lane = 0;
    take_scalars(b, op, step, 1, step->out.pixel);
    step->parts = node->input_count;
    step->extra = dn_tables_take(b, (size_t)node->input_count * sizeof(dn_concat_part), &memory);
    dn_concat_part *parts = memory;
    for (int32_t k = 0; k < node->input_count; k++) {
        const dn_map *in = &b->point->maps[dn_op_read(b, op, k)];
        size_t length = dn_round_up((size_t)in->pixel, PANEL) + PANEL;
        size_t table = dn_tables_take(b, 2 * length * sizeof(float), &memory);
        if (parts) {
            double s_in = op->int8 ? dn_scale_of(b, node->inputs[k], 0) : 1, s_out = op->int8 ? dn_scale_of(b, op->output, 0) : 1;
            double zero_in = op->int8 ? in->zero : 0, zero_out = op->int8 ? step->out.zero : 0;
            parts[k] = (dn_concat_part){.in = *in, .lane = lane, .table = table, .copy = !op->int8 || (s_in == s_out && zero_in == zero_out)};
            float *scale = memory;
            for (int32_t c = 0; c < in->pixel; c++) scale[c] = (float)(s_in / s_out), scale[length + (size_t)c] = (float)(zero_out - zero_in * (s_in / s_out));
        }
        lane += in->pixel;
    }
}

/* For each output lane the input lane it copies, or -1. */
static void shortcut_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    void *memory;
    take_scalars(b, op, step, 1, step->out.pixel);
    step->extra = dn_tables_take(b, (size_t)step->out.pixel * sizeof(int32_t), &memory);
    int32_t *map = memory;
    for (int32_t lane = 0; map && lane < step->out.pixel; lane++) {
        int32_t c = lane_channels(b, op->output, lane), from = c < 0 ? -1 : node->map[c];
        map[lane] = from < 0 ? -1 : channel_lane(b, b->root[node->inputs[0]], from);
    }
}

static void plain_tables(dn_binding *b, const dn_plan_op *op, dn_step *step) {
    int32_t width, groups = dn_channel_groups(b, op->output, &width);
    take_scalars(b, op, step, groups, groups > 1 ? width : step->out.pixel);
}

/* Whether no sum can leave the range of 32-bit integers on its way through the epilogue, with a margin of 2 for the roundings. */
static bool is_bounded(const dn_binding *b, const dn_plan_op *op, const dn_step *step) {
    if (!dn_op_writes_u8(op) || step->flags & DN_EPI_HARDSWISH) return false;
    const dn_scalars *s = (const dn_scalars *)(const void *)(b->point->tables + step->scalars);
    const float *scale = (const float *)(const void *)(b->point->tables + step->table), *bias = scale + dn_table_bias(step);
    float residual = 0;
    bool outside = false;
    for (int32_t g = 0; g < step->groups; g++) {
        outside |= s[g].lo != 0;
        residual = fmaxf(residual, 255 * fabsf(s[g].residual_scale));
    }
    for (size_t k = 0; k < step->table_channels; k++) outside |= !(fabsf(scale[k]) * 0x1p31f + fabsf(bias[k]) + residual < 0x1p30f);
    return !outside;
}

dn_status dn_step_tables(dn_binding *b, dn_step *step, dn_error *err) {
    (void)err;
    const dn_plan_op *op = &b->plan->ops[step->op];
    step->flags = (op->residual >= 0 ? DN_EPI_RESIDUAL : 0) | (act_is(b, op, DN_OP_HARDSWISH) ? DN_EPI_HARDSWISH : 0);
    switch (op->kind) {
    case DN_DO_CONV:
    case DN_DO_DEPTHWISE: conv_tables(b, op, step); break;
    case DN_DO_AFFINE: affine_tables(b, op, step); break;
    case DN_DO_ACTIVATION: activation_tables(b, op, step); break;
    case DN_DO_INPUT: input_tables(b, op, step); break;
    case DN_DO_CONCAT: concat_tables(b, op, step); break;
    case DN_DO_SHORTCUT: shortcut_tables(b, op, step); break;
    case DN_DO_MUL:
    case DN_DO_MAX_POOL:
    case DN_DO_AVG_POOL:
    case DN_DO_PAD:
    case DN_DO_QUANTIZE:
    case DN_DO_DEQUANTIZE:
    case DN_DO_OUTPUT: plain_tables(b, op, step); break;
    }
    if (!b->measure && (op->kind == DN_DO_AFFINE || op->kind == DN_DO_DEPTHWISE)) {
        float *scale = (float *)(void *)(b->point->tables + step->table);
        lane_tables(b, op, step, false, scale, scale + dn_round_up(step->table_channels, PANEL) + PANEL);
    }
    if (!b->measure && step->table_channels && is_bounded(b, op, step)) step->flags |= DN_EPI_BOUNDED;
    return DN_OK;
}

void dn_step_raw_tables(dn_binding *b, const dn_step *step, float *scale, float *bias) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    if (op->kind == DN_DO_CONV) fill_conv(b, op, step, true, scale, bias);
    else lane_tables(b, op, step, true, scale, bias);
}
