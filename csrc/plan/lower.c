/* lower.c - graph to operations: what is fused, which arithmetic each tensor is computed in, where conversions go. */
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

typedef struct lowering {
    dn_plan *plan;
    const dn_params *params;
    int32_t *readers; /* [nodes] nodes that read a tensor, through those without memory; the network's output counts as one */
    int32_t *owner;   /* [nodes] the operation whose output this tensor is, or -1 */
    bool *converted;  /* [nodes] the other arithmetic is needed too */
} lowering;

static bool is_weighted(dn_op op) { return op == DN_OP_CONV2D || op == DN_OP_LINEAR; }
static bool is_transparent(dn_op op) { return op == DN_OP_FLATTEN || op == DN_OP_DROPOUT || op == DN_OP_IDENTITY; }

static void find_sources(lowering *l) {
    const dn_graph *graph = l->plan->graph;
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        l->plan->source[i] = is_transparent(node->op) ? l->plan->source[node->inputs[0]] : i;
        l->owner[i] = -1;
        if (is_transparent(node->op)) continue;
        for (int32_t k = 0; k < node->input_count; k++) l->readers[l->plan->source[node->inputs[k]]]++;
    }
    l->readers[l->plan->source[graph->output]]++;
}

/* The input is quantised at once if int8 layers and no float layers read it. */
static bool input_is_u8(const lowering *l) {
    const dn_graph *graph = l->plan->graph;
    bool int8 = false, other = false;
    for (int32_t i = 1; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        if (is_transparent(node->op)) continue;
        for (int32_t k = 0; k < node->input_count; k++) {
            if (l->plan->source[node->inputs[k]] != 0) continue;
            if (is_weighted(node->op) && l->params[i].codes) int8 = true;
            else if (is_weighted(node->op)) other = true;
        }
    }
    return int8 && !other;
}

static void set_output(lowering *l, int32_t number, int32_t tensor) {
    dn_plan *plan = l->plan;
    dn_plan_op *op = &plan->ops[number];
    l->owner[op->output] = -1;
    op->output = tensor;
    l->owner[tensor] = number;
    bool last = op->kind == DN_DO_CONV && op->act < 0 && tensor == plan->source[plan->graph->output];
    op->float_out = last && (op->int8 || (plan->bf16 && l->readers[tensor] == 1)); /* int8 makes a value for other readers by conversion; bf16 has one for all */
    plan->native_u8[tensor] = op->int8 && !op->float_out;
}

static dn_plan_op *new_op(lowering *l, dn_op_kind kind, int32_t node, bool int8) {
    dn_plan *plan = l->plan;
    dn_plan_op *op = &plan->ops[plan->op_count];
    *op = (dn_plan_op){.kind = kind, .int8 = int8, .node = node, .norm = -1, .add = -1, .act = -1, .residual = -1, .output = node, .pack_groups = 1};
    set_output(l, plan->op_count++, node);
    return op;
}

/* The operation that can take `node` over from its input `tensor`: the tensor's only reader is this node, and both are in the same block. */
static int32_t extendable(const lowering *l, int32_t tensor, int32_t node) {
    const dn_graph *graph = l->plan->graph;
    int32_t number = l->owner[tensor];
    if (number < 0 || l->readers[tensor] != 1) return -1;
    const dn_node *a = &graph->nodes[l->plan->ops[number].node], *b = &graph->nodes[node];
    if (a->stage != b->stage || (a->stage >= 0 && a->block != b->block)) return -1;
    return l->plan->ops[number].act < 0 ? number : -1;
}

static bool has_weights(const dn_plan_op *op) { return op->kind == DN_DO_CONV || op->kind == DN_DO_DEPTHWISE; }

static bool all_u8(const lowering *l, const dn_node *node) {
    for (int32_t k = 0; k < node->input_count; k++)
        if (!l->plan->native_u8[l->plan->source[node->inputs[k]]]) return false;
    return true;
}

static void lower_norm(lowering *l, int32_t i) {
    const dn_node *node = &l->plan->graph->nodes[i];
    int32_t number = extendable(l, l->plan->source[node->inputs[0]], i);
    if (number >= 0 && has_weights(&l->plan->ops[number]) && l->plan->ops[number].norm < 0 && l->plan->ops[number].add < 0) {
        l->plan->ops[number].norm = i;
        set_output(l, number, i);
    } else {
        new_op(l, DN_DO_AFFINE, i, all_u8(l, node))->norm = i;
    }
}

