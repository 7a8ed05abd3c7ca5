/* check.c - the one gate: accepts or refuses a node and works out its tensor. What passes here is never checked again. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "graph/internal.h"

/* "conv2d 3 (stem)" for messages. */
typedef struct label {
    char text[128];
} label;

static label label_of(const dn_graph *graph, int32_t index) {
    const dn_node *node = &graph->nodes[index];
    label l;
    (void)snprintf(l.text, sizeof l.text, "%s %d (%s)", dn_op_name(node->op), index, node->name);
    return l;
}

static dn_status set_shape(const dn_graph *graph, int32_t index, int64_t h, int64_t w, int64_t c, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    if (h < 1 || w < 1 || c < 1 || h > DN_MAX_SIDE || w > DN_MAX_SIDE || c > DN_MAX_CHANNELS || h * w * c > DN_MAX_ELEMENTS)
        return dn_fail(err, DN_EGRAPH, "%s: a tensor of %lld x %lld x %lld is outside 1..%d per side, 1..%d channels, %d elements", label_of(graph, index).text, (long long)h,
                       (long long)w, (long long)c, DN_MAX_SIDE, DN_MAX_CHANNELS, DN_MAX_ELEMENTS);
    node->height = (int32_t)h;
    node->width = (int32_t)w;
    node->channels = (int32_t)c;
    return DN_OK;
}

static dn_status need_inputs(const dn_graph *graph, int32_t index, int32_t least, int32_t most, dn_error *err) {
    int32_t n = graph->nodes[index].input_count;
    if (n >= least && n <= most) return DN_OK;
    return dn_fail(err, DN_EGRAPH, "%s: %d inputs, it takes %d%s", label_of(graph, index).text, n, least, most > least ? " or more" : "");
}

static dn_status copy_segments(dn_graph *graph, int32_t index, const dn_segment *segments, int32_t count, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    dn_segment *copy;
    DN_TRY(DN_NEW(&copy, (size_t)count, err));
    memcpy(copy, segments, (size_t)count * sizeof *copy);
    node->segments = copy;
    node->segment_count = count;
    return DN_OK;
}

static dn_status open_space(dn_graph *graph, dn_space_set *set, int32_t index, int32_t channels, bool fixed, dn_error *err) {
    dn_segment segment = {dn_spaces_open(set, channels, fixed), channels, 1};
    return copy_segments(graph, index, &segment, 1, err);
}

/* The tensor of an operation that leaves shape and channels alone. */
static dn_status like_input(dn_graph *graph, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    node->height = input->height;
    node->width = input->width;
    node->channels = input->channels;
    node->flat = input->flat;
    node->is_signed = input->is_signed;
    return copy_segments(graph, index, input->segments, input->segment_count, err);
}

static dn_status need_map(const dn_graph *graph, int32_t index, dn_error *err) {
    const dn_node *input = &graph->nodes[graph->nodes[index].inputs[0]];
    if (!input->flat || (input->height == 1 && input->width == 1)) return DN_OK;
    return dn_fail(err, DN_EGRAPH, "%s: its input is flattened, it needs a map", label_of(graph, index).text);
}

/* Copies and checks kernel, stride, dilation and padding; gives the output size along both axes. */
static dn_status read_window(const dn_graph *graph, int32_t index, const dn_node_spec *spec, int64_t size[2], dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    const int32_t in[2] = {input->height, input->width};
    for (int axis = 0; axis < 2; axis++) {
        const char *name = axis ? "width" : "height";
        int64_t k = spec->kernel[axis], s = spec->stride[axis], d = spec->dilation[axis], before = spec->pad[2 * axis], after = spec->pad[2 * axis + 1];
        if (k < 1 || k > 1024 || s < 1 || s > 1024 || d < 1 || d > 1024 || before < 0 || after < 0 || before > DN_MAX_SIDE || after > DN_MAX_SIDE)
            return dn_fail(err, DN_EGRAPH, "%s: kernel %lld, stride %lld, dilation %lld, padding %lld and %lld along the %s: all must be positive (padding not negative) and small",
                           label_of(graph, index).text, (long long)k, (long long)s, (long long)d, (long long)before, (long long)after, name);
        int64_t reach = (k - 1) * d + 1, padded = in[axis] + before + after;
        if (reach > padded)
            return dn_fail(err, DN_EGRAPH, "%s: a kernel of %lld is larger than its padded input of %lld along the %s", label_of(graph, index).text, (long long)reach, (long long)padded,
                           name);
        if (node->op != DN_OP_CONV2D && (before >= k || after >= k))
            return dn_fail(err, DN_EGRAPH, "%s: padding of %lld reaches a window of %lld", label_of(graph, index).text, (long long)(before > after ? before : after), (long long)k);
        size[axis] = (padded - reach) / s + 1;
    }
    node->kernel_h = spec->kernel[0], node->kernel_w = spec->kernel[1];
    node->stride_h = spec->stride[0], node->stride_w = spec->stride[1];
    node->dilation_h = spec->dilation[0], node->dilation_w = spec->dilation[1];
    node->pad_top = spec->pad[0], node->pad_bottom = spec->pad[1], node->pad_left = spec->pad[2], node->pad_right = spec->pad[3];
    return DN_OK;
}

