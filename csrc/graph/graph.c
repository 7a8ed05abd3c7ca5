/* graph.c - makes, frees and describes graphs. */
#include "graph/graph.h"

#include <string.h>

#include "base/alloc.h"
#include "base/status.h"
#include "graph/internal.h"

static const char *const op_names[] = {
#define DN_OP(id, name) name,
#include "graph/ops.inc"
#undef DN_OP
};

const char *dn_op_name(dn_op op) { return op_names[op]; }

static dn_status copy_inputs(dn_graph *graph, const dn_node_spec *spec, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    if (spec->input_count < 0 || spec->input_count > DN_MAX_SEGMENTS) return dn_fail(err, DN_EGRAPH, "node %d: %d inputs", index, spec->input_count);
    int32_t *inputs;
    DN_TRY(DN_NEW(&inputs, (size_t)spec->input_count, err));
    node->inputs = inputs;
    node->input_count = spec->input_count;
    for (int32_t i = 0; i < spec->input_count; i++) {
        int32_t source = spec->inputs[i];
        if (source < 0 || source >= index) return dn_fail(err, DN_EGRAPH, "node %d (%s) reads tensor %d: only earlier ones exist", index, node->name, source);
        inputs[i] = source;
        graph->nodes[source].used = true;
    }
    return DN_OK;
}

static dn_status add_node(dn_graph *graph, dn_space_set *set, const dn_node_spec *spec, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const char *name = spec->name ? spec->name : "";
    size_t length = strlen(name) < sizeof node->name - 1 ? strlen(name) : sizeof node->name - 1;
    memcpy(node->name, name, length);
    int32_t op = -1;
    for (int32_t i = 0; i < (int32_t)(sizeof op_names / sizeof *op_names); i++)
        if (spec->op && strcmp(spec->op, op_names[i]) == 0) op = i;
    if (op < 0) return dn_fail(err, DN_EUNSUPPORTED, "node %d (%s): no operation is called %.40s", index, node->name, spec->op ? spec->op : "(null)");
    node->op = (dn_op)op;
    node->norm_offset = -1;
    node->stage = spec->stage;
    node->block = spec->block;
    node->value = spec->value;
    DN_TRY(copy_inputs(graph, spec, index, err));
    return dn_check_node(graph, set, spec, index, err);
}

static dn_status build(dn_graph *graph, dn_space_set *set, const dn_node_spec *specs, dn_error *err) {
    for (int32_t i = 0; i < graph->count; i++) DN_TRY(add_node(graph, set, &specs[i], i, err));
    graph->nodes[graph->output].used = true;
    dn_spaces_fix(set, &graph->nodes[0]);
    dn_spaces_fix(set, &graph->nodes[graph->output]);
    DN_TRY(dn_spaces_settle(graph, set, err));
    return dn_stages_find(graph, err);
}

dn_status dn_graph_new(dn_graph **out, const dn_node_spec *nodes, int32_t count, int32_t output, int32_t groups, dn_error *err) {
    *out = NULL;
    if (count < 1 || count > DN_MAX_NODES) return dn_fail(err, DN_EGRAPH, "a network has 1 to %d nodes, not %d", DN_MAX_NODES, count);
    if (output < 0 || output >= count) return dn_fail(err, DN_EGRAPH, "the output is tensor %d, but there are %d", output, count);
    if (groups < 1 || groups > 256) return dn_fail(err, DN_EGRAPH, "groups is %d: it must be 1 to 256", groups);
    dn_status status;
    dn_graph *graph = NULL;
    dn_space_set set = {0};
    DN_GO(DN_NEW(&graph, 1, err));
    graph->count = count;
    graph->output = output;
    graph->groups = groups;
    DN_GO(DN_NEW(&graph->nodes, (size_t)count, err));
    DN_GO(DN_NEW(&set.parent, (size_t)count, err)); /* a node opens at most one space */
    DN_GO(DN_NEW(&set.full, (size_t)count, err));
    DN_GO(DN_NEW(&set.fixed, (size_t)count, err));
    DN_GO(DN_NEW(&set.ties, (size_t)count, err));
    DN_GO(build(graph, &set, nodes, err));
    *out = graph;
    graph = NULL;
done:
    dn_free(set.parent);
    dn_free(set.full);
    dn_free(set.fixed);
    dn_free(set.ties);
    dn_graph_free(graph);
    return status;
}

void dn_graph_free(dn_graph *graph) {
    if (!graph) return;
    for (int32_t i = 0; graph->nodes && i < graph->count; i++) {
        dn_free((void *)(uintptr_t)graph->nodes[i].inputs);
        dn_free((void *)(uintptr_t)graph->nodes[i].segments);
        dn_free((void *)(uintptr_t)graph->nodes[i].map);
    }
    for (int32_t i = 0; graph->stages && i < graph->stage_count; i++) dn_free(graph->stages[i].blocks);
    dn_free(graph->stages);
    dn_free(graph->spaces);
    dn_free(graph->nodes);
    dn_free(graph);
}

int32_t dn_graph_nodes(const dn_graph *graph) { return graph->count; }
int32_t dn_graph_spaces(const dn_graph *graph) { return graph->space_count; }
int32_t dn_graph_groups(const dn_graph *graph) { return graph->groups; }
int32_t dn_graph_stages(const dn_graph *graph) { return graph->stage_count; }
int32_t dn_graph_norm_channels(const dn_graph *graph) { return graph->norm_channels; }

/* Parameters of a node at full width. */
static void count_parameters(const dn_graph *graph, const dn_node *node, int32_t *weights, int32_t *biases) {
    *weights = *biases = 0;
    if (node->op == DN_OP_CONV2D || node->op == DN_OP_LINEAR) {
        const dn_node *input = &graph->nodes[node->inputs[0]];
        *weights = node->channels * node->kernel_h * node->kernel_w * (input->channels / node->groups);
        *biases = node->has_bias ? node->channels : 0;
    } else if (node->op == DN_OP_BATCHNORM) {
        *weights = *biases = node->channels;
    }
}

void dn_graph_tensor(const dn_graph *graph, int32_t tensor, dn_tensor_info *info) {
    const dn_node *node = &graph->nodes[tensor];
    *info = (dn_tensor_info){
        .height = node->flat ? 1 : node->height,
        .width = node->flat ? 1 : node->width,
        .channels = node->flat ? node->height * node->width * node->channels : node->channels,
        .segments = node->segment_count,
        .is_signed = node->is_signed,
        .scale_from = node->scale_from,
        .norm_offset = node->norm_offset,
        .stage = node->stage,
        .block = node->block,
    };
    count_parameters(graph, node, &info->weights, &info->biases);
}

void dn_graph_segment(const dn_graph *graph, int32_t tensor, int32_t index, dn_segment *segment) { *segment = graph->nodes[tensor].segments[index]; }

void dn_graph_space(const dn_graph *graph, int32_t space, dn_space_info *info) { *info = graph->spaces[space]; }

void dn_graph_stage(const dn_graph *graph, int32_t stage, int32_t *blocks, int32_t *must_keep) {
    *blocks = graph->stages[stage].count;
    *must_keep = graph->stages[stage].must_keep;
}
