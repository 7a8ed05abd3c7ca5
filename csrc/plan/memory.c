/* memory.c - where every value of a point stands: sizes, halos, lifetimes, offsets in the arena. */
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

static bool keeps_all(const dn_binding *b) {
    const dn_graph *graph = b->plan->graph;
    for (int32_t s = 0; b->subnet->depth && s < graph->stage_count; s++)
        if (b->subnet->depth[s] < graph->stages[s].count) return false;
    return true;
}

/* The output of a dropped block is read from the block's input. */
static void find_roots(const dn_binding *b) {
    const int32_t count = b->plan->graph->count, *source = b->plan->source;
    int32_t *alias = b->first; /* not needed yet */
    memcpy(b->root, source, (size_t)count * sizeof *source);
    if (!keeps_all(b)) {
        dn_graph_resolve(b->plan->graph, b->subnet->depth, alias, b->skip);
        for (int32_t i = 0; i < count; i++)
            while (alias[b->root[i]] != b->root[i]) b->root[i] = source[alias[b->root[i]]];
    }
    for (int32_t v = 0; v < 2 * count; v++) b->first[v] = -1;
}

int32_t dn_op_read(const dn_binding *b, const dn_plan_op *op, int32_t k) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    bool u8 = dn_op_reads_u8(op), own = op->kind == DN_DO_QUANTIZE || op->kind == DN_DO_DEQUANTIZE || op->kind == DN_DO_OUTPUT;
    if (own) return k == 0 ? dn_value(b->root[op->output], u8) : -1;
    int32_t inputs = op->kind == DN_DO_AFFINE && op->add == op->node ? 1 : node->input_count; /* a stand-alone add has its second operand as residual */
    if (k < inputs) return dn_value(b->root[node->inputs[k]], u8);
    return k == inputs && op->residual >= 0 ? dn_value(b->root[op->residual], u8) : -1;
}

/* ---- lifetimes ---- */

static dn_status find_lifetimes(dn_binding *b, dn_error *err) {
    const dn_plan *plan = b->plan;
    find_roots(b);
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (b->skip[op->node] && op->kind != DN_DO_OUTPUT) continue;
        int32_t number = b->step_count++, value;
        dn_record *record = &b->records[number];
        *record = (dn_record){.op = k, .in = -1, .second = -1, .tile = {-1, -1}};
        for (int32_t r = 0; (value = dn_op_read(b, op, r)) >= 0; r++) {
            if (b->first[value] < 0)
                return dn_fail(err, DN_EUNSUPPORTED, "%s: dropping blocks leaves its input in the other arithmetic; keep these blocks or quantise both sides", plan->graph->nodes[op->node].name);
            b->last[value] = number;
            if (r == 0) record->in = b->first[value];
            if (r == 1 && op->kind != DN_DO_CONCAT) record->second = b->first[value];
        }
        if (op->kind == DN_DO_OUTPUT) continue;
        int32_t output = dn_value(op->output, dn_op_writes_u8(op));
        b->first[output] = b->last[output] = number;
    }
    return DN_OK;
}

/* ---- sizes and halos ---- */

static void size_output(const dn_binding *b, dn_record *record) {
    const dn_node *node = &b->plan->graph->nodes[b->plan->ops[record->op].output];
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = b->subnet->active[node->segments[s].space];
        record->gaps = record->gaps || record->pixel != record->channels;
        record->channels += active;
        record->pixel += (int32_t)dn_round_up((size_t)active, 4);
    }
}

static int16_t larger(int16_t a, int32_t b) { return b > a ? (int16_t)b : a; }

/* A convolution reads columns beside the map; rows above and below are left out of its taps unless the zero point is not what the kernel subtracts, or the kernels
 * do better with them. */
