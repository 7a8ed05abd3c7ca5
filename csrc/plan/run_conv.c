/* run_conv.c - drives the convolution kernels over a map: lists of taps, rows, blocks of panels, threads. */
#include <string.h>

#include "base/pool.h"
#include "plan/run_conv.h"
#include "plan/widen.h"

enum { MAX_MR = 16 };

/* Rows whose window has the same kernel rows inside the image. */
typedef struct band {
    int32_t begin, end, kh_begin, kh_end;
} band;

/* A block of panels of one pack group. */
typedef struct part {
    int32_t group, panel, nr, variant, pass;
} part;

static band band_at(const dn_walk *w, int32_t y, int32_t end) {
    const dn_node *node = w->node;
    const dn_map *in = &w->step->in;
    band b = {y, y + 1, 0, node->kernel_h};
    for (int32_t row = y; row < end; row++) {
        int32_t top = row * node->stride_h - node->pad_top, low = 0, high = node->kernel_h;
        while (low < high && top + low * node->dilation_h < -in->top) low++;
        while (high > low && top + (high - 1) * node->dilation_h >= in->height + in->bottom) high--;
        if (row == y) b.kh_begin = low, b.kh_end = high;
        else if (low != b.kh_begin || high != b.kh_end) break;
        b.end = row + 1;
    }
    return b;
}

/* ---- lists ---- */

/* The segment runs of one pass: all of them, or the channels of one group. */
static int32_t pass_runs(const dn_walk *w, int32_t pass, dn_segment_run *single, const dn_segment_run **runs) {
    *runs = w->runs;
    if (!w->op->partial) return w->step->parts;
    int32_t width = w->runs[0].channels / w->passes;
    *single = (dn_segment_run){.lane = pass * width, .lanes = width, .weight = pass * width, .channels = width};
    *runs = single;
    return 1;
}

static size_t list_s8(const dn_walk *w, int32_t pass, int32_t steps, dn_tap *taps) {
    const dn_node *node = w->node;
    dn_segment_run single;
    const dn_segment_run *runs;
    int32_t count = pass_runs(w, pass, &single, &runs);
    dn_tap *next = taps;
    if (dn_conv_rows_join(w->op, node, w->step, runs[0].lanes)) {
        int32_t row = node->kernel_w * runs[0].lanes;
        for (int32_t kh = 0; kh < node->kernel_h; kh++)
            for (int32_t c = 0; c < row; c += 4 * steps) *next++ = (dn_tap){kh * node->dilation_h * w->step->in.row + c, (kh * row + c) * DN_PANEL};
        return (size_t)(next - taps) / (size_t)node->kernel_h;
    }
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            int32_t input = kh * node->dilation_h * w->step->in.row + kw * node->dilation_w * w->step->in.pixel;
            int32_t weight = (kh * node->kernel_w + kw) * (int32_t)w->op->tap_stride;
            for (int32_t s = 0; s < count; s++)
                for (int32_t c = 0; c < runs[s].lanes; c += 4 * steps) *next++ = (dn_tap){input + runs[s].lane + c, weight + (runs[s].weight + c) * DN_PANEL};
        }
    return (size_t)(next - taps) / (size_t)node->kernel_h;
}

static size_t list_f32(const dn_walk *w, int32_t pass, dn_run *list) {
    const dn_node *node = w->node;
    dn_segment_run single;
    const dn_segment_run *runs;
    int32_t count = pass_runs(w, pass, &single, &runs);
    dn_run *next = list;
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            int32_t input = kh * node->dilation_h * w->step->in.row + kw * node->dilation_w * w->step->in.pixel;
            int32_t weight = (kh * node->kernel_w + kw) * (int32_t)(w->op->tap_stride / dn_weight_size(w->run->plan, w->op));
            for (int32_t s = 0; s < count; s++) {
                dn_run r = {input + runs[s].lane, weight + runs[s].weight * DN_PANEL, runs[s].channels};
                bool joins = next > list && kw > 0 && next[-1].input + next[-1].count == r.input && next[-1].weight + next[-1].count * DN_PANEL == r.weight;
                if (joins) next[-1].count += r.count; /* neighbouring columns at full width are one run */
                else *next++ = r;
            }
        }
    return (size_t)(next - list) / (size_t)node->kernel_h;
}

