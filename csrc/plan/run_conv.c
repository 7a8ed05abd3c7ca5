/* run_conv.c - drives the convolution kernels over a map: lists of taps, rows, blocks of panels, threads. */
#include <string.h>

#include "base/pool.h"
#include "plan/run_conv.h"
#include "plan/widen.h"

enum { MAX_MR = 16, MAX_PARTS = 16, NEAR = 3 << 14 }; /* NEAR: bytes of weights that are read from a near cache again for every tile */

/* Rows whose window has the same kernel rows inside the image. */
typedef struct band {
    int32_t begin, end, kh_begin, kh_end;
} band;

/* A block of panels of one pack group. */
typedef struct part {
    int32_t group, panel, nr, variant, pass;
} part;

static void kernel_rows(const dn_walk *w, int32_t y, int32_t *begin, int32_t *end) {
    const dn_node *node = w->node;
    const dn_map *in = &w->step->in;
    const int32_t top = y * node->stride_h - node->pad_top;
    *begin = 0, *end = node->kernel_h;
    while (*begin < *end && top + *begin * node->dilation_h < -in->top) ++*begin;
    while (*end > *begin && top + (*end - 1) * node->dilation_h >= in->height + in->bottom) --*end;
}

static band band_at(const dn_walk *w, int32_t y, int32_t end) {
    const dn_node *node = w->node;
    const int32_t reach = (node->kernel_h - 1) * node->dilation_h;
    band b = {.begin = y, .end = y + 1};
    kernel_rows(w, y, &b.kh_begin, &b.kh_end);
    if (b.kh_end - b.kh_begin == node->kernel_h) {
        const int32_t whole = (w->step->in.height + w->step->in.bottom - 1 - reach + node->pad_top) / node->stride_h + 1;
        b.end = whole < end ? whole : end;
        return b;
    }
    for (int32_t low, high; b.end < end; b.end++) {
        kernel_rows(w, b.end, &low, &high);
        if (low != b.kh_begin || high != b.kh_end) break;
    }
    return b;
}

/* ---- lists ---- */

