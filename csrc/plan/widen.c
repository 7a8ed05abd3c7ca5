/* widen.c - in a bf16 plan, the floats that tiles of several pixels read: weights of a block of panels and rows of the input, widened into a thread's scratch.
 *
 * All of a layer's input would need as much memory as bf16 saves, so there is room for a band of rows. Either each block of panels meets every band, or each band meets every
 * block: whichever widens less. */
#include "base/size.h"
#include "plan/widen.h"

enum { PANEL = 16, ROW_BYTES = 32768, MORE_ROWS = 3 };

static const dn_conv_f32 *kernels_of(const dn_plan *plan) { return plan->kernels.conv_f32; }

size_t dn_widen_plan(const dn_plan *plan, dn_step *step, size_t used) {
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_node *node = &plan->graph->nodes[op->node];
    size_t panels = 0;
    step->wide_height = step->wide_block = 0;
    for (int k = 0; k < 2 && plan->bf16; k++) {
        const dn_conv_f32_variant *v = step->tile[k] < 0 ? NULL : &kernels_of(plan)->variants[step->tile[k]];
        if (v && v->floats) panels = dn_size_max(panels, (size_t)v->nr);
    }
    if (!panels) return used;
    size_t row = (size_t)step->in.row * sizeof(float);
    int32_t window = (node->kernel_h - 1) * node->dilation_h + 1, rows = window + MORE_ROWS * node->stride_h;
    if ((size_t)rows * row < ROW_BYTES) rows = (int32_t)(ROW_BYTES / row);
    step->wide_height = rows < step->in.height ? rows : step->in.height;
    int32_t band = step->wide_height < window ? 1 : (step->wide_height - window) / node->stride_h + 1, all = step->groups * (step->out.channels + PANEL - 1) / PANEL;
    size_t again = (size_t)((node->height + band - 1) / band) * op->panel_stride / sizeof(uint16_t), input = (size_t)step->in.row * (size_t)step->in.height;
    if (panels < (size_t)all && again < input / panels) step->wide_block = band;
    step->wide_weights = dn_round_up(used, 64);
    step->wide_rows = step->wide_weights + dn_round_up(panels * op->panel_stride * 2, 64);
    return step->wide_rows + dn_round_up((size_t)step->wide_height * row, 64);
}

void dn_widen_begin(dn_widened *s, const dn_run_context *run, const dn_step *step, uint8_t *scratch) {
    *s = (dn_widened){.run = run, .step = step, .weights = (float *)(void *)(scratch + step->wide_weights), .rows = (float *)(void *)(scratch + step->wide_rows)};
}

void dn_widen_weights(dn_widened *s, const uint8_t *weights, int32_t panels, const dn_run *list, size_t count) {
    size_t panel = s->run->plan->ops[s->step->op].panel_stride / sizeof(uint16_t);
    if (s->from == weights) return;
    s->from = weights;
    for (size_t p = 0; p < (size_t)panels; p++)
        for (size_t k = 0; k < count; k++) {
            size_t at = p * panel + (size_t)list[k].weight;
            kernels_of(s->run->plan)->widen_weights((const uint16_t *)(const void *)weights + at, s->weights + at, (size_t)list[k].count);
        }
}

int32_t dn_widen_rows(dn_widened *s, int32_t begin, int32_t end, int32_t kh_begin, int32_t kh_end) {
    const dn_step *step = s->step;
    const dn_map *in = &step->in;
    const dn_node *node = &s->run->plan->graph->nodes[s->run->plan->ops[step->op].node];
    if (kh_begin == kh_end) return end;
    int32_t low = begin * node->stride_h - node->pad_top + kh_begin * node->dilation_h, window = (kh_end - 1 - kh_begin) * node->dilation_h + 1;
    int32_t most = (step->wide_height - window) / node->stride_h + 1;
    if (end - begin > most) end = begin + most;
    int32_t high = low + (end - begin - 1) * node->stride_h + window;
    if (low >= s->begin && high <= s->end) return end;
    s->begin = low;
    s->end = low + step->wide_height < in->height ? low + step->wide_height : in->height;
    size_t elements = (size_t)in->row;
    for (int32_t y = s->begin; y < s->end; y++)
        kernels_of(s->run->plan)->widen((const uint16_t *)(const void *)dn_map_at(s->run->arena, in, y, -in->left), s->rows + (size_t)(y - s->begin) * elements, elements);
    return end;
}

ptrdiff_t dn_widen_origin(const dn_widened *s) { return (ptrdiff_t)s->begin * s->step->in.row - (ptrdiff_t)s->step->in.left * s->step->in.pixel; }
