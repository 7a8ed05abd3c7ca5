/* groups.c - which operations of a network of incremental channel groups keep the groups apart, and the first one that does not. */
#include "plan/plan.h"

static bool is_elastic(const dn_graph *graph, int32_t tensor) {
    const dn_node *node = &graph->nodes[tensor];
    for (int32_t s = 0; s < node->segment_count; s++)
        if (graph->spaces[node->segments[s].space].elastic) return true;
    return false;
}

/* Its channels are those of group 0, then those of group 1, ...; in a concatenation the groups do not stand together. */
static bool is_grouped(const dn_graph *graph, int32_t tensor) { return graph->nodes[tensor].segment_count == 1 && is_elastic(graph, tensor); }

/* The k-th tensor an operation reads, -1 when there are no more. */
static int32_t read_at(const dn_plan *plan, const dn_plan_op *op, int32_t k) {
    const dn_node *node = &plan->graph->nodes[op->node];
    bool own = op->kind == DN_DO_QUANTIZE || op->kind == DN_DO_DEQUANTIZE || op->kind == DN_DO_OUTPUT;
    int32_t count = own ? 1 : node->input_count;
    if (k < count) return plan->source[own ? op->output : node->inputs[k]];
    return k == count ? op->residual : -1;
}

static bool reads(const dn_plan *plan, const dn_plan_op *op, int32_t tensor) {
    for (int32_t k = 0, at; (at = read_at(plan, op, k)) >= 0; k++)
        if (at == tensor) return true;
    return false;
}

static bool reads_elastic(const dn_plan *plan, const dn_plan_op *op) {
    for (int32_t k = 0, at; (at = read_at(plan, op, k)) >= 0; k++)
        if (is_elastic(plan->graph, at)) return true;
    return false;
}

static bool reads_grouped_only(const dn_plan *plan, const dn_plan_op *op) {
    for (int32_t k = 0, at; (at = read_at(plan, op, k)) >= 0; k++)
        if (!is_grouped(plan->graph, at)) return false;
    return true;
}

/* Every channel of a shortcut comes from the group it is in. */
static bool map_keeps_groups(const dn_graph *graph, const dn_node *node) {
    int32_t to = node->channels / graph->groups, from = graph->nodes[node->inputs[0]].channels / graph->groups;
    for (int32_t c = 0; c < node->channels; c++)
        if (node->map[c] >= 0 && node->map[c] / from != c / to) return false;
    return true;
}

/* Whether group g of a grouped output comes from group g of what is grouped, and else from what every group shares. */
static bool keeps_groups(const dn_plan *plan, const dn_plan_op *op) {
    const dn_graph *graph = plan->graph;
    const dn_node *node = &graph->nodes[op->node];
    bool grouped_residual = op->residual < 0 || is_grouped(graph, op->residual);
    if (op->kind == DN_DO_CONV && node->groups == 1) return grouped_residual && !is_elastic(graph, plan->source[node->inputs[0]]);
    if (op->kind == DN_DO_CONV && node->groups % graph->groups) return false;
    if (op->kind == DN_DO_CONCAT) return false;
    if (op->kind == DN_DO_SHORTCUT) return !reads_elastic(plan, op) || (reads_grouped_only(plan, op) && map_keeps_groups(graph, node));
    return reads_grouped_only(plan, op);
}

/* The dense layer that adds up the groups: the network's output and nothing else. */
static bool is_sum(const dn_plan *plan, const dn_plan_op *op) {
    return op->partial && op->add < 0 && op->act < 0 && op->output == plan->source[plan->graph->output] && !is_elastic(plan->graph, op->output);
}

static bool is_apart(const dn_plan *plan, dn_plan_op *op) {
    if (!is_elastic(plan->graph, op->output)) return !reads_elastic(plan, op) || is_sum(plan, op);
    op->grouped = is_grouped(plan->graph, op->output) && keeps_groups(plan, op);
    return op->grouped;
}

/* Without groups: the first layer that reads channels which a point may leave out, or else any. */
static int32_t first_dense(const dn_plan *plan) {
    int32_t found = -1;
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (op->kind != DN_DO_CONV) continue;
        if (reads_elastic(plan, op)) return op->node;
        if (found < 0) found = op->node;
    }
    return found < 0 ? plan->graph->output : found;
}

void dn_plan_find_groups(dn_plan *plan) {
    int32_t sum = -1;
    plan->mixes = -1;
    if (plan->graph->groups == 1) {
        plan->mixes = first_dense(plan);
        return;
    }
    for (int32_t k = 0; k < plan->op_count && plan->mixes < 0; k++) {
        dn_plan_op *op = &plan->ops[k];
        if (op->kind == DN_DO_OUTPUT) continue;
        if (!is_apart(plan, op) || (sum >= 0 && reads(plan, op, sum))) plan->mixes = op->node;
        if (is_sum(plan, op)) sum = op->output;
    }
    if (plan->mixes < 0 && sum < 0) plan->mixes = plan->source[plan->graph->output];
}
