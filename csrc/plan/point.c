/* point.c - binds an operating point: steps, maps and tables for one choice of widths, bits and depth. No weight is touched. */
#include <math.h>
#include <stdio.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/status.h"
#include "plan/plan.h"

static dn_status check_tables(const dn_binding *b, dn_error *err) {
    const dn_graph *graph = b->plan->graph;
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        if (node->norm_offset < 0 || b->skip[i]) continue;
        int32_t begin = node->norm_offset;
        for (int32_t s = 0; s < node->segment_count; s++) {
            for (int32_t c = begin; c < begin + b->subnet->active[node->segments[s].space]; c++)
                if (!isfinite(b->tables->mean[c]) || !isfinite(b->tables->variance[c]) || b->tables->variance[c] < 0)
                    return dn_fail(err, DN_EPOINT, "%s: channel %d has no statistics at this point (mean %g, variance %g); recalibrate it", node->name, c - node->norm_offset,
                                   (double)b->tables->mean[c], (double)b->tables->variance[c]);
            begin += node->segments[s].full;
        }
    }
    return DN_OK;
}

/* A dense int8 layer that does not add up its groups reads all of them with one scale. */
static dn_status check_common_scale(const dn_binding *b, const dn_plan_op *op, dn_error *err) {
    if (op->kind != DN_DO_CONV || !op->int8 || op->partial || op->group_in) return DN_OK;
    int32_t unused, input = dn_op_input(b->plan, op), groups = dn_channel_groups(b, b->root[input], &unused);
    for (int32_t g = 1; g < groups; g++)
        if (dn_scale_of(b, input, g) != dn_scale_of(b, input, 0))
            return dn_fail(err, DN_EPOINT, "%s reads channel groups of different scales; recalibrate the point", b->plan->graph->nodes[op->node].name);
    return DN_OK;
}

