/* wino_f32.c - the products of Winograd's method in float, by the tiles of conv_f32. */
#include <math.h>

#include "kernels/kernels.h"

enum { MOST_PANELS = 4, MAX_MR = 32 };
static const float ones[16 * MOST_PANELS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                             1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static const float zeros[16 * MOST_PANELS];

/* Cycles of one channel of all tiles and one panel, in units of one panel-wide multiply-add: arithmetic, loads, or the latency of too few sums. */
static float cost(const dn_conv_f32_variant *v, int32_t tiles) {
    float work = (float)(v->mr * v->nr), loads = (float)(v->mr + 2 * v->nr) * 0.5f, least = work > loads ? work : loads;
    return ((least > 5 ? least : 5) + 0.5f) * (float)((tiles + v->mr - 1) / v->mr) / (float)v->nr;
}

static const dn_conv_f32_variant *choose(const dn_conv_f32 *kernels, int32_t tiles, int32_t panels) {
    const dn_conv_f32_variant *best = NULL;
    for (size_t i = 0; i < kernels->variant_count; i++) {
        const dn_conv_f32_variant *v = &kernels->variants[i];
        if (v->nr > panels || v->nr > MOST_PANELS || v->mr > MAX_MR || (v->form == DN_FORM_ROW && v->mr > tiles)) continue;
        if (!best || cost(v, tiles) < cost(best, tiles)) best = v;
    }
    return best;
}

/* Offsets of the pixels of a tile of which `left` are there; the last is repeated. */
static void point_to(const dn_conv_f32_job *job, int mr, int32_t left, int32_t in[], int32_t out[]) {
    for (int i = 0; i < mr; i++) {
        int32_t k = i < left ? i : left - 1;
        in[i] = k * (int32_t)job->in_step;
        out[i] = k * (int32_t)job->out_step;
    }
}

/* One position, panels [panel, panel + variant->nr). */
static void multiply(const dn_wino_f32_product *p, const dn_conv_f32_variant *variant, size_t position, int32_t panel) {
    const size_t lanes = 16 * (size_t)p->panels, channels = (size_t)p->channels, tiles = (size_t)p->tiles;
    int32_t in[MAX_MR], out[MAX_MR];
    dn_conv_f32_job job = {
        .weights = p->weights + (size_t)panel * p->panel_stride + position * p->position_stride,
        .panel_stride = p->panel_stride,
        .runs = p->runs,
        .run_count = p->run_count,
        .in_step = p->channels,
        .out_step = (ptrdiff_t)lanes,
        .in_offset = in,
        .out_offset = out,
        .last = 16,
        .epilogue = {.scale = ones, .bias = zeros, .lo = -INFINITY, .hi = INFINITY},
    };
    for (int32_t t = 0; t < p->tiles; t += variant->mr) {
        int32_t first = t + variant->mr <= p->tiles || variant->form == DN_FORM_POINTER ? t : p->tiles - variant->mr;
        job.input = p->v + (position * tiles + (size_t)first) * channels;
        job.output = p->m + (position * tiles + (size_t)first) * lanes + 16 * panel;
        if (variant->form == DN_FORM_POINTER) point_to(&job, variant->mr, p->tiles - first, in, out);
        variant->run(&job);
        if (p->between) p->between(p->context);
    }
}

void dn_wino_f32_multiply(const dn_conv_f32 *kernels, const dn_wino_f32_product *product) {
    for (int32_t panel = 0; panel < product->panels;) {
        const dn_conv_f32_variant *variant = choose(kernels, product->tiles, product->panels - panel);
        int32_t end = product->panels - (product->panels - panel) % variant->nr;
        for (size_t position = 0; position < DN_WINO_F32_POSITIONS; position++)
            for (int32_t p = panel; p < end; p += variant->nr) multiply(product, variant, position, p);
        panel = end;
    }
}