/* ---- one part over bands of rows ---- */

/* Fills the pointer form's offsets for the mr pixels from number `pixel` of the band on; the last pixel is repeated. */
static void fill_offsets(const dn_walk *w, const band *b, int32_t pixel, int32_t mr, int32_t in[], int32_t out[], int32_t residual[]) {
    const dn_step *step = w->step;
    const dn_node *node = w->node;
    int32_t x = pixel % node->width, left = (b->end - b->begin) * node->width - pixel;
    dn_place at = dn_walk_place(w, b->begin + pixel / node->width, x);
    const dn_place next = {(ptrdiff_t)node->stride_w * step->in.pixel, step->out.pixel, step->second.pixel};
    const dn_place wrap = {(ptrdiff_t)node->stride_h * step->in.row - node->width * next.in, step->out.row - node->width * next.out, step->second.row - node->width * next.residual};
    for (int32_t i = 0; i < mr; i++) {
        in[i] = (int32_t)at.in;
        out[i] = (int32_t)at.out;
        residual[i] = (int32_t)at.residual;
        if (i + 1 >= left) continue;
        at.in += next.in, at.out += next.out, at.residual += next.residual;
        if (++x == node->width) x = 0, at.in += wrap.in, at.out += wrap.out, at.residual += wrap.residual;
    }
}

/* A later pass's compensation, added to the sums so far. */
static void add_pass_bias(const dn_walk *w, const part *p, const band *b) {
    const float *bias = dn_walk_epilogue(w, p->group, p->panel, p->pass).bias;
    int32_t channels = (p->nr - 1) * DN_PANEL + dn_walk_last(w, p->group, p->panel, p->nr);
    for (int32_t y = b->begin; y < b->end; y++)
        for (int32_t x = 0; x < w->node->width; x++) {
            float *sums = (float *)(void *)dn_map_at(w->run->target, &w->step->out, y, x) + dn_walk_out(w, p->group, p->panel);
            for (int32_t c = 0; c < channels; c++) sums[c] += bias[c];
        }
}

static void run_part_s8(const dn_walk *w, const part *p, const band *b, const dn_tap *taps, size_t per_kh) {
    const dn_step *step = w->step;
    const dn_conv_s8_variant *v = &w->run->plan->kernels.conv_s8->variants[p->variant];
    void (*kernel)(const dn_conv_s8_job *) = step->bits == 8 ? v->run : v->run_view;
    const uint8_t *in = w->run->arena + step->in.offset + dn_walk_in(w, p->group), *residual = step->has_second ? w->run->arena + step->second.offset + dn_walk_out(w, p->group, p->panel) : NULL;
    uint8_t *out = w->run->target + step->out.offset;
    size_t out_size = step->out.u8 ? 1 : sizeof(float);
    out += (size_t)dn_walk_out(w, p->group, p->panel) * out_size;
    int32_t in_offset[MAX_MR], out_offset[MAX_MR], residual_offset[MAX_MR];
    dn_conv_s8_job job = {.weights = (const int8_t *)w->run->plan->blob + w->op->weight_offset + (size_t)p->group * w->op->group_stride + (size_t)p->panel * w->op->panel_stride,
                          .taps = taps + (size_t)b->kh_begin * per_kh, .tap_count = (size_t)(b->kh_end - b->kh_begin) * per_kh, .panel_stride = w->op->panel_stride,
                          .in_step = (ptrdiff_t)w->node->stride_w * step->in.pixel, .out_step = step->out.pixel, .residual_step = step->second.pixel,
                          .in_offset = in_offset, .out_offset = out_offset, .residual_offset = residual_offset, .last = dn_walk_last(w, p->group, p->panel, p->nr),
                          .view_add = step->view_add, .view_mask = step->view_mask, .epilogue = dn_walk_epilogue(w, p->group, p->panel, p->pass)};
    if (v->form == DN_FORM_POINTER) {
        job.input = in, job.output = out, job.residual = residual;
        for (int32_t pixel = 0; pixel < (b->end - b->begin) * w->node->width; pixel += v->mr) {
            fill_offsets(w, b, pixel, v->mr, in_offset, out_offset, residual_offset);
            kernel(&job);
        }
        return;
    }
    for (int32_t y = b->begin; y < b->end; y++)
        for (int32_t x = 0; x < w->node->width; x += v->mr) {
            dn_place at = dn_walk_place(w, y, x + v->mr <= w->node->width ? x : w->node->width - v->mr);
            job.input = in + at.in;
            job.output = out + (size_t)at.out * out_size;
            job.residual = residual ? residual + at.residual : NULL;
            kernel(&job);
        }
}

