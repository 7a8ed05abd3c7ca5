/* run_conv.h - what the ways to run a convolution share: one convolution being run, and where its channel groups and panels stand. */
#ifndef DN_PLAN_RUN_CONV_H
#define DN_PLAN_RUN_CONV_H

#include <math.h>

#include "base/size.h"
#include "plan/plan.h"

enum { DN_PANEL = 16, DN_SMALL_MACS = 150000 }; /* below DN_SMALL_MACS a hand-off to another thread costs more than it saves */

typedef struct dn_walk {
    const dn_run_context *run;
    const dn_step *step;
    const dn_plan_op *op;
    const dn_node *node;
    const dn_segment_run *runs;
    const dn_scalars *scalars;
    const float *scale, *bias;
    int32_t panels;       /* per pack group */
    size_t panel_bytes;   /* of weights that are read */
    int32_t first_group;  /* pack groups and passes before these are done */
    int32_t first_pass;
    int32_t passes;       /* partial sums, else 1 */
    size_t pass_channels; /* table entries per pass */
    bool by_rows;         /* threads share rows; else blocks of panels */
    int32_t items;
} dn_walk;

static inline dn_walk dn_walk_of(const dn_run_context *run, const dn_step *step) {
    const dn_plan_op *op = &run->plan->ops[step->op];
    const float *scale = dn_table_at(run->point, step->table);
    int32_t channels = step->groups > 1 ? op->group_out : step->out.channels;
    dn_walk w = {.run = run, .step = step, .op = op, .node = &run->plan->graph->nodes[op->node],
                 .runs = step->runs, .scalars = step->scalars, .scale = scale, .bias = scale + step->table_channels, .first_group = dn_first_chunk(run, step), .passes = 1, .panels = (channels + DN_PANEL - 1) / DN_PANEL};
    w.panel_bytes = (size_t)step->macs / (size_t)(w.node->height * w.node->width) / (size_t)step->out.channels * DN_PANEL * dn_weight_size(run->plan, op);
    if (op->partial) {
        w.pass_channels = (size_t)step->out.pixel;
        w.passes = (int32_t)(step->table_channels / w.pass_channels);
        w.first_pass = run->done;
    }
    return w;
}

/* The split is a function of the layer and the number of threads alone. rows and parts: how many there are to share. */
static inline void dn_walk_split(dn_walk *w, int32_t rows, int32_t parts) {
    int32_t threads = w->step->macs < DN_SMALL_MACS ? 1 : w->run->threads;
    w->by_rows = rows >= 2 * threads || parts < threads;
    w->items = w->by_rows ? (rows < threads ? rows : threads) : threads;
}

/* Channels that the last of nr panels from `panel` on stores: up to the lanes of the pixel in the last group, exactly the group's elsewhere. */
static inline int32_t dn_walk_last(const dn_walk *w, int32_t group, int32_t panel, int32_t nr) {
    int32_t begin = group * w->op->group_out, groups = w->step->groups;
    int32_t channels = group == groups - 1 ? w->step->out.pixel - begin : w->op->group_out;
    int32_t left = channels - (panel + nr - 1) * DN_PANEL;
    return left < DN_PANEL ? left : DN_PANEL;
}

static inline ptrdiff_t dn_walk_in(const dn_walk *w, int32_t group) { return w->op->group_in ? (ptrdiff_t)group * w->op->group_in : 0; }
static inline ptrdiff_t dn_walk_out(const dn_walk *w, int32_t group, int32_t panel) {
    return (ptrdiff_t)group * (w->step->groups > 1 ? w->op->group_out : 0) + (ptrdiff_t)panel * DN_PANEL;
}

static inline dn_epilogue dn_walk_epilogue(const dn_walk *w, int32_t group, int32_t panel, int32_t pass) {
    const dn_scalars *s = &w->scalars[group];
    bool last = pass == w->passes - 1;
    size_t at = (size_t)pass * w->pass_channels + (size_t)dn_walk_out(w, group, panel);
    return (dn_epilogue){.scale = w->scale + at,
                         .bias = w->bias + at,
                         .residual_scale = s->residual_scale,
                         .lo = last ? s->lo : -INFINITY,
                         .hi = last ? s->hi : INFINITY,
                         .out_scale = s->out_scale,
                         .out_zero = s->out_zero,
                         .flags = (last ? w->step->flags : w->step->flags & DN_CONV_F32_OUT) | (pass ? DN_CONV_ACCUMULATE : 0)};
}

/* The segment runs of one pass: all of them, or the channels of one group. */
static inline int32_t dn_walk_runs(const dn_walk *w, int32_t pass, dn_segment_run *single, const dn_segment_run **runs) {
    *runs = w->runs;
    if (!w->op->partial) return w->step->parts;
    int32_t width = w->runs[0].channels / w->passes;
    *single = (dn_segment_run){.lane = pass * width, .lanes = width, .weight = pass * width, .channels = width};
    *runs = single;
    return 1;
}

/* Element offsets of output pixel (y, x): input window's corner, output, residual. */
typedef struct dn_place {
    ptrdiff_t in, out, residual;
} dn_place;

static inline dn_place dn_walk_place(const dn_walk *w, int32_t y, int32_t x) {
    const dn_step *step = w->step;
    const dn_node *node = w->node;
    return (dn_place){.in = (ptrdiff_t)(y * node->stride_h - node->pad_top) * step->in.row + (ptrdiff_t)(x * node->stride_w - node->pad_left) * step->in.pixel,
                      .out = (ptrdiff_t)y * step->out.row + (ptrdiff_t)x * step->out.pixel,
                      .residual = (ptrdiff_t)y * step->second.row + (ptrdiff_t)x * step->second.pixel};
}

/* Tiles along a side; a last one that does not fit is moved back over its neighbour. */
static inline int32_t dn_tiles_along(int32_t side, int32_t outputs) { return (outputs + side - 1) / side; }
static inline int32_t dn_tile_begin(int32_t side, int32_t number, int32_t outputs) { return side * number + side <= outputs ? side * number : outputs - side; }

/* A float group of dn_run_wino, as one in int8: panels [panel, panel + count) over rows of tiles [begin, end); run_wino_f32.c. */
void dn_run_group_wino_f32(const dn_walk *w, uint8_t *scratch, int32_t begin, int32_t end, int32_t group, int32_t panel, int32_t count);

#endif
