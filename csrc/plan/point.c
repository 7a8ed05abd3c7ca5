/* point.c - binds an operating point: records and tables for one choice of widths, bits and depth. No weight is touched. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/status.h"
#include "plan/plan.h"

/* Whether there are statistics: x - x is 0 unless x is infinite or NaN. Written so that compilers make it four channels at a time. */
static bool are_known(const float *mean, const float *variance, int32_t count) {
    int bad = 0;
    for (int32_t c = 0; c < count; c++) bad |= (mean[c] - mean[c] != 0) | (variance[c] - variance[c] != 0) | (variance[c] < 0);
    return !bad;
}

static dn_status check_statistics(const dn_binding *b, const dn_node *norm, dn_error *err) {
    const float *mean = b->tables->mean + norm->norm_offset, *variance = b->tables->variance + norm->norm_offset;
    for (int32_t s = 0, begin = 0; s < norm->segment_count; begin += norm->segments[s++].full) {
        int32_t count = b->subnet->active[norm->segments[s].space], c = begin;
        if (are_known(mean + begin, variance + begin, count)) continue;
        while (are_known(mean + c, variance + c, 1)) c++;
        return dn_fail(err, DN_EPOINT, "%s: channel %d has no statistics at this point (mean %g, variance %g); recalibrate it", norm->name, c, (double)mean[c], (double)variance[c]);
    }
    return DN_OK;
}

/* Of a point's own scale and shift; those of the parameters are checked where they come from. */
static dn_status check_affine(const dn_binding *b, const dn_node *norm, dn_error *err) {
    if (!b->tables->gamma && !b->tables->beta) return DN_OK;
    if (!b->tables->gamma || !b->tables->beta) return dn_fail(err, DN_EINVAL, "a point has both a scale and a shift of its own, or neither");
    for (int32_t s = 0, begin = 0; s < norm->segment_count; begin += norm->segments[s++].full)
        for (int32_t c = begin; c < begin + b->subnet->active[norm->segments[s].space]; c++) {
            float gamma = b->tables->gamma[norm->norm_offset + c], beta = b->tables->beta[norm->norm_offset + c];
            if (!isfinite(gamma) || !isfinite(beta))
                return dn_fail(err, DN_EPOINT, "%s: channel %d has scale %g and shift %g at this point: both must be finite", norm->name, c, (double)gamma, (double)beta);
        }
    return DN_OK;
}

static dn_status check_tables(const dn_binding *b, dn_error *err) {
    for (int32_t k = 0; k < b->step_count; k++) {
        int32_t norm = b->plan->ops[b->records[k].op].norm;
        if (norm < 0) continue;
        DN_TRY(check_statistics(b, &b->plan->graph->nodes[norm], err));
        DN_TRY(check_affine(b, &b->plan->graph->nodes[norm], err));
    }
    return DN_OK;
}

/* A dense int8 layer that does not add up its groups reads all of them with one scale. */
static dn_status check_common_scale(const dn_binding *b, const dn_plan_op *op, dn_error *err) {
    if (op->kind != DN_DO_CONV || !op->int8 || op->partial || op->group_in) return DN_OK;
    int32_t input = dn_op_input(b->plan, op), groups = dn_channel_groups(b, b->root[input]);
    for (int32_t g = 1; g < groups; g++)
        if (dn_scale_of(b, input, g) != dn_scale_of(b, input, 0))
            return dn_fail(err, DN_EPOINT, "%s reads channel groups of different scales; recalibrate the point", b->plan->graph->nodes[op->node].name);
    return DN_OK;
}

static dn_status check_scales(const dn_binding *b, dn_error *err) {
    const dn_graph *graph = b->plan->graph;
    if (b->plan->has_int8 && !b->tables->scale) return dn_fail(err, DN_EPOINT, "a quantised network needs activation scales at every point; recalibrate it");
    for (int32_t k = 0; k < b->step_count; k++) {
        const dn_plan_op *op = &b->plan->ops[b->records[k].op];
        DN_TRY(check_common_scale(b, op, err));
        if (op->kind == DN_DO_OUTPUT || !dn_op_writes_u8(op)) continue;
        int32_t groups = dn_channel_groups(b, op->output);
        for (int32_t g = 0; g < groups; g++) {
            double s = dn_scale_of(b, op->output, g);
            if (!(isfinite(s) && s > 0)) return dn_fail(err, DN_EPOINT, "%s: its scale at this point is %g; recalibrate it", graph->nodes[op->output].name, s);
        }
    }
    return DN_OK;
}

/* Kernels read channels in steps of 4: a cut inside a step would meet weights of channels that are switched off. */
static dn_status check_widths(const dn_plan *plan, const dn_subnet *subnet, dn_error *err) {
    for (int32_t s = 0; plan->has_int8 && s < plan->graph->space_count; s++)
        if (subnet->active[s] % 4 && subnet->active[s] != plan->graph->spaces[s].full)
            return dn_fail(err, DN_EPOINT, "space %d: %d active channels of %d: int8 needs a multiple of 4, or all", s, subnet->active[s], plan->graph->spaces[s].full);
    return DN_OK;
}