static const uint8_t *weights_of(const dn_walk *w, const part *p) {
    return w->run->plan->blob + w->op->weight_offset + (size_t)p->group * w->op->group_stride + (size_t)p->panel * w->op->panel_stride;
}

/* wide: what tiles of a bf16 plan that read floats find there, else NULL. */
static void run_part_f32(const dn_walk *w, const part *p, const band *b, const dn_run *list, size_t per_kh, const dn_widened *wide) {
    const dn_step *step = w->step;
    const dn_conv_f32_variant *v = &w->run->plan->kernels.conv_f32->variants[p->variant];
    const uint8_t *in = wide ? (const uint8_t *)wide->rows : w->run->arena + step->in.offset, *residual = NULL;
    if (step->has_second) residual = w->run->arena + step->second.offset + dn_walk_out(w, p->group, p->panel) * step->second.size;
    uint8_t *out = w->run->target + step->out.offset + dn_walk_out(w, p->group, p->panel) * step->out.size;
    ptrdiff_t in_size = wide ? (ptrdiff_t)sizeof(float) : step->in.size, shift = dn_walk_in(w, p->group) - (wide ? dn_widen_origin(wide) : 0);
    int32_t in_offset[MAX_MR], out_offset[MAX_MR], residual_offset[MAX_MR];
    dn_conv_f32_job job = {.weights = wide ? (const void *)wide->weights : weights_of(w, p), .runs = list + (size_t)b->kh_begin * per_kh,
                           .run_count = (size_t)(b->kh_end - b->kh_begin) * per_kh, .panel_stride = w->op->panel_stride / dn_weight_size(w->run->plan, w->op),
                           .in_step = (ptrdiff_t)w->node->stride_w * step->in.pixel, .out_step = step->out.pixel, .residual_step = step->second.pixel,
                           .in_offset = in_offset, .out_offset = out_offset, .residual_offset = residual_offset, .last = dn_walk_last(w, p->group, p->panel, p->nr), .epilogue = dn_walk_epilogue(w, p->group, p->panel, p->pass)};
    if (v->form == DN_FORM_POINTER) {
        job.input = in, job.output = out, job.residual = residual;
        for (int32_t pixel = 0; pixel < (b->end - b->begin) * w->node->width; pixel += v->mr) {
            fill_offsets(w, b, pixel, v->mr, in_offset, out_offset, residual_offset);
            for (int32_t i = 0; i < v->mr; i++) in_offset[i] += (int32_t)shift;
            v->run(&job);
        }
        return;
    }
    for (int32_t y = b->begin; y < b->end; y++)
        for (int32_t x = 0; x < w->node->width; x += v->mr) {
            dn_place at = dn_walk_place(w, y, x + v->mr <= w->node->width ? x : w->node->width - v->mr);
            job.input = in + (at.in + shift) * in_size;
            job.output = out + at.out * step->out.size;
            job.residual = residual ? residual + at.residual * step->second.size : NULL;
            v->run(&job);
        }
}

/* ---- parts and threads ---- */

static int32_t main_nr(const dn_walk *w) {
    const dn_kernels *k = &w->run->plan->kernels;
    return w->op->int8 ? k->conv_s8->variants[w->step->tile[0]].nr : k->conv_f32->variants[w->step->tile[0]].nr;
}

static int32_t parts_per_group(const dn_walk *w) { return (w->panels + main_nr(w) - 1) / main_nr(w); }

static int32_t first_part(const dn_walk *w) { return w->first_group * parts_per_group(w); }

static part part_at(const dn_walk *w, int32_t number, int32_t pass) {
    int32_t per_group = parts_per_group(w), nr = main_nr(w), block = number % per_group;
    bool rest = w->panels - block * nr < nr;
    return (part){.group = number / per_group, .panel = block * nr, .nr = rest ? w->panels - block * nr : nr, .variant = w->step->tile[rest], .pass = pass};
}

