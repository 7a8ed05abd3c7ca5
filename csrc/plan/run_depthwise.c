/* run_depthwise.c - drives the depthwise kernels row by row. */
#include "base/pool.h"
#include "base/size.h"
#include "plan/plan.h"

enum { PANEL = 16, SMALL_MACS = 30000 };

typedef struct rows {
    const dn_run_context *run;
    const dn_step *step;
    int32_t items;
} rows;

static dn_epilogue epilogue_of(const dn_run_context *run, const dn_step *step, const dn_scalars *s, int32_t begin) {
    const float *scale = (const float *)(const void *)(run->point->tables + step->table) + begin;
    return (dn_epilogue){.scale = scale, .bias = scale + dn_round_up(step->table_channels, PANEL) + PANEL, .residual_scale = s->residual_scale, .lo = s->lo, .hi = s->hi,
                         .out_scale = s->out_scale, .out_zero = s->out_zero, .flags = step->flags};
}

static void clip_rows(const dn_node *node, const dn_map *in, int32_t top, int32_t *begin, int32_t *end) {
    *begin = 0;
    *end = node->kernel_h;
    while (*begin < *end && top + *begin * node->dilation_h < -in->top) ++*begin;
    while (*end > *begin && top + (*end - 1) * node->dilation_h >= in->height + in->bottom) --*end;
}

/* Lanes [begin, begin + count) of one output row, whose first channel at full width is `channel`. */
static void run_lanes(const rows *r, int32_t y, const dn_scalars *s, int32_t begin, int32_t count, int32_t channel) {
    const dn_run_context *run = r->run;
    const dn_step *step = r->step;
    const dn_plan_op *op = &run->plan->ops[step->op];
    const dn_node *node = &run->plan->graph->nodes[op->node];
    int32_t top = y * node->stride_h - node->pad_top, kh_begin, kh_end;
    clip_rows(node, &step->in, top, &kh_begin, &kh_end);
    const uint8_t *in = dn_map_at(run->arena, &step->in, top, -node->pad_left), *residual = step->has_second ? dn_map_at(run->arena, &step->second, y, 0) : NULL;
    uint8_t *out = dn_map_at(run->target, &step->out, y, 0);
    const uint8_t *weights = run->plan->blob + op->weight_offset;
    size_t skip = (size_t)(channel / PANEL * node->kernel_h * node->kernel_w * PANEL + channel % PANEL);
    dn_epilogue epilogue = epilogue_of(run, step, s, begin);
    if (op->int8) {
        run->plan->kernels.dwconv_s8->run(&(dn_dwconv_s8_job){
            .input = in + begin, .weights = (const int8_t *)weights + skip, .output = out + begin, .residual = residual ? residual + begin : NULL,
            .in_row = (ptrdiff_t)node->dilation_h * step->in.row, .in_tap = (ptrdiff_t)node->dilation_w * step->in.pixel, .in_step = (ptrdiff_t)node->stride_w * step->in.pixel,
            .out_step = step->out.pixel, .residual_step = step->second.pixel, .kernel_h = node->kernel_h, .kernel_w = node->kernel_w, .kh_begin = kh_begin, .kh_end = kh_end,
            .width = node->width, .channels = count, .view_add = step->view_add, .view_mask = step->view_mask, .epilogue = epilogue});
    } else {
        run->plan->kernels.dwconv_f32->run(&(dn_dwconv_f32_job){
            .input = in + begin * step->in.size, .weights = weights + skip * dn_weight_size(run->plan, op), .output = out + begin * step->out.size,
            .residual = residual ? residual + begin * step->second.size : NULL,
            .in_row = (ptrdiff_t)node->dilation_h * step->in.row, .in_tap = (ptrdiff_t)node->dilation_w * step->in.pixel, .in_step = (ptrdiff_t)node->stride_w * step->in.pixel,
            .out_step = step->out.pixel, .residual_step = step->second.pixel, .kernel_h = node->kernel_h, .kernel_w = node->kernel_w, .kh_begin = kh_begin, .kh_end = kh_end,
            .width = node->width, .channels = count, .epilogue = epilogue});
    }
}

/* Segment by segment and group by group, since weights stand by full channel and scalars belong to groups; what begins inside a panel is cut at the panel's end. What is grouped has one
 * segment. */
static void run_row(const rows *r, int32_t y) {
    const dn_scalars *s = (const dn_scalars *)(const void *)(r->run->point->tables + r->step->scalars), *last = s + r->step->groups - 1;
    const dn_segment_run *runs = (const dn_segment_run *)(const void *)(r->run->point->tables + r->step->extra);
    int32_t first = dn_first_lane(r->run, r->step);
    for (int32_t k = 0; k < r->step->parts; k++)
        for (int32_t at = first, stop; at < runs[k].lanes; at = stop) {
            int32_t channel = runs[k].weight + at, lane = runs[k].lane + at;
            stop = channel % PANEL ? at + PANEL - channel % PANEL : runs[k].lanes;
            if (stop > runs[k].lanes) stop = runs[k].lanes;
            while (s < last && lane >= s->begin + s->count) s++;
            if (s < last && runs[k].lane + stop > s->begin + s->count) stop = s->begin + s->count - runs[k].lane;
            run_lanes(r, y, s, lane, stop - at, channel);
        }
}

static void run_item(void *context, size_t item, int worker) {
    (void)worker;
    const rows *r = context;
    int32_t height = r->step->out.height, begin = height * (int32_t)item / r->items, end = height * ((int32_t)item + 1) / r->items;
    for (int32_t y = begin; y < end; y++) run_row(r, y);
    if (r->run->target == r->run->arena) dn_fill_halo(r->run->target, &r->step->out, begin, end);
}

void dn_run_depthwise(const dn_run_context *run, const dn_step *step) {
    int32_t threads = step->macs < SMALL_MACS ? 1 : run->threads;
    rows r = {run, step, step->out.height < threads ? step->out.height : threads};
    if (r.items == 1) run_item(&r, 0, 0);
    else (void)dn_pool_run(run->threads, (size_t)r.items, run_item, &r, NULL);
}