/* Grouped connections: a depthwise convolution keeps its input's channels; others tie the spaces on both sides, or fix them where the input is a concatenation. */
static dn_status group_channels(dn_graph *graph, dn_space_set *set, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    int32_t groups = spec->groups;
    if (groups < 1 || input->channels % groups || spec->channels % groups)
        return dn_fail(err, DN_EGRAPH, "%s: %d groups do not divide %d input and %d output channels", label_of(graph, index).text, groups, input->channels, spec->channels);
    node->groups = groups;
    node->depthwise = node->op == DN_OP_CONV2D && groups > 1 && groups == input->channels && groups == spec->channels;
    if (node->depthwise) return copy_segments(graph, index, input->segments, input->segment_count, err);
    DN_TRY(open_space(graph, set, index, spec->channels, spec->fixed != 0, err));
    if (groups == 1) return DN_OK;
    if (input->segment_count == 1) {
        set->ties[set->tie_count++] = (dn_tie){input->segments[0].space, node->segments[0].space, groups};
    } else {
        dn_spaces_fix(set, input);
        dn_spaces_fix(set, node);
    }
    return DN_OK;
}

static dn_status check_weights(dn_graph *graph, dn_space_set *set, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    int64_t size[2] = {1, 1};
    if (node->op == DN_OP_CONV2D) {
        DN_TRY(need_map(graph, index, err));
        DN_TRY(read_window(graph, index, spec, size, err));
    } else {
        if (!input->flat && (input->height > 1 || input->width > 1))
            return dn_fail(err, DN_EGRAPH, "%s: its input is a map of %d x %d, flatten or pool it first", label_of(graph, index).text, input->height, input->width);
        node->kernel_h = input->height, node->kernel_w = input->width;
        node->stride_h = node->stride_w = node->dilation_h = node->dilation_w = 1;
    }
    DN_TRY(set_shape(graph, index, size[0], size[1], spec->channels, err));
    DN_TRY(group_channels(graph, set, index, spec, err));
    if ((int64_t)node->channels * node->kernel_h * node->kernel_w > DN_MAX_ELEMENTS / (input->channels / node->groups))
        return dn_fail(err, DN_EGRAPH, "%s: more than %d weights", label_of(graph, index).text, DN_MAX_ELEMENTS);
    node->has_bias = spec->bias != 0;
    node->is_signed = true;
    return DN_OK;
}

static bool same_lanes(const dn_node *node) {
    for (int32_t i = 0; i + 1 < node->segment_count; i++)
        if (node->segments[i].full % 4) return false;
    return true;
}

/* Makes the channels of two tensors the same. Concatenations cut differently stay whole: their spaces are fixed. */
static dn_status unite(dn_graph *graph, dn_space_set *set, int32_t index, const dn_node *a, const dn_node *b, dn_error *err) {
    if (a->channels != b->channels)
        return dn_fail(err, DN_EGRAPH, "%s: %d channels against %d", label_of(graph, index).text, a->channels, b->channels);
    bool same = a->segment_count == b->segment_count;
    for (int32_t i = 0; same && i < a->segment_count; i++) same = a->segments[i].full == b->segments[i].full;
    if (!same) {
        if (!same_lanes(a) || !same_lanes(b))
            return dn_fail(err, DN_EUNSUPPORTED, "%s: its inputs are concatenations cut at channels that are not multiples of 4", label_of(graph, index).text);
        dn_spaces_fix(set, a);
        dn_spaces_fix(set, b);
        return DN_OK;
    }
    for (int32_t i = 0; i < a->segment_count; i++) dn_spaces_join(set, a->segments[i].space, b->segments[i].space);
    return DN_OK;
}

static dn_status check_pair(dn_graph *graph, dn_space_set *set, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *a = &graph->nodes[node->inputs[0]], *b = &graph->nodes[node->inputs[1]];
    bool same = a->height == b->height && a->width == b->width && a->flat == b->flat;
    bool broadcast = node->op == DN_OP_MUL && b->height == 1 && b->width == 1;
    if (!same && !broadcast)
        return dn_fail(err, DN_EGRAPH, "%s: shapes %d x %d x %d and %d x %d x %d do not match", label_of(graph, index).text, a->height, a->width, a->channels, b->height, b->width,
                       b->channels);
    DN_TRY(unite(graph, set, index, a, b, err));
    DN_TRY(like_input(graph, index, err));
    node->is_signed = a->is_signed || b->is_signed;
    return DN_OK;
}

