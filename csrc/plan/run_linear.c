/* run_linear.c - drives the linear kernel on planes of nibbles: runs of channels, passes over channel groups, threads that share panels. */
#include <string.h>

#include "base/pool.h"
#include "plan/run_conv.h"

static size_t list(const dn_walk *w, int32_t pass, dn_run *runs) {
    const dn_node *node = w->node;
    dn_segment_run single;
    const dn_segment_run *segments;
    int32_t count = dn_walk_runs(w, pass, &single, &segments), channels = (int32_t)(w->op->tap_stride / DN_PANEL);
    dn_run *next = runs;
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++)
            for (int32_t s = 0; s < count; s++) {
                int32_t input = kh * node->dilation_h * w->step->in.row + kw * node->dilation_w * w->step->in.pixel + segments[s].lane;
                dn_run r = {input, (kh * node->kernel_w + kw) * channels + segments[s].weight, segments[s].lanes};
                bool joins = next > runs && next[-1].input + next[-1].count == r.input && next[-1].weight + next[-1].count == r.weight;
                if (joins) next[-1].count += r.count; /* what stands together at full width is one run */
                else *next++ = r;
            }
    return (size_t)(next - runs);
}

/* The epilogue of a pass without its compensation, which a later pass adds to the sums so far. */
static void add_pass_bias(const dn_epilogue *e, float *sums, int32_t channels) {
    for (int32_t c = 0; c < channels; c++) sums[c] += e->bias[c];
}

/* Panels [begin, end) of one pack group. */
static void run_panels(const dn_walk *w, int32_t group, int32_t pass, int32_t begin, int32_t end, const dn_run *runs, size_t count) {
    const dn_step *step = w->step;
    const uint8_t *high = w->run->plan->blob + dn_plane_byte(w->op, (size_t)group, (size_t)begin * DN_PANEL, 0);
    size_t out_size = step->out.u8 ? 1 : sizeof(float);
    const dn_linear_s8_job job = {.input = w->run->arena + step->in.offset + dn_walk_in(w, group),
                                  .high = high,
                                  .low = high + dn_plane_bytes(w->op),
                                  .output = w->run->target + step->out.offset + (size_t)dn_walk_out(w, group, begin) * out_size,
                                  .residual = step->has_second ? w->run->arena + step->second.offset + dn_walk_out(w, group, begin) : NULL,
                                  .runs = runs,
                                  .run_count = count,
                                  .panel_stride = w->op->panel_stride / 2,
                                  .panels = end - begin,
                                  .last = dn_walk_last(w, group, begin, end - begin),
                                  .bits = step->bits,
                                  .epilogue = dn_walk_epilogue(w, group, begin, pass)};
    if (pass && step->pass_bias) add_pass_bias(&job.epilogue, job.output, (job.panels - 1) * DN_PANEL + job.last);
    w->run->plan->kernels.linear_s8->run(&job);
}

/* An equal share of all groups' panels. */
static void run_item(void *context, size_t item, int worker) {
    const dn_walk *w = context;
    dn_run *runs = (dn_run *)(void *)(w->run->scratch + (size_t)worker * w->run->point->scratch_bytes);
    int32_t i = (int32_t)item, n = w->items, before = w->first_group * w->panels, panels = (w->step->groups - w->first_group) * w->panels;
    int32_t begin = before + panels * i / n, end = before + panels * (i + 1) / n;
    for (int32_t pass = w->first_pass; pass < w->passes; pass++) {
        size_t count = list(w, pass, runs);
        for (int32_t at = begin; at < end;) {
            int32_t group = at / w->panels, first = group * w->panels, last = first + w->panels < end ? first + w->panels : end;
            run_panels(w, group, pass, at - first, last - first, runs, count);
            at = last;
        }
    }
    if (i == 0 && w->run->target == w->run->arena) dn_fill_halo(w->run->target, &w->step->out, 0, 1);
}

void dn_run_linear(const dn_run_context *run, const dn_step *step) {
    dn_walk w = dn_walk_of(run, step);
    dn_walk_split(&w, 1, w.panels * (step->groups - w.first_group));
    if (w.first_pass) memcpy(dn_map_at(run->target, &step->out, 0, 0), run->kept, (size_t)step->out.channels * sizeof *run->kept);
    if (w.items == 1) run_item(&w, 0, 0);
    else (void)dn_pool_run(run->threads, (size_t)w.items, run_item, &w, NULL);
}
