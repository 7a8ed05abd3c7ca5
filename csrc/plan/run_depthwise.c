/* run_depthwise.c - drives the depthwise kernels, a few rows at a time. */
#include "base/pool.h"
#include "plan/plan.h"

enum { PANEL = 16, SMALL_MACS = 30000 };

typedef struct rows {
    const dn_run_context *run;
    const dn_step *step;
    int32_t items;
} rows;

static dn_epilogue epilogue_of(const dn_run_context *run, const dn_step *step, const dn_scalars *s, int32_t begin) {
    const float *scale = dn_table_at(run->point, step->table) + begin;
    return (dn_epilogue){.scale = scale, .bias = scale + step->table_channels, .residual_scale = s->residual_scale, .lo = s->lo, .hi = s->hi,
                         .out_scale = s->out_scale, .out_zero = s->out_zero, .flags = step->flags};
}

static void clip_rows(const dn_node *node, const dn_map *in, int32_t top, int32_t *begin, int32_t *end) {
    *begin = 0;
    *end = node->kernel_h;
    while (*begin < *end && top + *begin * node->dilation_h < -in->top) ++*begin;
    while (*end > *begin && top + (*end - 1) * node->dilation_h >= in->height + in->bottom) --*end;
}

/* Output rows [y, y + rows), which see rows kh_begin to kh_end of the window. */
typedef struct band {
    int32_t y, rows, kh_begin, kh_end;
} band;

static void run_s8(const rows *r, const band *b, const dn_scalars *s, int32_t begin, int32_t count, size_t skip) {
    const dn_run_context *run = r->run;
    const dn_step *step = r->step;
    const dn_plan_op *op = &run->plan->ops[step->op];
    const dn_node *node = &run->plan->graph->nodes[op->node];
    const uint8_t *residual = step->has_second ? dn_map_at(run->arena, &step->second, b->y, 0) + begin : NULL;
    run->plan->kernels.dwconv_s8->run(&(dn_dwconv_s8_job){
        .input = dn_map_at(run->arena, &step->in, b->y * node->stride_h - node->pad_top, -node->pad_left) + begin,
        .weights = (const int8_t *)run->plan->blob + op->weight_offset + skip, .output = dn_map_at(run->target, &step->out, b->y, 0) + begin, .residual = residual,
        .in_row = (ptrdiff_t)node->dilation_h * step->in.row, .in_tap = (ptrdiff_t)node->dilation_w * step->in.pixel, .in_step = (ptrdiff_t)node->stride_w * step->in.pixel,
        .out_step = step->out.pixel, .residual_step = step->second.pixel, .in_next = (ptrdiff_t)node->stride_h * step->in.row, .out_next = step->out.row,
        .residual_next = step->second.row, .kernel_h = node->kernel_h, .kernel_w = node->kernel_w, .kh_begin = b->kh_begin, .kh_end = b->kh_end, .rows = b->rows,
        .width = node->width, .channels = count, .view_add = step->view_add, .view_mask = step->view_mask, .epilogue = epilogue_of(run, step, s, begin)});
}

static void run_f32(const rows *r, const band *b, const dn_scalars *s, int32_t begin, int32_t count, size_t skip) {
    const dn_run_context *run = r->run;
    const dn_step *step = r->step;
    const dn_plan_op *op = &run->plan->ops[step->op];
    const dn_node *node = &run->plan->graph->nodes[op->node];
    const uint8_t *residual = step->has_second ? dn_map_at(run->arena, &step->second, b->y, 0) + begin * step->second.size : NULL;
    run->plan->kernels.dwconv_f32->run(&(dn_dwconv_f32_job){
        .input = dn_map_at(run->arena, &step->in, b->y * node->stride_h - node->pad_top, -node->pad_left) + begin * step->in.size,
        .weights = run->plan->blob + op->weight_offset + skip * dn_weight_size(run->plan, op), .output = dn_map_at(run->target, &step->out, b->y, 0) + begin * step->out.size,
        .residual = residual, .in_row = (ptrdiff_t)node->dilation_h * step->in.row, .in_tap = (ptrdiff_t)node->dilation_w * step->in.pixel,
        .in_step = (ptrdiff_t)node->stride_w * step->in.pixel, .out_step = step->out.pixel, .residual_step = step->second.pixel, .in_next = (ptrdiff_t)node->stride_h * step->in.row,
        .out_next = step->out.row, .residual_next = step->second.row, .kernel_h = node->kernel_h, .kernel_w = node->kernel_w, .kh_begin = b->kh_begin, .kh_end = b->kh_end,
        .rows = b->rows, .width = node->width, .channels = count, .epilogue = epilogue_of(run, step, s, begin)});
}