static dn_status check_concat(dn_graph *graph, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *first = &graph->nodes[node->inputs[0]];
    dn_segment segments[DN_MAX_SEGMENTS];
    int32_t count = 0;
    int64_t channels = 0;
    for (int32_t i = 0; i < node->input_count; i++) {
        const dn_node *input = &graph->nodes[node->inputs[i]];
        if (input->height != first->height || input->width != first->width || input->flat != first->flat)
            return dn_fail(err, DN_EGRAPH, "%s: input %d is %d x %d, the first %d x %d", label_of(graph, index).text, i, input->height, input->width, first->height, first->width);
        if (count + input->segment_count > DN_MAX_SEGMENTS) return dn_fail(err, DN_EUNSUPPORTED, "%s: more than %d segments", label_of(graph, index).text, DN_MAX_SEGMENTS);
        memcpy(segments + count, input->segments, (size_t)input->segment_count * sizeof *segments);
        count += input->segment_count;
        channels += input->channels;
        node->is_signed = node->is_signed || input->is_signed;
    }
    node->flat = first->flat;
    if (first->flat && (first->height > 1 || first->width > 1))
        return dn_fail(err, DN_EUNSUPPORTED, "%s: flattened maps cannot be concatenated; concatenate the maps", label_of(graph, index).text);
    DN_TRY(set_shape(graph, index, first->height, first->width, channels, err));
    return copy_segments(graph, index, segments, count, err);
}

static dn_status check_pool(dn_graph *graph, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    int64_t size[2] = {1, 1};
    DN_TRY(need_map(graph, index, err));
    DN_TRY(like_input(graph, index, err));
    node->stride_h = node->stride_w = node->dilation_h = node->dilation_w = 1;
    if (node->op == DN_OP_GLOBAL_AVG_POOL) {
        node->kernel_h = input->height, node->kernel_w = input->width;
    } else if (node->op == DN_OP_ADAPTIVE_AVG_POOL) {
        size[0] = spec->height, size[1] = spec->width;
        if (size[0] < 1 || size[1] < 1 || size[0] > input->height || size[1] > input->width)
            return dn_fail(err, DN_EGRAPH, "%s: an output of %d x %d from %d x %d: it must be 1 to the input's size", label_of(graph, index).text, spec->height, spec->width,
                           input->height, input->width);
    } else {
        DN_TRY(read_window(graph, index, spec, size, err));
        if (node->dilation_h > 1 || node->dilation_w > 1) return dn_fail(err, DN_EUNSUPPORTED, "%s: dilated pooling", label_of(graph, index).text);
    }
    node->flat = false;
    return set_shape(graph, index, size[0], size[1], input->channels, err);
}

static dn_status check_shortcut(dn_graph *graph, dn_space_set *set, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    DN_TRY(need_map(graph, index, err));
    if (spec->stride[0] < 1 || spec->stride[1] < 1) return dn_fail(err, DN_EGRAPH, "%s: stride %d x %d", label_of(graph, index).text, spec->stride[0], spec->stride[1]);
    node->stride_h = spec->stride[0], node->stride_w = spec->stride[1];
    DN_TRY(set_shape(graph, index, (input->height - 1) / node->stride_h + 1, (input->width - 1) / node->stride_w + 1, spec->channels, err));
    if (!spec->map) return dn_fail(err, DN_EGRAPH, "%s: it has no map", label_of(graph, index).text);
    int32_t *map;
    DN_TRY(DN_NEW(&map, (size_t)spec->channels, err));
    node->map = map;
    for (int32_t c = 0; c < spec->channels; c++) {
        if (spec->map[c] < -1 || spec->map[c] >= input->channels)
            return dn_fail(err, DN_EGRAPH, "%s: channel %d comes from channel %d of %d", label_of(graph, index).text, c, spec->map[c], input->channels);
        map[c] = spec->map[c];
    }
    node->is_signed = input->is_signed;
    return open_space(graph, set, index, spec->channels, spec->fixed != 0, err);
}

static dn_status check_norm(dn_graph *graph, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    if (input->flat && (input->height > 1 || input->width > 1))
        return dn_fail(err, DN_EUNSUPPORTED, "%s: batch norm of a flattened %d x %d map; normalise before flattening", label_of(graph, index).text, input->height, input->width);
    if (!(spec->value > 0 && spec->value <= 1)) return dn_fail(err, DN_EGRAPH, "%s: epsilon is %g: it must be in (0, 1]", label_of(graph, index).text, (double)spec->value);
    DN_TRY(like_input(graph, index, err));
    node->is_signed = true;
    node->norm_offset = graph->norm_channels;
    graph->norm_channels += node->channels;
    return DN_OK;
}