static void widen_halo(const dn_binding *b, const dn_record *reader) {
    const dn_plan_op *op = &b->plan->ops[reader->op];
    const dn_node *node = &b->plan->graph->nodes[op->node];
    if (op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) return;
    dn_record *record = &b->records[reader->in];
    const dn_plan_op *maker = &b->plan->ops[record->op];
    const dn_node *map = &b->plan->graph->nodes[maker->output];
    record->left = larger(record->left, node->pad_left);
    record->right = larger(record->right, (node->width - 1) * node->stride_w + (node->kernel_w - 1) * node->dilation_w - node->pad_left - (map->width - 1));
    bool whole = op->winograd || (op->kind == DN_DO_DEPTHWISE && dn_op_writes_u8(maker)); /* byte kernels have the fastest code for rows that see the whole window */
    bool skip_rows = !whole && (!dn_op_writes_u8(maker) || dn_zero_of(map) == b->plan->kernels.conv_s8->a_offset);
    if (skip_rows) return;
    record->top = larger(record->top, node->pad_top);
    record->bottom = larger(record->bottom, (node->height - 1) * node->stride_h + (node->kernel_h - 1) * node->dilation_h - node->pad_top - (map->height - 1));
}

static dn_status size_map(const dn_binding *b, const dn_record *record, size_t *bytes, dn_error *err) {
    const dn_plan_op *op = &b->plan->ops[record->op];
    const dn_node *node = &b->plan->graph->nodes[op->output];
    size_t columns = (size_t)(record->left + node->width + record->right), rows = (size_t)(record->top + node->height + record->bottom), elements = columns * rows * (size_t)record->pixel;
    if (elements > INT32_MAX / 4) return dn_fail(err, DN_EUNSUPPORTED, "%s: a padded map of %zu x %zu x %d is too large", node->name, rows, columns, record->pixel);
    *bytes = dn_round_up(elements * (dn_op_writes_u8(op) ? 1 : (size_t)dn_float_size(b->plan, op->output)) + 16, DN_BLOCK);
    return DN_OK;
}

/* ---- places ---- */

typedef struct dn_block_life {
    size_t begin, end;
    int32_t last; /* step */
} block;

size_t dn_layout_room(const dn_plan *plan) { return (size_t)plan->op_count * sizeof(block); }

/* The lowest gap between the blocks that live when step `first` runs; they are ordered by begin. Blocks are placed in the order of their lives, so the dead are forgotten. */
static size_t place_block(block *live, int32_t *count, size_t size, int32_t first, int32_t last) {
    size_t at = 0;
    int32_t kept = 0, position = 0;
    for (int32_t i = 0; i < *count; i++)
        if (live[i].last >= first) live[kept++] = live[i];
    while (position < kept && live[position].begin < at + size) at = live[position++].end;
    memmove(live + position + 1, live + position, (size_t)(kept - position) * sizeof *live);
    live[position] = (block){at, at + size, last};
    *count = kept + 1;
    return at;
}

dn_status dn_point_layout(dn_binding *b, dn_error *err) {
    DN_TRY(find_lifetimes(b, err));
    const int32_t outputs = b->step_count - 1; /* the last step's output is the caller's */
    for (int32_t s = 0; s < outputs; s++) size_output(b, &b->records[s]);
    for (int32_t s = 0; s < outputs; s++) widen_halo(b, &b->records[s]);
    for (int32_t s = 0, count = 0; s < outputs; s++) {
        const dn_plan_op *op = &b->plan->ops[b->records[s].op];
        int32_t value = dn_value(op->output, dn_op_writes_u8(op));
        size_t bytes = 0;
        DN_TRY(size_map(b, &b->records[s], &bytes, err));
        size_t at = place_block(b->live, &count, bytes, b->first[value], b->last[value]);
        if (at / DN_BLOCK > UINT32_MAX) return dn_fail(err, DN_EUNSUPPORTED, "activations of %zu bytes are too large", at + bytes);
        b->records[s].block = (uint32_t)(at / DN_BLOCK);
        b->arena_bytes = dn_size_max(b->arena_bytes, at + bytes);
    }
    return DN_OK;
}