/* Lanes [begin, begin + count), whose first channel at full width is `channel`. */
static void run_lanes(const rows *r, const band *b, const dn_scalars *s, int32_t begin, int32_t count, int32_t channel) {
    const dn_plan_op *op = &r->run->plan->ops[r->step->op];
    const dn_node *node = &r->run->plan->graph->nodes[op->node];
    size_t skip = (size_t)(channel / PANEL * node->kernel_h * node->kernel_w * PANEL + channel % PANEL);
    (op->int8 ? run_s8 : run_f32)(r, b, s, begin, count, skip);
}

/* Segment by segment and group by group, since weights stand by full channel and scalars belong to groups; what begins inside a panel is cut at the panel's end. What is grouped has one
 * segment. */
static void run_band(const rows *r, const band *b) {
    const dn_scalars *s = r->step->scalars, *last = s + r->step->groups - 1;
    const dn_segment_run *runs = r->step->runs;
    int32_t first = dn_first_lane(r->run, r->step);
    for (int32_t k = 0; k < r->step->parts; k++)
        for (int32_t at = first, stop; at < runs[k].lanes; at = stop) {
            int32_t channel = runs[k].weight + at, lane = runs[k].lane + at;
            stop = channel % PANEL ? at + PANEL - channel % PANEL : runs[k].lanes;
            if (stop > runs[k].lanes) stop = runs[k].lanes;
            while (s < last && lane >= s->begin + s->count) s++;
            if (s < last && runs[k].lane + stop > s->begin + s->count) stop = s->begin + s->count - runs[k].lane;
            run_lanes(r, b, s, lane, stop - at, channel);
        }
}

/* A kernel prepares the weights of a block of channels once per call and comes back to the rows for the next block: they should still be in a second-level cache. */
enum { KEPT = 1 << 17 };
static int32_t rows_together(const dn_step *step) {
    int32_t fit = KEPT / (step->in.row * step->in.size);
    return fit < 1 ? 1 : fit;
}

static band band_at(const rows *r, int32_t y, int32_t end) {
    const dn_step *step = r->step;
    const dn_node *node = &r->run->plan->graph->nodes[r->run->plan->ops[step->op].node];
    band b = {.y = y, .rows = 1}, next;
    clip_rows(node, &step->in, y * node->stride_h - node->pad_top, &b.kh_begin, &b.kh_end);
    for (; y + b.rows < end && b.rows < rows_together(step); b.rows++) {
        clip_rows(node, &step->in, (y + b.rows) * node->stride_h - node->pad_top, &next.kh_begin, &next.kh_end);
        if (next.kh_begin != b.kh_begin || next.kh_end != b.kh_end) break;
    }
    return b;
}

static void run_item(void *context, size_t item, int worker) {
    (void)worker;
    const rows *r = context;
    int32_t height = r->step->out.height, begin = height * (int32_t)item / r->items, end = height * ((int32_t)item + 1) / r->items;
    for (int32_t y = begin; y < end;) {
        const band b = band_at(r, y, end);
        run_band(r, &b);
        y += b.rows;
    }
    if (r->run->target == r->run->arena) dn_fill_halo(r->run->target, &r->step->out, begin, end);
}

void dn_run_depthwise(const dn_run_context *run, const dn_step *step) {
    int32_t threads = step->macs < SMALL_MACS ? 1 : run->threads;
    rows r = {run, step, step->out.height < threads ? step->out.height : threads};
    if (r.items == 1) run_item(&r, 0, 0);
    else (void)dn_pool_run(run->threads, (size_t)r.items, run_item, &r, NULL);
}