/* The operand computed later takes the sum over if it can, else the earlier one; the other is the residual. */
static void lower_add(lowering *l, int32_t i) {
    const dn_node *node = &l->plan->graph->nodes[i];
    int32_t a = l->plan->source[node->inputs[0]], b = l->plan->source[node->inputs[1]];
    int32_t order[2] = {a > b ? a : b, a > b ? b : a};
    for (int k = 0; k < 2 && a != b; k++) {
        int32_t number = extendable(l, order[k], i);
        dn_plan_op *op = &l->plan->ops[number < 0 ? 0 : number];
        if (number < 0 || !has_weights(op) || op->add >= 0 || op->int8 != l->plan->native_u8[order[1 - k]]) continue;
        op->add = i;
        op->residual = order[1 - k];
        set_output(l, number, i);
        return;
    }
    dn_plan_op *op = new_op(l, DN_DO_AFFINE, i, all_u8(l, node));
    op->add = i;
    op->residual = b;
}

static void lower_activation(lowering *l, int32_t i) {
    const dn_plan *plan = l->plan;
    const dn_node *node = &plan->graph->nodes[i];
    int32_t number = extendable(l, plan->source[node->inputs[0]], i);
    bool fits = number >= 0 && (has_weights(&plan->ops[number]) || plan->ops[number].kind == DN_DO_AFFINE);
    if (fits) {
        plan->ops[number].act = i;
        set_output(l, number, i);
    } else {
        new_op(l, DN_DO_AFFINE, i, all_u8(l, node))->act = i;
    }
}

static void lower_weights(lowering *l, int32_t i) {
    const dn_graph *graph = l->plan->graph;
    const dn_node *node = &graph->nodes[i], *input = &graph->nodes[node->inputs[0]];
    bool int8 = l->params[i].codes != NULL;
    dn_plan_op *op = new_op(l, node->depthwise ? DN_DO_DEPTHWISE : DN_DO_CONV, i, int8);
    if (node->depthwise) return;
    bool grouped_out = graph->groups > 1 && graph->spaces[node->segments[0].space].elastic;
    bool grouped_in = graph->groups > 1 && input->segment_count == 1 && graph->spaces[input->segments[0].space].elastic;
    op->pack_groups = node->groups > 1 ? node->groups : grouped_out ? graph->groups : 1;
    op->group_out = node->channels / op->pack_groups;
    op->group_in = node->groups > 1 ? input->channels / node->groups : 0;
    op->partial = node->groups == 1 && grouped_in && (op->float_out || !(int8 || l->plan->bf16)); /* sums of parts are float */
    if (l->plan->bf16 && input->channels / graph->groups % 2) op->partial = false;                 /* a part would begin in the middle of a pair of weights */
}

static void lower_node(lowering *l, int32_t i) {
    const dn_node *node = &l->plan->graph->nodes[i];
    switch (node->op) {
    case DN_OP_INPUT: new_op(l, DN_DO_INPUT, i, input_is_u8(l)); return;
    case DN_OP_CONV2D:
    case DN_OP_LINEAR: lower_weights(l, i); return;
    case DN_OP_BATCHNORM: lower_norm(l, i); return;
    case DN_OP_ADD: lower_add(l, i); return;
    case DN_OP_RELU:
    case DN_OP_RELU6:
    case DN_OP_HARDSWISH: lower_activation(l, i); return;
    case DN_OP_LEAKY_RELU:
    case DN_OP_SIGMOID:
    case DN_OP_HARDSIGMOID: new_op(l, DN_DO_ACTIVATION, i, all_u8(l, node)); return;
    case DN_OP_MUL: new_op(l, DN_DO_MUL, i, all_u8(l, node)); return;
    case DN_OP_CONCAT: new_op(l, DN_DO_CONCAT, i, all_u8(l, node)); return;
    case DN_OP_MAX_POOL: new_op(l, DN_DO_MAX_POOL, i, all_u8(l, node)); return;
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL: new_op(l, DN_DO_AVG_POOL, i, all_u8(l, node)); return;
    case DN_OP_SHORTCUT: new_op(l, DN_DO_SHORTCUT, i, all_u8(l, node)); return;
    case DN_OP_PAD: new_op(l, DN_DO_PAD, i, all_u8(l, node)); return;
    case DN_OP_FLATTEN:
    case DN_OP_DROPOUT:
    case DN_OP_IDENTITY: return;
    }
}

