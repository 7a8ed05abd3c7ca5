/* steps.c - writes the records of a point out as steps. What a record leaves to the plan (sizes, strides, limits, views) is worked out here, once when an engine turns to the point:
 * kept in every point it would take several times the memory of the tables. */
#include <math.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"
#include "plan/widen.h"

/* ---- room ---- */

static bool has_weights(const dn_plan_op *op) { return op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE; }

static int32_t parts_of(const dn_plan *plan, const dn_plan_op *op) {
    if (op->kind == DN_DO_CONCAT) return plan->graph->nodes[op->node].input_count;
    if (!has_weights(op)) return 0;
    return op->group_in ? 1 : plan->graph->nodes[plan->source[dn_op_input(plan, op)]].segment_count;
}

dn_status dn_steps_new(dn_steps *steps, const dn_plan *plan, dn_error *err) {
    size_t scalars = 0, runs = 0, inputs = 0;
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        int32_t most = op->pack_groups > plan->graph->groups ? op->pack_groups : plan->graph->groups;
        scalars += (size_t)most;
        *(op->kind == DN_DO_CONCAT ? &inputs : &runs) += (size_t)parts_of(plan, op);
    }
    *steps = (dn_steps){.bytes = (size_t)plan->op_count * sizeof(dn_step) + inputs * sizeof(dn_concat_part) + scalars * sizeof(dn_scalars) + runs * sizeof(dn_segment_run)};
    DN_TRY(dn_alloc((void **)&steps->steps, steps->bytes, 1, err));
    steps->inputs = (dn_concat_part *)(void *)(steps->steps + plan->op_count);
    steps->scalars = (dn_scalars *)(void *)(steps->inputs + inputs);
    steps->runs = (dn_segment_run *)(void *)(steps->scalars + scalars);
    return DN_OK;
}

void dn_steps_free(dn_steps *steps) { dn_free(steps->steps); }

/* ---- maps ---- */

dn_map dn_record_map(const dn_plan *plan, const dn_record *r) {
    const dn_plan_op *op = &plan->ops[r->op];
    const dn_node *node = &plan->graph->nodes[op->output];
    bool u8 = dn_op_writes_u8(op);
    dn_map map = {.pixel = r->pixel, .row = (r->left + node->width + r->right) * r->pixel, .height = node->height, .width = node->width, .channels = r->channels, .top = r->top,
                  .bottom = r->bottom, .left = r->left, .right = r->right, .zero = dn_zero_of(node), .u8 = u8, .gaps = r->gaps,
                  .size = u8 ? 1 : dn_float_size(plan, op->output)};
    map.offset = (size_t)r->block * DN_BLOCK + (size_t)(map.top * map.row + map.left * map.pixel) * (size_t)map.size;
    return map;
}

static dn_map map_at(const dn_point *point, int32_t number) { return number < 0 ? (dn_map){0} : dn_record_map(point->plan, &point->records[number]); }

/* ---- what follows from maps ---- */

static int64_t macs_of(const dn_plan *plan, const dn_plan_op *op, const dn_step *step) {
    const dn_node *node = &plan->graph->nodes[op->node];
    if (!has_weights(op)) return 0;
    int64_t fan = node->groups > 1 ? plan->graph->nodes[node->inputs[0]].channels / node->groups : step->in.channels;
    return (int64_t)node->height * node->width * step->out.channels * node->kernel_h * node->kernel_w * fan;
}

/* Weights that the step reads against what it reads and writes of one image. */
static bool is_heavy(const dn_plan *plan, const dn_plan_op *op, const dn_step *step) {
    const dn_map *maps[] = {&step->in, &step->out, &step->second};
    size_t bytes = 0, pixels = (size_t)(step->out.height * step->out.width);
    if (op->kind != DN_DO_CONV || pixels == 0) return false;
    for (int32_t i = 0; i < (step->has_second ? 3 : 2); i++) bytes += (size_t)(maps[i]->height * maps[i]->width * maps[i]->pixel) * (size_t)maps[i]->size;
    size_t weights = (size_t)step->macs / pixels;
    bool transformed = step->winograd && !step->packed;
    return (transformed ? weights * (size_t)dn_wino_positions(step->winograd) * (op->int8 ? sizeof(int16_t) : sizeof(float)) / 9 : weights * dn_weight_size(plan, op)) > bytes;
}