/* Layers may hold their weights in a form that has no bit views. */
static dn_status check_bits(const dn_plan *plan, const dn_subnet *subnet, dn_error *err) {
    for (int32_t k = 0; subnet->bits && k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (op->int8 && (op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE) && subnet->bits[op->node] < plan->least_bits)
            return dn_fail(err, DN_EPOINT, "%s: %d bits at this point, but the plan was made for at least %d", plan->graph->nodes[op->node].name, subnet->bits[op->node], plan->least_bits);
    }
    return DN_OK;
}

/* All elastic spaces of a network of groups shrink together. */
static int32_t active_groups(const dn_graph *graph, const dn_subnet *subnet) {
    for (int32_t s = 0; s < graph->space_count; s++)
        if (graph->spaces[s].elastic) return (int32_t)((int64_t)subnet->active[s] * graph->groups / graph->spaces[s].full);
    return graph->groups;
}

/* One block for everything that only binding needs. */
static dn_status take_memory(dn_binding *b, dn_error *err) {
    const size_t nodes = (size_t)b->plan->graph->count, places = dn_layout_room(b->plan), records = (size_t)b->plan->op_count * sizeof *b->records;
    DN_TRY(dn_alloc(&b->memory, places + records + nodes * (5 * sizeof(int32_t) + sizeof(bool)), 1, err));
    b->live = b->memory;
    b->records = (dn_record *)(void *)((uint8_t *)b->memory + places);
    b->root = (int32_t *)(void *)(b->records + b->plan->op_count);
    b->first = b->root + nodes;
    b->last = b->first + 2 * nodes;
    b->skip = (bool *)(b->last + 2 * nodes);
    return DN_OK;
}

dn_status dn_binding_begin(dn_binding *b, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, dn_error *err) {
    *b = (dn_binding){.plan = plan, .subnet = subnet, .tables = tables};
    DN_TRY(dn_graph_check_subnet(plan->graph, subnet, err));
    DN_TRY(check_widths(plan, subnet, err));
    DN_TRY(check_bits(plan, subnet, err));
    DN_TRY(take_memory(b, err));
    return dn_point_layout(b, err);
}

void dn_binding_end(dn_binding *b) {
    dn_free(b->memory);
    dn_steps_free(&b->steps);
    dn_point_free(b->point);
}

/* Bits and the sizes of all tables: what is left to know before the point can have its memory. */
static dn_status finish_records(dn_binding *b, size_t *bytes, dn_error *err) {
    *bytes = 0;
    for (int32_t k = 0; k < b->step_count; k++) {
        dn_record *record = &b->records[k];
        const dn_plan_op *op = &b->plan->ops[record->op];
        bool viewed = b->subnet->bits && op->int8 && (op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE);
        record->bits = viewed ? b->subnet->bits[op->node] : 8;
        record->table = (uint32_t)*bytes;
        *bytes += dn_round_up(dn_record_tables(b, record), sizeof(float));
        if (*bytes > UINT32_MAX) return dn_fail(err, DN_EUNSUPPORTED, "tables of more than %zu bytes are too large", *bytes);
    }
    return DN_OK;
}

/* Kernels read scales and biases up to a multiple of 16 from the first they need. */
enum { BEYOND = 15 * sizeof(float) };

static dn_status make_point(dn_binding *b, size_t table_bytes, dn_error *err) {
    static atomic_uint_fast64_t made;
    const size_t head = dn_round_up(sizeof(dn_point), sizeof(float)), records = (size_t)b->step_count * sizeof *b->records, bytes = head + records + table_bytes + BEYOND;
    DN_TRY(dn_alloc((void **)&b->point, bytes, 1, err));
    dn_point *point = b->point;
    point->plan = b->plan;
    point->serial = atomic_fetch_add_explicit(&made, 1, memory_order_relaxed) + 1;
    atomic_init(&point->holders, 1);
    point->groups = active_groups(b->plan->graph, b->subnet);
    point->step_count = b->step_count;
    point->bytes = bytes;
    point->arena_bytes = b->arena_bytes;
    point->records = (dn_record *)(void *)((uint8_t *)point + head);
    point->tables = (uint8_t *)(point->records + b->step_count);
    memcpy(point->records, b->records, records);
    return DN_OK;
}

/* dn_calibrate fills the tables itself, step by step. */
dn_status dn_binding_tables(dn_binding *b, bool fill, dn_error *err) {
    size_t bytes;
    DN_TRY(finish_records(b, &bytes, err));
    DN_TRY(make_point(b, bytes, err));
    DN_TRY(dn_steps_new(&b->steps, b->plan, err));
    for (int32_t k = 0; k < b->step_count; k++) dn_step_facts(b, k);
    dn_steps_write(&b->steps, b->point);
    for (int32_t k = 0; k < b->step_count; k++)
        if (b->plan->ops[b->records[k].op].kind == DN_DO_CONV) DN_TRY(dn_conv_choose(b, k, err));
    for (int32_t k = 0; fill && k < b->step_count; k++) dn_step_fill(b, k);
    return DN_OK;
}