static dn_status check_pad(dn_graph *graph, int32_t index, const dn_node_spec *spec, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    const dn_node *input = &graph->nodes[node->inputs[0]];
    DN_TRY(need_map(graph, index, err));
    for (int i = 0; i < 4; i++)
        if (spec->pad[i] < 0 || spec->pad[i] > DN_MAX_SIDE) return dn_fail(err, DN_EGRAPH, "%s: padding of %d", label_of(graph, index).text, spec->pad[i]);
    DN_TRY(like_input(graph, index, err));
    node->pad_top = spec->pad[0], node->pad_bottom = spec->pad[1], node->pad_left = spec->pad[2], node->pad_right = spec->pad[3];
    node->flat = false;
    return set_shape(graph, index, (int64_t)input->height + spec->pad[0] + spec->pad[1], (int64_t)input->width + spec->pad[2] + spec->pad[3], input->channels, err);
}

static dn_status check_input(dn_graph *graph, dn_space_set *set, int32_t index, const dn_node_spec *spec, dn_error *err) {
    if (index) return dn_fail(err, DN_EGRAPH, "node %d is an input: only node 0 can be", index);
    DN_TRY(set_shape(graph, 0, spec->height, spec->width, spec->channels, err));
    graph->nodes[0].is_signed = true;
    return open_space(graph, set, 0, spec->channels, true, err);
}

static dn_status check_value(const dn_graph *graph, int32_t index, float low, float high, const char *what, dn_error *err) {
    float v = graph->nodes[index].value;
    if (v >= low && v < high) return DN_OK;
    return dn_fail(err, DN_EGRAPH, "%s: %s is %g: it must be in [%g, %g)", label_of(graph, index).text, what, (double)v, (double)low, (double)high);
}

dn_status dn_check_node(dn_graph *graph, dn_space_set *set, const dn_node_spec *spec, int32_t index, dn_error *err) {
    dn_node *node = &graph->nodes[index];
    node->scale_from = index;
    if (!index && node->op != DN_OP_INPUT) return dn_fail(err, DN_EGRAPH, "node 0 is %s: it must be the input", dn_op_name(node->op));
    switch (node->op) {
    case DN_OP_INPUT:
        DN_TRY(need_inputs(graph, index, 0, 0, err));
        return check_input(graph, set, index, spec, err);
    case DN_OP_CONV2D:
    case DN_OP_LINEAR:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        return check_weights(graph, set, index, spec, err);
    case DN_OP_BATCHNORM:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        return check_norm(graph, index, spec, err);
    case DN_OP_RELU:
    case DN_OP_RELU6:
    case DN_OP_SIGMOID:
    case DN_OP_HARDSIGMOID:
    case DN_OP_HARDSWISH:
    case DN_OP_LEAKY_RELU:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        if (node->op == DN_OP_LEAKY_RELU) DN_TRY(check_value(graph, index, -1e6f, 1e6f, "slope", err));
        DN_TRY(like_input(graph, index, err));
        node->is_signed = node->op == DN_OP_HARDSWISH || node->op == DN_OP_LEAKY_RELU;
        return DN_OK;
    case DN_OP_ADD:
    case DN_OP_MUL:
        DN_TRY(need_inputs(graph, index, 2, 2, err));
        return check_pair(graph, set, index, err);
    case DN_OP_CONCAT:
        DN_TRY(need_inputs(graph, index, 1, DN_MAX_SEGMENTS, err));
        return check_concat(graph, index, err);
    case DN_OP_MAX_POOL:
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        DN_TRY(check_pool(graph, index, spec, err));
        if (node->op == DN_OP_MAX_POOL) node->scale_from = graph->nodes[node->inputs[0]].scale_from;
        return DN_OK;
    case DN_OP_SHORTCUT:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        node->scale_from = graph->nodes[node->inputs[0]].scale_from;
        return check_shortcut(graph, set, index, spec, err);
    case DN_OP_PAD:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        node->scale_from = graph->nodes[node->inputs[0]].scale_from;
        return check_pad(graph, index, spec, err);
    case DN_OP_FLATTEN:
    case DN_OP_DROPOUT:
    case DN_OP_IDENTITY:
        DN_TRY(need_inputs(graph, index, 1, 1, err));
        if (node->op == DN_OP_DROPOUT) DN_TRY(check_value(graph, index, 0, 1, "rate", err));
        DN_TRY(like_input(graph, index, err));
        node->scale_from = graph->nodes[node->inputs[0]].scale_from;
        if (node->op == DN_OP_FLATTEN) {
            node->flat = true;
            dn_segment *segments = (dn_segment *)(uintptr_t)node->segments;
            for (int32_t i = 0; i < node->segment_count; i++) segments[i].repeat = node->height * node->width;
        }
        return DN_OK;
    }
    return DN_OK;
}