/* in and second: the maps it reads, if any. */
static void write_step(const dn_point *point, int32_t number, const dn_map *in, const dn_map *second, dn_step *s) {
    const dn_plan *plan = point->plan;
    const dn_record *r = &point->records[number];
    const dn_plan_op *op = &plan->ops[r->op];
    *s = (dn_step){.op = r->op, .groups = r->groups, .bits = r->bits, .tile = {r->tile[0], r->tile[1]}, .has_second = r->second >= 0, .parts = parts_of(plan, op)};
    if (in) s->in = *in;
    s->out = op->kind == DN_DO_OUTPUT ? s->in : dn_record_map(plan, r);
    if (second) s->second = *second;
    s->scales = r->table;
    s->table = s->scales + (size_t)dn_scale_sets(plan, r) * sizeof(dn_scales);
    s->table_channels = (size_t)r->table_channels;
    s->extra = s->table + 2 * s->table_channels * sizeof(float);
    s->view_add = dn_view_add(s->bits);
    s->view_mask = dn_view_mask(s->bits);
    s->winograd = (int8_t)op->winograd;
    s->packed = op->int8 && (!op->stored || s->bits < 8);
    if (!op->int8 && op->winograd && !dn_wino_f32_pays(&plan->graph->nodes[op->node], op->group_in ? op->group_in : s->in.channels, op->group_in ? op->group_out : s->out.channels)) s->winograd = 0;
    s->pass_bias = op->partial && op->int8 && s->in.zero != plan->kernels.conv_s8->a_offset;
    s->flags = (op->residual >= 0 ? DN_EPI_RESIDUAL : 0) | (dn_op_has_act(plan, op, DN_OP_HARDSWISH) ? DN_EPI_HARDSWISH : 0) | (op->float_out ? DN_CONV_F32_OUT : 0) | (r->bounded ? DN_EPI_BOUNDED : 0);
    s->macs = macs_of(plan, op, s);
    s->heavy = is_heavy(plan, op, s);
    if (op->kind == DN_DO_CONV && plan->bf16) (void)dn_conv_scratch(plan, s);
}

dn_step dn_step_of(const dn_point *point, int32_t number) {
    const dn_record *r = &point->records[number];
    const dn_map in = map_at(point, r->in), second = map_at(point, r->second);
    dn_step step;
    write_step(point, number, &in, &second, &step);
    return step;
}

/* ---- scalars ---- */

dn_real_scales dn_step_scales(const dn_point *point, const dn_step *step, int32_t group) {
    const dn_plan_op *op = &point->plan->ops[step->op];
    const dn_scales s = ((const dn_scales *)(const void *)(point->tables + step->scales))[point->plan->graph->groups == 1 ? 0 : group];
    bool reads = dn_op_reads_u8(op);
    return (dn_real_scales){.in = (double)s.in, .zero_in = reads ? step->in.zero : 0, .out = (double)s.out, .zero_out = dn_op_writes_u8(op) ? step->out.zero : 0, .second = (double)s.second,
                            .zero_second = reads && op->residual >= 0 ? step->second.zero : 0};
}

static void set_limits(const dn_plan *plan, const dn_plan_op *op, double s_out, bool u8, dn_scalars *out) {
    bool six = dn_op_has_act(plan, op, DN_OP_RELU6);
    out->lo = six || u8 || dn_op_has_act(plan, op, DN_OP_RELU) ? 0 : -INFINITY;
    out->hi = six ? (u8 ? (float)fmin(255, rint(6 / s_out)) : 6) : u8 ? 255 : INFINITY;
}