static size_t list_s8(const dn_walk *w, int32_t pass, int32_t steps, dn_tap *taps) {
    const dn_node *node = w->node;
    dn_segment_run single;
    const dn_segment_run *runs;
    int32_t count = dn_walk_runs(w, pass, &single, &runs);
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
    int32_t count = dn_walk_runs(w, pass, &single, &runs);
    /* Lanes beyond an image's channels are zero, and so are their weights: whole pairs of channels, and columns side by side are one run. */
    const bool in_pairs = w->run->plan->bf16 && w->run->plan->graph->nodes[node->inputs[0]].op == DN_OP_INPUT;
    dn_run *next = list;
    for (int32_t kh = 0; kh < node->kernel_h; kh++)
        for (int32_t kw = 0; kw < node->kernel_w; kw++) {
            int32_t input = kh * node->dilation_h * w->step->in.row + kw * node->dilation_w * w->step->in.pixel;
            int32_t weight = (kh * node->kernel_w + kw) * (int32_t)(w->op->tap_stride / dn_weight_size(w->run->plan, w->op));
            for (int32_t s = 0; s < count; s++) {
                dn_run r = {input + runs[s].lane, weight + runs[s].weight * DN_PANEL, in_pairs ? (runs[s].channels + 1) / 2 * 2 : runs[s].channels};
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

static const uint8_t *weights_of(const dn_walk *w, const part *p) {
    return w->run->plan->blob + w->op->weight_offset + (size_t)p->group * w->op->group_stride + (size_t)p->panel * w->op->panel_stride;
}

/* Where a part's job begins: pixel (0, 0) and the part's first channels. */
typedef struct origin {
    const uint8_t *in, *residual;
    uint8_t *out;
} origin;

static origin origin_of(const dn_walk *w, const part *p) {
    const dn_step *step = w->step;
    ptrdiff_t channel = dn_walk_out(w, p->group, p->panel);
    return (origin){.in = w->run->arena + step->in.offset + dn_walk_in(w, p->group) * step->in.size,
                    .residual = step->has_second ? w->run->arena + step->second.offset + channel * step->second.size : NULL,
                    .out = w->run->target + step->out.offset + channel * step->out.size};
}

/* Parts of one geometry, tile by tile. */
static void run_parts_s8(const dn_walk *w, const part *parts, int32_t count, const band *b, const dn_tap *taps, size_t per_kh) {
    const dn_step *step = w->step;
    const dn_conv_s8_variant *v = &w->run->plan->kernels.conv_s8->variants[parts[0].variant];
    int32_t in_offset[MAX_MR], out_offset[MAX_MR], residual_offset[MAX_MR];
    dn_conv_s8_job jobs[MAX_PARTS];
    origin origins[MAX_PARTS];
    void (*kernels[MAX_PARTS])(const dn_conv_s8_job *);
    for (int32_t i = 0; i < count; i++) {
        const part *p = &parts[i];
        const dn_conv_s8_variant *own = &w->run->plan->kernels.conv_s8->variants[p->variant];
        const origin o = origins[i] = origin_of(w, p);
        kernels[i] = step->bits == 8 ? own->run : own->run_view;
        jobs[i] = (dn_conv_s8_job){.input = o.in, .output = o.out, .residual = o.residual, .weights = (const int8_t *)weights_of(w, p), .taps = taps + (size_t)b->kh_begin * per_kh,
                                   .tap_count = (size_t)(b->kh_end - b->kh_begin) * per_kh, .panel_stride = w->op->panel_stride,
                                   .in_step = (ptrdiff_t)w->node->stride_w * step->in.pixel, .out_step = step->out.pixel, .residual_step = step->second.pixel,
                                   .in_offset = in_offset, .out_offset = out_offset, .residual_offset = residual_offset, .last = dn_walk_last(w, p->group, p->panel, p->nr),
                                   .view_add = step->view_add, .view_mask = step->view_mask, .epilogue = dn_walk_epilogue(w, p->group, p->panel, p->pass)};
    }
    if (v->form == DN_FORM_POINTER) {
        for (int32_t pixel = 0; pixel < (b->end - b->begin) * w->node->width; pixel += v->mr) {
            fill_offsets(w, b, pixel, v->mr, in_offset, out_offset, residual_offset);
            for (int32_t i = 0; i < count; i++) kernels[i](&jobs[i]);
        }
        return;
    }
    for (int32_t y = b->begin; y < b->end; y++) {
        const dn_place row = dn_walk_place(w, y, 0);
        for (int32_t x = 0, mr = v->mr, width = w->node->width; x < width; x += mr) {
            const ptrdiff_t first = x + mr <= width ? x : width - mr;
            for (int32_t i = 0; i < count; i++) {
                jobs[i].input = origins[i].in + row.in + first * jobs[i].in_step;
                jobs[i].output = origins[i].out + (row.out + first * jobs[i].out_step) * step->out.size;
                if (jobs[i].residual) jobs[i].residual = origins[i].residual + row.residual + first * jobs[i].residual_step;
                kernels[i](&jobs[i]);
            }
        }
    }
}

/* The same in float. wide: what tiles of a bf16 plan that read floats find there, for a single part, else NULL. */
static void run_parts_f32(const dn_walk *w, const part *parts, int32_t count, const band *b, const dn_run *list, size_t per_kh, const dn_widened *wide) {
    const dn_step *step = w->step;
    const dn_conv_f32_variant *v = &w->run->plan->kernels.conv_f32->variants[parts[0].variant];
    ptrdiff_t in_size = wide ? (ptrdiff_t)sizeof(float) : step->in.size, shift = wide ? -dn_widen_origin(wide) : 0;
    int32_t in_offset[MAX_MR], out_offset[MAX_MR], residual_offset[MAX_MR];
    dn_conv_f32_job jobs[MAX_PARTS];
    origin origins[MAX_PARTS];
    void (*kernels[MAX_PARTS])(const dn_conv_f32_job *);
    for (int32_t i = 0; i < count; i++) {
        const part *p = &parts[i];
        origin o = origin_of(w, p);
        if (wide) o.in = (const uint8_t *)(wide->rows + dn_walk_in(w, p->group));
        origins[i] = o;
        kernels[i] = w->run->plan->kernels.conv_f32->variants[p->variant].run;
        jobs[i] = (dn_conv_f32_job){.input = o.in, .output = o.out, .residual = o.residual,
                                    .weights = wide ? (const void *)wide->weights : weights_of(w, p), .runs = list + (size_t)b->kh_begin * per_kh,
                                    .run_count = (size_t)(b->kh_end - b->kh_begin) * per_kh, .panel_stride = w->op->panel_stride / dn_weight_size(w->run->plan, w->op),
                                    .in_step = (ptrdiff_t)w->node->stride_w * step->in.pixel, .out_step = step->out.pixel, .residual_step = step->second.pixel,
                                    .in_offset = in_offset, .out_offset = out_offset, .residual_offset = residual_offset, .last = dn_walk_last(w, p->group, p->panel, p->nr),
                                    .epilogue = dn_walk_epilogue(w, p->group, p->panel, p->pass)};
    }
    if (v->form == DN_FORM_POINTER) {
        for (int32_t pixel = 0; pixel < (b->end - b->begin) * w->node->width; pixel += v->mr) {
            fill_offsets(w, b, pixel, v->mr, in_offset, out_offset, residual_offset);
            for (int32_t i = 0; i < v->mr; i++) in_offset[i] += (int32_t)shift;
            for (int32_t i = 0; i < count; i++) kernels[i](&jobs[i]);
        }
        return;
    }
    for (int32_t y = b->begin; y < b->end; y++)
        for (int32_t x = 0; x < w->node->width; x += v->mr) {
            dn_place at = dn_walk_place(w, y, x + v->mr <= w->node->width ? x : w->node->width - v->mr);
            for (int32_t i = 0; i < count; i++) {
                jobs[i].input = origins[i].in + (at.in + shift) * in_size;
                jobs[i].output = origins[i].out + at.out * step->out.size;
                if (jobs[i].residual) jobs[i].residual = origins[i].residual + at.residual * step->second.size;
                kernels[i](&jobs[i]);
            }
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

/* What decides whether parts can be run tile by tile: pixels, form, and in int8 the steps of a list's entries. */
typedef struct geometry {
    int32_t mr, form, steps;
} geometry;

static geometry geometry_of(const dn_walk *w, int32_t variant) {
    const dn_kernels *k = &w->run->plan->kernels;
    if (w->op->int8) return (geometry){k->conv_s8->variants[variant].mr, k->conv_s8->variants[variant].form, k->conv_s8->variants[variant].steps};
    return (geometry){k->conv_f32->variants[variant].mr, k->conv_f32->variants[variant].form, 1};
}

/* Parts from `number` on whose weights stay near together: all of them work on a tile before the next, so that outputs are written from end to end. */
static int32_t parts_together(const dn_walk *w, int32_t number, int32_t last, int32_t pass, part parts[MAX_PARTS]) {
    int32_t count = 0;
    geometry first = {0};
    for (size_t bytes = 0; count < MAX_PARTS && number + count < last; count++) {
        part p = part_at(w, number + count, pass);
        geometry g = geometry_of(w, p.variant);
        bytes += (size_t)p.nr * w->panel_bytes;
        if (count == 0) first = g;
        else if (bytes > NEAR || g.mr != first.mr || g.form != first.form || g.steps != first.steps) break;
        parts[count] = p;
    }
    return count;
}

/* Rows [begin, end) of one part of a bf16 plan whose tile reads floats. */
static void run_rows_wide(const dn_walk *w, const part *p, dn_widened *wide, const dn_run *list, size_t per_kh, int32_t begin, int32_t end) {
    dn_widen_weights(wide, weights_of(w, p), p->nr, list, (size_t)w->node->kernel_h * per_kh);
    for (int32_t y = begin; y < end;) {
        band b = band_at(w, y, end);
        b.end = dn_widen_rows(wide, b.begin, b.end, b.kh_begin, b.kh_end);
        run_parts_f32(w, p, 1, &b, list, per_kh, wide);
        y = b.end;
    }
}

/* Rows [begin, end) of parts [first, last). */
static void run_rows_f32(const dn_walk *w, int32_t pass, dn_widened *wide, const dn_run *list, size_t per_kh, int32_t begin, int32_t end, int32_t first, int32_t last) {
    part parts[MAX_PARTS];
    for (int32_t number = first, count; number < last; number += count) {
        count = parts_together(w, number, last, pass, parts);
        if (w->run->plan->bf16 && w->run->plan->kernels.conv_f32->variants[parts[0].variant].floats) {
            count = 1;
            run_rows_wide(w, parts, wide, list, per_kh, begin, end);
            continue;
        }
        for (int32_t y = begin; y < end;) {
            band b = band_at(w, y, end);
            run_parts_f32(w, parts, count, &b, list, per_kh, NULL);
            y = b.end;
        }
    }
}

static void run_range_f32(const dn_walk *w, void *scratch, int32_t begin, int32_t end, int32_t first, int32_t last) {
    dn_widened wide;
    dn_widen_begin(&wide, w->run, w->step, scratch);
    int32_t block = w->step->wide_block ? w->step->wide_block : end - begin;
    for (int32_t pass = w->first_pass; pass < w->passes; pass++) {
        size_t per_kh = list_f32(w, pass, scratch);
        for (int32_t y = begin; y < end; y += block) run_rows_f32(w, pass, &wide, scratch, per_kh, y, y + block < end ? y + block : end, first, last);
    }
}

static void run_range_s8(const dn_walk *w, void *scratch, int32_t begin, int32_t end, int32_t first, int32_t last) {
    part parts[MAX_PARTS];
    for (int32_t pass = w->first_pass; pass < w->passes; pass++) {
        int32_t steps = 0;
        size_t per_kh = 0;
        for (int32_t number = first, count; number < last; number += count) {
            count = parts_together(w, number, last, pass, parts);
            int32_t wanted = geometry_of(w, parts[0].variant).steps;
            if (wanted != steps) per_kh = list_s8(w, pass, wanted, scratch);
            steps = wanted;
            for (int32_t y = begin; y < end;) {
                band b = band_at(w, y, end);
                for (int32_t i = 0; pass && w->step->pass_bias && i < count; i++) add_pass_bias(w, &parts[i], &b);
                run_parts_s8(w, parts, count, &b, scratch, per_kh);
                y = b.end;
            }
        }
    }
}

/* Rows [begin, end) of parts [first, last). */
static void run_range(const dn_walk *w, int32_t worker, int32_t begin, int32_t end, int32_t first, int32_t last) {
    void *scratch = w->run->scratch + (size_t)worker * w->run->point->scratch_bytes;
    (w->op->int8 ? run_range_s8 : run_range_f32)(w, scratch, begin, end, first, last);
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