/* Marks the tensors an operation reads in the arithmetic they were not computed in. */
static void mark_conversions(lowering *l, const dn_plan_op *op) {
    const dn_plan *plan = l->plan;
    const dn_node *node = &plan->graph->nodes[op->node];
    for (int32_t k = 0; k < node->input_count; k++) {
        int32_t tensor = plan->source[node->inputs[k]];
        if (plan->native_u8[tensor] != op->int8) l->converted[tensor] = true;
    }
    if (op->residual >= 0 && plan->native_u8[op->residual] != op->int8) l->converted[op->residual] = true;
}

/* Operations in the order of the tensors they compute, each followed by its conversion. */
static dn_status order_ops(lowering *l, dn_error *err) {
    dn_plan *plan = l->plan;
    const dn_graph *graph = plan->graph;
    for (int32_t k = 0; k < plan->op_count; k++) mark_conversions(l, &plan->ops[k]);
    dn_plan_op *ordered;
    DN_TRY(DN_NEW(&ordered, 2 * (size_t)graph->count + 1, err));
    int32_t count = 0;
    for (int32_t i = 0; i < graph->count; i++) {
        if (l->owner[i] < 0) continue;
        ordered[count++] = plan->ops[l->owner[i]];
        if (!l->converted[i]) continue;
        dn_op_kind kind = plan->native_u8[i] ? DN_DO_DEQUANTIZE : DN_DO_QUANTIZE;
        ordered[count++] = (dn_plan_op){.kind = kind, .int8 = true, .node = i, .norm = -1, .add = -1, .act = -1, .residual = -1, .output = i, .pack_groups = 1};
    }
    int32_t last = plan->source[graph->output];
    ordered[count++] = (dn_plan_op){.kind = DN_DO_OUTPUT, .int8 = plan->native_u8[last], .node = graph->output, .norm = -1, .add = -1, .act = -1, .residual = -1, .output = last, .pack_groups = 1};
    dn_free(plan->ops);
    plan->ops = ordered;
    plan->op_count = count;
    return DN_OK;
}

/* Channel groups with scales of their own start at whole lanes. */
static dn_status check_groups(const dn_plan *plan, dn_error *err) {
    const dn_graph *graph = plan->graph;
    for (int32_t k = 0; graph->groups > 1 && k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        const dn_node *node = &graph->nodes[op->node];
        if (op->int8 && node->channels % (4 * graph->groups) && graph->spaces[node->segments[0].space].elastic)
            return dn_fail(err, DN_EUNSUPPORTED, "%s: %d channels in %d groups: int8 needs groups of a multiple of 4 channels", node->name, node->channels, graph->groups);
        if (op->int8 && op->kind == DN_DO_CONV && node->groups > 1 && node->groups != graph->groups)
            return dn_fail(err, DN_EUNSUPPORTED, "%s: a convolution of %d groups in a network of %d", node->name, node->groups, graph->groups);
    }
    return DN_OK;
}

dn_status dn_plan_lower(dn_plan *plan, const dn_params *params, dn_error *err) {
    const size_t nodes = (size_t)plan->graph->count;
    dn_status status;
    lowering l = {.plan = plan, .params = params};
    DN_GO(DN_NEW(&plan->source, nodes, err));
    DN_GO(DN_NEW(&plan->native_u8, nodes, err));
    DN_GO(DN_NEW(&plan->ops, nodes + 1, err));
    DN_GO(DN_NEW(&l.readers, nodes, err));
    DN_GO(DN_NEW(&l.owner, nodes, err));
    DN_GO(DN_NEW(&l.converted, nodes, err));
    find_sources(&l);
    for (int32_t i = 0; i < plan->graph->count; i++) lower_node(&l, i);
    DN_GO(order_ops(&l, err));
    DN_GO(check_groups(plan, err));
    plan->real = -1;
    for (int32_t k = 0; k < plan->op_count; k++) {
        plan->has_int8 = plan->has_int8 || plan->ops[k].int8;
        if (plan->bf16 && plan->ops[k].float_out) plan->real = plan->ops[k].output;
    }
done:
    dn_free(l.readers);
    dn_free(l.owner);
    dn_free(l.converted);
    return status;
}
