/* graph.h - a checked network, as the layers above read it. Everything here is true by the time dn_graph_new returns: no layer checks it again. */
#ifndef DN_GRAPH_GRAPH_H
#define DN_GRAPH_GRAPH_H

#include <stdbool.h>

#include "dynadnn.h"

typedef enum dn_op {
#define DN_OP(id, name) DN_OP_##id,
#include "graph/ops.inc"
#undef DN_OP
} dn_op;

/* Node i and the tensor it produces. */
typedef struct dn_node {
    dn_op op;
    const int32_t *inputs;
    int32_t input_count;

    /* The tensor. After a flatten, height x width x channels is still the map's geometry and flat is set: element (y, x, c) is feature (y * width + x) * channels + c. */
    int32_t height, width, channels;
    bool flat;
    bool is_signed;
    const dn_segment *segments; /* their full counts add up to channels */
    int32_t segment_count;
    int32_t scale_from;
    bool used; /* some node (or the network's output) reads it */

    /* The operation. A linear layer is a convolution whose kernel is its input's whole map: kernel is set, pad 0, stride and dilation 1. Pools have their window in kernel
     * (a global pool: the whole map). */
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w;
    int32_t groups; /* conv2d, linear */
    bool depthwise; /* groups == input channels == output channels > 1 */
    bool has_bias;
    float value;
    const int32_t *map;  /* shortcut */
    int32_t norm_offset; /* batchnorm, else -1 */
    int32_t stage, block;
    char name[64]; /* last: only messages need it */
} dn_node;

typedef struct dn_block {
    int32_t input, output; /* tensors: when the block is dropped, output reads as input */
    bool droppable;
} dn_block;

typedef struct dn_stage {
    dn_block *blocks;
    int32_t count, must_keep;
} dn_stage;

struct dn_graph {
    dn_node *nodes;
    int32_t count, output;
    dn_space_info *spaces;
    int32_t space_count;
    int32_t groups;
    dn_stage *stages;
    int32_t stage_count;
    int32_t norm_channels;
};

const char *dn_op_name(dn_op op);

/* Channel ranges of a tensor at a point, in the order in which they stand in memory when only active channels are stored. ranges has room for segment_count.
 * Returns the number of active channels (of the map, not times height * width). */
typedef struct dn_channels {
    int32_t begin; /* first channel at full width */
    int32_t count; /* active channels from there */
} dn_channels;
int32_t dn_graph_channels(const dn_graph *graph, const int32_t *active, int32_t tensor, dn_channels *ranges);
/* Only the number. */
int32_t dn_graph_active(const dn_graph *graph, const int32_t *active, int32_t tensor);

/* alias[i] = the tensor to read where the graph says i: i itself, or the input of a dropped block for that block's output. skip[i] = node i is in a dropped block. Both [count]. */
void dn_graph_resolve(const dn_graph *graph, const int32_t *depth, int32_t *alias, bool *skip);

#endif
