/* subnet.c - operating points against a graph: active channels, dropped blocks, what they cost. */
#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "graph/internal.h"

int32_t dn_graph_channels(const dn_graph *graph, const int32_t *active, int32_t tensor, dn_channels *ranges) {
    const dn_node *node = &graph->nodes[tensor];
    int32_t begin = 0, total = 0;
    for (int32_t i = 0; i < node->segment_count; i++) {
        ranges[i] = (dn_channels){begin, active[node->segments[i].space]};
        begin += node->segments[i].full;
        total += ranges[i].count;
    }
    return total;
}

int32_t dn_graph_active(const dn_graph *graph, const int32_t *active, int32_t tensor) {
    const dn_node *node = &graph->nodes[tensor];
    int32_t total = 0;
    for (int32_t i = 0; i < node->segment_count; i++) total += active[node->segments[i].space];
    return total;
}

void dn_graph_resolve(const dn_graph *graph, const int32_t *depth, int32_t *alias, bool *skip) {
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        alias[i] = i;
        skip[i] = false;
        if (!depth || node->stage < 0 || node->block < depth[node->stage]) continue;
        const dn_block *block = &graph->stages[node->stage].blocks[node->block];
        skip[i] = true;
        if (i == block->output) alias[i] = alias[block->input];
    }
}

/* What the nodes of one block read from outside, and what of theirs is read outside. */
static void trace_block(const dn_graph *graph, int32_t stage, int32_t number, dn_block *block, bool *droppable) {
    block->input = block->output = -1;
    *droppable = true;
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        bool inside = node->stage == stage && node->block == number;
        if (inside) block->output = i;
        for (int32_t k = 0; k < node->input_count; k++) {
            const dn_node *source = &graph->nodes[node->inputs[k]];
            bool from_inside = source->stage == stage && source->block == number;
            if (inside && !from_inside) {
                if (block->input >= 0 && block->input != node->inputs[k]) *droppable = false;
                block->input = node->inputs[k];
            }
        }
    }
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        if (node->stage == stage && node->block == number) continue;
        for (int32_t k = 0; k < node->input_count; k++) {
            const dn_node *source = &graph->nodes[node->inputs[k]];
            if (source->stage == stage && source->block == number && node->inputs[k] != block->output) *droppable = false;
        }
    }
}

/* A block may be dropped if its output can be read from its input: same shape, same channels, which only an identity shortcut gives. */
static bool same_tensor(const dn_graph *graph, int32_t a, int32_t b) {
    const dn_node *x = &graph->nodes[a], *y = &graph->nodes[b];
    if (x->height != y->height || x->width != y->width || x->flat != y->flat || x->segment_count != y->segment_count) return false;
    for (int32_t i = 0; i < x->segment_count; i++)
        if (x->segments[i].space != y->segments[i].space) return false;
    return x->is_signed == y->is_signed;
}

static dn_status find_stage(dn_graph *graph, int32_t number, dn_error *err) {
    dn_stage *stage = &graph->stages[number];
    for (int32_t i = 0; i < graph->count; i++)
        if (graph->nodes[i].stage == number && graph->nodes[i].block >= stage->count) stage->count = graph->nodes[i].block + 1;
    DN_TRY(DN_NEW(&stage->blocks, (size_t)stage->count, err));
    for (int32_t b = 0; b < stage->count; b++) {
        dn_block *block = &stage->blocks[b];
        bool droppable;
        trace_block(graph, number, b, block, &droppable);
        if (block->output < 0) return dn_fail(err, DN_EGRAPH, "stage %d has no block %d", number, b);
        block->droppable = droppable && block->input >= 0 && same_tensor(graph, block->input, block->output);
        if (!block->droppable) stage->must_keep = b + 1;
    }
    return DN_OK;
}