static dn_status bind(dn_binding *b, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, const dn_tile *tiles, dn_error *err) {
    DN_TRY(dn_binding_begin(b, plan, subnet, tables, err));
    b->tiles = tiles;
    DN_TRY(check_tables(b, err));
    DN_TRY(check_scales(b, err));
    return dn_binding_tables(b, true, err);
}

dn_status dn_point_new(dn_point **out, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, dn_error *err) {
    return dn_point_new_tiled(out, plan, subnet, tables, NULL, err);
}

dn_status dn_point_new_tiled(dn_point **out, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, const dn_tile *tiles, dn_error *err) {
    *out = NULL;
    dn_fpenv saved = dn_fpenv_enter();
    dn_binding b;
    dn_status status = bind(&b, plan, subnet, tables, tiles, err);
    if (status == DN_OK) {
        *out = b.point;
        b.point = NULL;
    }
    dn_binding_end(&b);
    dn_fpenv_leave(saved);
    return status;
}

/* Points do not change, so whoever holds one may read it; only the count is shared. */
dn_point *dn_point_hold(const dn_point *point) {
    dn_point *held = (dn_point *)(uintptr_t)point;
    atomic_fetch_add_explicit(&held->holders, 1, memory_order_relaxed);
    return held;
}

void dn_point_free(dn_point *point) {
    if (!point || atomic_fetch_sub_explicit(&point->holders, 1, memory_order_acq_rel) > 1) return;
    dn_free(point);
}

size_t dn_point_table_bytes(const dn_point *point) { return point->bytes; }
size_t dn_point_arena_bytes(const dn_point *point) { return point->arena_bytes; }
int32_t dn_point_steps(const dn_point *point) { return point->step_count; }

/* ---- describing ---- */

static const char *kind_name(dn_op_kind kind) {
    switch (kind) {
    case DN_DO_INPUT: return "input";
    case DN_DO_CONV: return "conv";
    case DN_DO_DEPTHWISE: return "dwconv";
    case DN_DO_AFFINE: return "affine";
    case DN_DO_ACTIVATION: return "activation";
    case DN_DO_MUL: return "mul";
    case DN_DO_CONCAT: return "concat";
    case DN_DO_MAX_POOL: return "max_pool";
    case DN_DO_AVG_POOL: return "avg_pool";
    case DN_DO_SHORTCUT: return "shortcut";
    case DN_DO_PAD: return "pad";
    case DN_DO_QUANTIZE: return "quantize";
    case DN_DO_DEQUANTIZE: return "dequantize";
    case DN_DO_OUTPUT: return "output";
    }
    return "";
}

static const char *isa_of(const dn_plan *plan, const dn_plan_op *op) {
    const dn_kernels *k = &plan->kernels;
    switch (op->kind) {
    case DN_DO_CONV: return op->planes ? k->linear_s8->isa : op->int8 ? k->conv_s8->isa : k->conv_f32->isa;
    case DN_DO_DEPTHWISE: return op->int8 ? k->dwconv_s8->isa : k->dwconv_f32->isa;
    case DN_DO_MAX_POOL:
    case DN_DO_AVG_POOL: return op->int8 ? k->pool_u8->isa : k->pool_f32->isa;
    case DN_DO_INPUT:
    case DN_DO_AFFINE:
    case DN_DO_ACTIVATION:
    case DN_DO_MUL:
    case DN_DO_CONCAT:
    case DN_DO_SHORTCUT:
    case DN_DO_PAD:
    case DN_DO_QUANTIZE:
    case DN_DO_DEQUANTIZE:
    case DN_DO_OUTPUT: return op->int8 ? k->pointwise_u8->isa : k->pointwise_f32->isa;
    }
    return "";
}

void dn_point_step(const dn_point *point, int32_t index, dn_step_info *info) {
    const dn_step made = dn_step_of(point, index), *step = &made;
    const dn_plan_op *op = &point->plan->ops[step->op];
    bool weighted = op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE;
    *info = (dn_step_info){
        .node = op->node,
        .output = op->output,
        .is_int8 = op->int8,
        .macs = step->macs,
        .weight_offset = weighted ? op->weight_offset : SIZE_MAX,
        .table_offset = step->table_channels ? step->table : SIZE_MAX,
        .input_offset = op->kind == DN_DO_INPUT ? SIZE_MAX : step->in.offset,
        .output_offset = op->kind == DN_DO_OUTPUT ? SIZE_MAX : step->out.offset,
        .residual_offset = step->has_second ? step->second.offset : SIZE_MAX,
    };
    char tile[32] = "";
    if (op->kind == DN_DO_CONV) dn_conv_tile_name(point->plan, step, tile, sizeof tile);
    (void)snprintf(info->kernel, sizeof info->kernel, "%s_%s %s%s", op->planes ? "linear" : kind_name(op->kind), op->int8 ? "s8" : point->plan->bf16 ? "bf16" : "f32", isa_of(point->plan, op), tile);
}
