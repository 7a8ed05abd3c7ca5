/* wino_f32.c - the products of Winograd's method in float, and how many tiles are done together. */
#include <stdbool.h>

#include "kernels/kernels.h"

/* Cycles of one channel of all tiles and one panel, in units of one panel-wide multiply-add: arithmetic, loads, or the latency of too few sums. */
static float cost(const dn_product_f32_variant *v, int32_t tiles) {
    float work = (float)(v->mr * v->nr), loads = (float)(v->mr + 2 * v->nr) * 0.5f, least = work > loads ? work : loads;
    return ((least > 5 ? least : 5) + 0.5f) * (float)((tiles + v->mr - 1) / v->mr) / (float)v->nr;
}

static const dn_product_f32_variant *choose(const dn_product_f32 *kernels, int32_t tiles, int32_t panels) {
    const dn_product_f32_variant *best = NULL;
    for (size_t i = 0; i < kernels->variant_count; i++) {
        const dn_product_f32_variant *v = &kernels->variants[i];
        if (v->nr <= panels && (!best || cost(v, tiles) < cost(best, tiles))) best = v;
    }
    return best;
}

/* The tile that does all panels of a row at once, so that the row may be overwritten; NULL if there is none. */
static const dn_product_f32_variant *whole_rows(const dn_product_f32 *kernels, int32_t channels, int32_t panels) {
    for (size_t i = 0; channels == 16 * panels && i < kernels->variant_count; i++)
        if (kernels->variants[i].nr == panels) return &kernels->variants[i];
    return NULL;
}

/* Panels from `panel` on. */
static void multiply(const dn_wino_f32_product *p, const dn_product_f32_variant *variant, float *m, size_t position, int32_t panel) {
    const size_t lanes = 16 * (size_t)p->panels, channels = (size_t)p->channels, first = position * (size_t)p->tiles;
    const dn_product_f32_job job = {
        .x = p->v + first * channels,
        .weights = p->weights + (size_t)panel * p->panel_stride + position * p->position_stride,
        .out = m + first * lanes + 16 * panel,
        .rows = p->tiles,
        .in_step = p->channels,
        .out_step = (ptrdiff_t)lanes,
        .panel_stride = p->panel_stride,
        .runs = p->runs,
        .run_count = p->run_count,
    };
    variant->run(&job);
    if (p->between) p->between(p->context);
}

float *dn_wino_f32_multiply(const dn_product_f32 *kernels, const dn_wino_f32_product *product) {
    const dn_product_f32_variant *all = whole_rows(kernels, product->channels, product->panels);
    float *m = all ? product->v : product->m;
    for (int32_t panel = 0, end; panel < product->panels; panel = end) {
        const dn_product_f32_variant *variant = all ? all : choose(kernels, product->tiles, product->panels - panel);
        end = product->panels - (product->panels - panel) % variant->nr;
        for (size_t position = 0; position < DN_WINO_F32_POSITIONS; position++)
            for (int32_t p = panel; p < end; p += variant->nr) multiply(product, variant, m, position, p);
    }
    return m;
}

/* As many tiles as have their `floats` per position in so many, in twelves; no fewer than `least`, and than `many` where weights do not fit a quarter of a usual L2. */
static int32_t block(int32_t inputs, int32_t outputs, int32_t floats, int32_t fit, int32_t least, int32_t many) {
    enum { HEAVY = 32 * 1024 };
    int32_t tiles = (int32_t)(fit / ((int64_t)DN_WINO_F32_POSITIONS * floats) / 12 * 12);
    if (tiles < least) tiles = least;
    return (int64_t)DN_WINO_F32_POSITIONS * inputs * outputs > HEAVY && tiles < many ? many : tiles;
}

/* Half of a usual L1: stores that miss it cost more than the transform they end. */
int32_t dn_wino_f32_block(const dn_product_f32 *kernels, int32_t inputs, int32_t outputs, int32_t many) {
    const int32_t panels = (outputs + 15) / 16;
    return block(inputs, outputs, inputs + (whole_rows(kernels, inputs, panels) ? 0 : 16 * panels), 6 * 1024, 12, many);
}

/* Half of a usual L2: shorter sums are dearer to load and store than what they would save. */
int32_t dn_wino_f32_grad_block(int32_t inputs, int32_t outputs, int32_t many) { return block(inputs, outputs, inputs + outputs, 32 * 1024, 24, many); }
