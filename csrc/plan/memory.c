/* memory.c - where every value of a point stands: sizes, halos, lifetimes, offsets in the arena. */
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

static int32_t resolve_root(const dn_binding *b, int32_t tensor) {
    int32_t root = b->plan->source[tensor];
    while (b->alias[root] != root) root = b->plan->source[b->alias[root]];
    return root;
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
    for (int32_t i = 0; i < plan->graph->count; i++) b->root[i] = resolve_root(b, i), b->first[2 * i] = b->first[2 * i + 1] = -1;
    dn_point *point = b->point;
    point->step_count = 0;
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (b->skip[op->node] && op->kind != DN_DO_OUTPUT) continue;
        int32_t number = point->step_count++, value;
        point->steps[number] = (dn_step){.op = k};
        for (int32_t r = 0; (value = dn_op_read(b, op, r)) >= 0; r++) {
            if (b->first[value] < 0)
                return dn_fail(err, DN_EUNSUPPORTED, "%s: dropping blocks leaves its input in the other arithmetic; keep these blocks or quantise both sides", plan->graph->nodes[op->node].name);
            b->last[value] = number;
        }
        if (op->kind == DN_DO_OUTPUT) continue;
        int32_t output = dn_value(op->output, dn_op_writes_u8(op));
        b->first[output] = b->last[output] = number;
    }
    return DN_OK;
}

/* ---- sizes and halos ---- */

static void size_map(const dn_binding *b, int32_t value) {
    const dn_graph *graph = b->plan->graph;
    int32_t tensor = value / 2;
    const dn_node *node = &graph->nodes[tensor];
    dn_map *map = &b->point->maps[value];
    *map = (dn_map){.height = node->height, .width = node->width, .u8 = value & 1, .size = value & 1 ? 1 : dn_float_size(b->plan, tensor), .zero = node->is_signed ? 128 : 0};
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = b->subnet->active[node->segments[s].space];
        map->gaps = map->gaps || map->pixel != map->channels;
        map->channels += active;
        map->pixel += (int32_t)dn_round_up((size_t)active, 4);
    }
}

static int16_t larger(int16_t a, int32_t b) { return b > a ? (int16_t)b : a; }

/* A convolution reads columns beside the map; rows above and below are left out of its taps unless the zero point is not what the kernel subtracts, or the kernels
 * do better with them. */
static void widen_halo(const dn_binding *b, const dn_plan_op *op) {
    const dn_node *node = &b->plan->graph->nodes[op->node];
    if (op->kind != DN_DO_CONV && op->kind != DN_DO_DEPTHWISE) return;
    dn_map *map = &b->point->maps[dn_op_read(b, op, 0)];
    map->left = larger(map->left, node->pad_left);
    map->right = larger(map->right, (node->width - 1) * node->stride_w + (node->kernel_w - 1) * node->dilation_w - node->pad_left - (map->width - 1));
    bool whole = op->winograd || (op->kind == DN_DO_DEPTHWISE && map->u8); /* byte kernels have the fastest code for rows that see the whole window */
    bool skip_rows = !whole && (!map->u8 || map->zero == b->plan->kernels.conv_s8->a_offset);
    if (skip_rows) return;
    map->top = larger(map->top, node->pad_top);
    map->bottom = larger(map->bottom, (node->height - 1) * node->stride_h + (node->kernel_h - 1) * node->dilation_h - node->pad_top - (map->height - 1));
}

static dn_status place_map(dn_map *map, size_t *bytes, const char *name, dn_error *err) {
    size_t columns = (size_t)(map->left + map->width + map->right), rows = (size_t)(map->top + map->height + map->bottom), row = columns * (size_t)map->pixel;
    if (row * rows > INT32_MAX / 4) return dn_fail(err, DN_EUNSUPPORTED, "%s: a padded map of %zu x %zu x %d is too large", name, rows, columns, map->pixel);
    map->row = (int32_t)row;
    *bytes = dn_round_up(row * rows * (size_t)map->size + 16, 64);
    return DN_OK;
}

/* ---- offsets ---- */

typedef struct block {
    size_t begin, end;
    int32_t first, last;
} block;

/* The lowest gap that is free during the block's life. placed is ordered by begin. */
static size_t place_block(block *placed, int32_t *count, size_t size, int32_t first, int32_t last) {
    size_t at = 0;
    int32_t position = 0;
    for (int32_t i = 0; i < *count; i++) {
        if (placed[i].last < first || placed[i].first > last) continue;
        if (placed[i].begin >= at + size) break;
        if (placed[i].end > at) at = placed[i].end;
    }
    while (position < *count && placed[position].begin < at) position++;
    memmove(placed + position + 1, placed + position, (size_t)(*count - position) * sizeof *placed);
    placed[position] = (block){at, at + size, first, last};
    (*count)++;
    return at;
}

static dn_status place_all(dn_binding *b, block *placed, dn_error *err) {
    dn_point *point = b->point;
    int32_t count = 0;
    for (int32_t s = 0; s < point->step_count; s++) {
        const dn_plan_op *op = &b->plan->ops[point->steps[s].op];
        if (op->kind == DN_DO_OUTPUT) continue;
        int32_t value = dn_value(op->output, dn_op_writes_u8(op));
        dn_map *map = &point->maps[value];
        size_t bytes = 0;
        DN_TRY(place_map(map, &bytes, b->plan->graph->nodes[op->output].name, err));
        size_t at = place_block(placed, &count, bytes, b->first[value], b->last[value]);
        map->offset = at + (size_t)(map->top * map->row + map->left * map->pixel) * (size_t)map->size;
        point->arena_bytes = dn_size_max(point->arena_bytes, at + bytes);
    }
    return DN_OK;
}

dn_status dn_point_layout(dn_binding *b, dn_error *err) {
    dn_point *point = b->point;
    DN_TRY(find_lifetimes(b, err));
    for (int32_t v = 0; v < 2 * b->plan->graph->count; v++)
        if (b->first[v] >= 0) size_map(b, v);
    for (int32_t s = 0; s < point->step_count; s++) widen_halo(b, &b->plan->ops[point->steps[s].op]);
    dn_status status;
    block *placed = NULL;
    DN_GO(DN_NEW(&placed, (size_t)point->step_count + 1, err));
    DN_GO(place_all(b, placed, err));
done:
    dn_free(placed);
    return status;
}