dn_status dn_stages_find(dn_graph *graph, dn_error *err) {
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        if (node->stage < 0) continue;
        if (node->stage >= graph->count || node->block < 0 || node->block >= graph->count)
            return dn_fail(err, DN_EGRAPH, "node %d (%s) is in block %d of stage %d", i, node->name, node->block, node->stage);
        if (node->stage >= graph->stage_count) graph->stage_count = node->stage + 1;
    }
    if (!graph->stage_count) return DN_OK;
    DN_TRY(DN_NEW(&graph->stages, (size_t)graph->stage_count, err));
    for (int32_t s = 0; s < graph->stage_count; s++) DN_TRY(find_stage(graph, s, err));
    return DN_OK;
}

static dn_status check_width(const dn_graph *graph, const int32_t *active, int32_t s, dn_error *err) {
    const dn_space_info *space = &graph->spaces[s];
    if (active[s] < 1 || active[s] > space->full) return dn_fail(err, DN_EPOINT, "space %d: %d active channels of %d", s, active[s], space->full);
    if (!space->elastic && active[s] != space->full) return dn_fail(err, DN_EPOINT, "space %d is fixed at %d channels, not %d", s, space->full, active[s]);
    if (active[s] < space->full && active[s] % space->unit)
        return dn_fail(err, DN_EPOINT, "space %d: %d active channels are not a multiple of its groups of %d", s, active[s], space->unit);
    const dn_space_info *lead = &graph->spaces[space->lead];
    if ((int64_t)active[s] * lead->full != (int64_t)active[space->lead] * space->full)
        return dn_fail(err, DN_EPOINT, "space %d has %d of %d channels, but it follows space %d, which has %d of %d", s, active[s], space->full, space->lead, active[space->lead],
                       lead->full);
    return DN_OK;
}

dn_status dn_graph_check_subnet(const dn_graph *graph, const dn_subnet *subnet, dn_error *err) {
    for (int32_t s = 0; s < graph->space_count; s++) DN_TRY(check_width(graph, subnet->active, s, err));
    for (int32_t i = 0; subnet->bits && i < graph->count; i++) {
        int32_t b = subnet->bits[i];
        bool weighted = graph->nodes[i].op == DN_OP_CONV2D || graph->nodes[i].op == DN_OP_LINEAR;
        if (weighted && b != 8 && b != 4 && b != 3 && b != 2) return dn_fail(err, DN_EPOINT, "%s: %d bits: 8, 4, 3 or 2", graph->nodes[i].name, b);
    }
    for (int32_t s = 0; subnet->depth && s < graph->stage_count; s++)
        if (subnet->depth[s] < graph->stages[s].must_keep || subnet->depth[s] > graph->stages[s].count)
            return dn_fail(err, DN_EPOINT, "stage %d keeps %d blocks: it can keep %d to %d", s, subnet->depth[s], graph->stages[s].must_keep, graph->stages[s].count);
    return DN_OK;
}

dn_status dn_graph_cost(const dn_graph *graph, const dn_subnet *subnet, int64_t *macs, int64_t *params, dn_error *err) {
    DN_TRY(dn_graph_check_subnet(graph, subnet, err));
    dn_status status;
    int32_t *alias = NULL;
    bool *skip = NULL;
    DN_GO(DN_NEW(&alias, (size_t)graph->count, err));
    DN_GO(DN_NEW(&skip, (size_t)graph->count, err));
    dn_graph_resolve(graph, subnet->depth, alias, skip);
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        int64_t out = dn_graph_active(graph, subnet->active, i), m = 0, p = 0;
        if (!skip[i] && (node->op == DN_OP_CONV2D || node->op == DN_OP_LINEAR)) {
            const dn_node *input = &graph->nodes[node->inputs[0]];
            int64_t fan = node->groups > 1 ? input->channels / node->groups : dn_graph_active(graph, subnet->active, node->inputs[0]);
            p = out * fan * node->kernel_h * node->kernel_w;
            m = p * node->height * node->width;
            if (node->has_bias) p += out;
        } else if (!skip[i] && node->op == DN_OP_BATCHNORM) {
            p = 2 * out;
        }
        if (macs) macs[i] = m;
        if (params) params[i] = p;
    }
done:
    dn_free(alias);
    dn_free(skip);
    return status;
}