static void write_scalars(const dn_point *point, const dn_step *step) {
    const dn_plan *plan = point->plan;
    const dn_plan_op *op = &plan->ops[step->op];
    int32_t channels = step->groups > 1 ? step->out.channels / step->groups : step->out.pixel;
    for (int32_t g = 0; g < step->groups; g++) {
        dn_real_scales s = dn_step_scales(point, step, g);
        dn_scalars *out = &step->scalars[g];
        *out = (dn_scalars){.residual_scale = (float)(s.second / dn_op_divisor(plan, op, &s)), .out_scale = (float)(1 / s.out), .out_zero = (float)s.zero_out, .in_scale = (float)s.in,
                            .in_zero = (float)s.zero_in, .out_real = (float)s.out, .factor = (float)(s.in * s.second / s.out), .begin = g * channels, .count = channels};
        set_limits(plan, op, s.out, dn_op_writes_u8(op), out);
    }
}

/* ---- lists ---- */

int32_t dn_step_segment(const dn_point *point, const dn_step *step, int32_t s) {
    const dn_plan_op *op = &point->plan->ops[step->op];
    if (step->parts == 1) return op->group_in ? op->group_in : step->in.channels;
    return ((const int32_t *)(const void *)(point->tables + step->extra))[s];
}

static void write_runs(const dn_point *point, const dn_step *step) {
    const dn_plan_op *op = &point->plan->ops[step->op];
    int32_t lane = 0, weight = 0;
    for (int32_t s = 0; s < step->parts; s++) {
        if (s > 0) {
            int32_t full = point->plan->graph->nodes[point->plan->source[dn_op_input(point->plan, op)]].segments[s - 1].full;
            weight += op->kind == DN_DO_CONV ? (int32_t)dn_round_up((size_t)full, dn_weight_step(point->plan, op)) : full; /* depthwise weights stand by channel */
        }
        int32_t channels = dn_step_segment(point, step, s), lanes = (int32_t)dn_round_up((size_t)channels, 4);
        step->runs[s] = (dn_segment_run){.lane = lane, .lanes = lanes, .weight = weight, .channels = channels};
        lane += lanes;
    }
}

/* The numbers of the steps that compute the inputs, then for int8 scale and bias by lane of each. */
static void write_inputs(const dn_point *point, const dn_step *step) {
    const int32_t *numbers = (const int32_t *)(const void *)(point->tables + step->extra);
    size_t table = step->extra + (size_t)step->parts * sizeof *numbers;
    int32_t lane = 0;
    for (int32_t k = 0; k < step->parts; k++) {
        dn_concat_part part = {.in = map_at(point, numbers[k]), .lane = lane, .table = table, .copy = true};
        if (step->out.u8) {
            const float *scale = dn_table_at(point, table);
            part.copy = scale[0] == 1 && scale[part.in.pixel] == 0;
            table += 2 * (size_t)part.in.pixel * sizeof(float);
        }
        lane += part.in.pixel;
        step->inputs[k] = part;
    }
}

void dn_step_lists(const dn_point *point, const dn_step *step) {
    write_scalars(point, step);
    if (point->plan->ops[step->op].kind == DN_DO_CONCAT) write_inputs(point, step);
    else write_runs(point, step);
}

void dn_steps_write(dn_steps *steps, const dn_point *point) {
    if (steps->serial == point->serial) return;
    dn_scalars *scalars = steps->scalars;
    dn_segment_run *runs = steps->runs;
    dn_concat_part *inputs = steps->inputs;
    for (int32_t k = 0; k < point->step_count; k++) {
        dn_step *step = &steps->steps[k];
        const dn_record *r = &point->records[k];
        write_step(point, k, r->in < 0 ? NULL : &steps->steps[r->in].out, r->second < 0 ? NULL : &steps->steps[r->second].out, step);
        step->scalars = scalars;
        step->runs = runs;
        step->inputs = inputs;
        dn_step_lists(point, step);
        scalars += step->groups;
        if (point->plan->ops[step->op].kind == DN_DO_CONCAT) inputs += step->parts;
        else runs += step->parts;
    }
    steps->serial = point->serial;
}
