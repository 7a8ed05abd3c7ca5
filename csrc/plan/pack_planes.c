/* pack_planes.c - weights as two planes of nibbles, for layers of one output pixel in plans that offer 4 bits or fewer. */
#include <string.h>

#include "plan/plan.h"

/* Codes beyond these would need clamping at the fewest bits, which the planes leave out. */
static int32_t largest_code(int32_t least_bits) { return least_bits == 2 ? 95 : least_bits == 3 ? 111 : 119; }

bool dn_planes_fit(const dn_plan *plan, const dn_plan_op *op, const int8_t *codes) {
    const dn_node *node = &plan->graph->nodes[op->node], *input = &plan->graph->nodes[node->inputs[0]];
    if (op->kind != DN_DO_CONV || !op->int8 || plan->least_bits > 4 || node->height != 1 || node->width != 1) return false;
    if (node->pad_top || node->pad_bottom || node->pad_left || node->pad_right) return false;
    size_t count = (size_t)node->channels * (size_t)(input->channels / node->groups) * (size_t)node->kernel_h * (size_t)node->kernel_w;
    for (size_t i = 0; i < count; i++)
        if (codes[i] > largest_code(plan->least_bits)) return false;
    return true;
}

void dn_planes_clear(const dn_plan *plan, const dn_plan_op *op) {
    memset(plan->blob + op->weight_offset, DN_PLANE_PADDING, op->group_stride * (size_t)op->pack_groups);
}

void dn_plane_put(const dn_plan *plan, const dn_plan_op *op, size_t group, size_t within, size_t channel, int8_t code) {
    const int value = code + DN_PLANE_ZERO, shift = within % 16 < 8 ? 0 : 4;
    uint8_t *high = plan->blob + dn_plane_byte(op, group, within, channel), *low = high + dn_plane_bytes(op);
    *high = (uint8_t)((*high & 0xf0 >> shift) | value >> 4 << shift);
    *low = (uint8_t)((*low & 0xf0 >> shift) | (value & 15) << shift);
}