static dn_status check_scales(const dn_binding *b, dn_error *err) {
    const dn_graph *graph = b->plan->graph;
    if (b->plan->has_int8 && !b->tables->scale) return dn_fail(err, DN_EPOINT, "a quantised network needs activation scales at every point; recalibrate it");
    for (int32_t k = 0; k < b->point->step_count; k++) {
        const dn_plan_op *op = &b->plan->ops[b->point->steps[k].op];
        DN_TRY(check_common_scale(b, op, err));
        if (op->kind == DN_DO_OUTPUT || !dn_op_writes_u8(op)) continue;
        int32_t unused, groups = dn_channel_groups(b, op->output, &unused);
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

dn_status dn_binding_begin(dn_binding *b, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, dn_error *err) {
    const size_t nodes = (size_t)plan->graph->count;
    *b = (dn_binding){.plan = plan, .subnet = subnet, .tables = tables};
    DN_TRY(dn_graph_check_subnet(plan->graph, subnet, err));
    DN_TRY(check_widths(plan, subnet, err));
    DN_TRY(check_bits(plan, subnet, err));
    DN_TRY(DN_NEW(&b->alias, nodes * 6, err));
    b->root = b->alias + nodes;
    b->first = b->root + nodes;
    b->last = b->first + 2 * nodes;
    DN_TRY(DN_NEW(&b->skip, nodes, err));
    DN_TRY(DN_NEW(&b->point, 1, err));
    b->point->plan = plan;
    b->point->groups = active_groups(plan->graph, subnet);
    atomic_init(&b->point->holders, 1);
    DN_TRY(DN_NEW(&b->point->steps, (size_t)plan->op_count, err));
    DN_TRY(DN_NEW(&b->point->maps, 2 * nodes, err));
    dn_graph_resolve(plan->graph, subnet->depth, b->alias, b->skip);
    return dn_point_layout(b, err);
}

void dn_binding_end(dn_binding *b) {
    dn_free(b->alias);
    dn_free(b->skip);
    dn_point_free(b->point);
}

static int64_t step_macs(const dn_binding *b, const dn_plan_op *op) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    if (op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) return 0;
    int64_t fan = node->groups > 1 ? b->plan->graph->nodes[node->inputs[0]].channels / node->groups : dn_graph_active(b->plan->graph, b->subnet->active, node->inputs[0]);
    return (int64_t)node->height * node->width * dn_graph_active(b->plan->graph, b->subnet->active, op->node) * node->kernel_h * node->kernel_w * fan;
}

/* Weights that the step reads against what it reads and writes of one image. */
static bool is_heavy(const dn_binding *b, const dn_plan_op *op, const dn_step *step) {
    const dn_map *maps[] = {&step->in, &step->out, &step->second};
    size_t bytes = 0, pixels = (size_t)(step->out.height * step->out.width);
    if (op->kind != DN_DO_CONV || pixels == 0) return false;
    for (int32_t i = 0; i < (step->has_second ? 3 : 2); i++) bytes += (size_t)(maps[i]->height * maps[i]->width * maps[i]->pixel) * (size_t)maps[i]->size;
    size_t weights = (size_t)step->macs / pixels;
    return (step->winograd && !step->packed ? weights * (size_t)dn_wino_positions(step->winograd) * sizeof(int16_t) / 9 : weights * dn_weight_size(b->plan, op)) > bytes;
}

/* Maps and bits of every step: what its tables and its run depend on. */
static dn_status describe_steps(dn_binding *b, dn_error *err) {
    for (int32_t k = 0; k < b->point->step_count; k++) {
        dn_step *step = &b->point->steps[k];
        const dn_plan_op *op = &b->plan->ops[step->op];
        int32_t input = dn_op_read(b, op, 0), other = dn_op_read(b, op, 1);
        step->in = input >= 0 ? b->point->maps[input] : (dn_map){0};
        step->out = op->kind == DN_DO_OUTPUT ? step->in : b->point->maps[dn_value(op->output, dn_op_writes_u8(op))];
        step->has_second = other >= 0 && op->kind != DN_DO_CONCAT;
        if (step->has_second) step->second = b->point->maps[other];
        step->macs = step_macs(b, op);
        step->bits = b->subnet->bits && op->int8 && step->macs ? b->subnet->bits[op->node] : 8;
        step->view_add = dn_view_add(step->bits);
        step->view_mask = dn_view_mask(step->bits);
        step->winograd = (int8_t)op->winograd;
        step->packed = !op->stored || step->bits < 8;
        step->heavy = is_heavy(b, op, step);
        if (op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE) {
            step->parts = op->group_in ? 1 : b->plan->graph->nodes[b->root[dn_op_input(b->plan, op)]].segment_count;
            if (op->kind == DN_DO_CONV) DN_TRY(dn_conv_choose(b, step, err));
        }
    }
    return DN_OK;
}

static dn_status make_tables(dn_binding *b, dn_error *err) {
    b->table_used = 0;
    for (int32_t k = 0; k < b->point->step_count; k++) DN_TRY(dn_step_tables(b, &b->point->steps[k], err));
    return DN_OK;
}

/* Sizes first, then one block, then the numbers. dn_calibrate stops after the block. */
dn_status dn_binding_tables(dn_binding *b, bool fill, dn_error *err) {
    DN_TRY(describe_steps(b, err));
    b->measure = true;
    DN_TRY(make_tables(b, err));
    b->point->table_bytes = b->table_used;
    DN_TRY(DN_NEW(&b->point->tables, b->table_used, err));
    b->measure = false;
    return fill ? make_tables(b, err) : DN_OK;
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
    dn_free(point->steps);
    dn_free(point->tables);
    dn_free(point->maps);
    dn_free(point);
}

size_t dn_point_table_bytes(const dn_point *point) { return point->table_bytes + (size_t)point->step_count * sizeof(dn_step); }
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
    const dn_step *step = &point->steps[index];
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