/* Rows [begin, end) of one float part. */
static void run_rows_f32(const dn_walk *w, const part *p, dn_widened *wide, const dn_run *list, size_t per_kh, int32_t begin, int32_t end) {
    bool floats = w->run->plan->bf16 && w->run->plan->kernels.conv_f32->variants[p->variant].floats;
    if (floats) dn_widen_weights(wide, weights_of(w, p), p->nr, list, (size_t)w->node->kernel_h * per_kh);
    for (int32_t y = begin; y < end;) {
        band b = band_at(w, y, end);
        if (floats) b.end = dn_widen_rows(wide, b.begin, b.end, b.kh_begin, b.kh_end);
        run_part_f32(w, p, &b, list, per_kh, floats ? wide : NULL);
        y = b.end;
    }
}

static void run_range_f32(const dn_walk *w, int32_t worker, int32_t begin, int32_t end, int32_t first, int32_t last) {
    void *scratch = w->run->scratch + (size_t)worker * w->run->point->scratch_bytes;
    dn_widened wide;
    dn_widen_begin(&wide, w->run, w->step, scratch);
    int32_t block = w->step->wide_block ? w->step->wide_block : end - begin;
    for (int32_t pass = w->first_pass; pass < w->passes; pass++) {
        size_t per_kh = list_f32(w, pass, scratch);
        for (int32_t y = begin; y < end; y += block)
            for (int32_t number = first; number < last; number++) {
                part p = part_at(w, number, pass);
                run_rows_f32(w, &p, &wide, scratch, per_kh, y, y + block < end ? y + block : end);
            }
    }
}

/* Rows [begin, end) of parts [first, last). */
static void run_range(const dn_walk *w, int32_t worker, int32_t begin, int32_t end, int32_t first, int32_t last) {
    void *scratch = w->run->scratch + (size_t)worker * w->run->point->scratch_bytes;
    if (!w->op->int8) run_range_f32(w, worker, begin, end, first, last);
    for (int32_t pass = w->first_pass; pass < w->passes && w->op->int8; pass++) {
        int32_t steps = 0;
        size_t per_kh = 0;
        for (int32_t number = first; number < last; number++) {
            part p = part_at(w, number, pass);
            int32_t wanted = w->run->plan->kernels.conv_s8->variants[p.variant].steps;
            if (wanted != steps) per_kh = list_s8(w, pass, wanted, scratch);
            steps = wanted;
            for (int32_t y = begin; y < end;) {
                band b = band_at(w, y, end);
                if (pass && w->step->pass_bias) add_pass_bias(w, &p, &b);
                run_part_s8(w, &p, &b, scratch, per_kh);
                y = b.end;
            }
        }
    }
    if (w->run->target == w->run->arena && first == first_part(w)) dn_fill_halo(w->run->target, &w->step->out, begin, end);
}

static void run_item(void *context, size_t item, int worker) {
    const dn_walk *w = context;
    int32_t i = (int32_t)item, n = w->items, begin = first_part(w), end = parts_per_group(w) * w->step->groups, parts = end - begin;
    if (w->by_rows) run_range(w, worker, w->node->height * i / n, w->node->height * (i + 1) / n, begin, end);
    else run_range(w, worker, 0, w->node->height, begin + parts * i / n, begin + parts * (i + 1) / n);
}

/* The sums to go on from. */
static void load_kept(const dn_walk *w) {
    const dn_map *out = &w->step->out;
    const float *kept = w->run->kept;
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++, kept += out->channels) memcpy(dn_map_at(w->run->target, out, y, x), kept, (size_t)out->channels * sizeof *kept);
}

void dn_run_conv(const dn_run_context *run, const dn_step *step) {
    dn_walk w = dn_walk_of(run, step);
    dn_walk_split(&w, w.node->height, parts_per_group(&w) * (step->groups - w.first_group));
    if (w.first_pass) load_kept(&w);
    if (w.items == 1) run_item(&w, 0, 0);
    else (void)dn_pool_run(run->threads, (size_t)w.items, run_item, &w, NULL);
}
