/* run_wino_f32.c - float convolutions of 3 x 3 and stride 1 by Winograd's method: which, in what blocks, and the tiles of a group; run_wino.c walks over the map. */
#include "plan/run_conv.h"

enum { SIDE = 2, LEAST_CHANNELS = 12, MANY_WEIGHTS = 32 * 1024, MANY_TILES = 96 };

bool dn_wino_f32_fits(const dn_node *node) {
    return node->kernel_h == 3 && node->kernel_w == 3 && node->stride_h == 1 && node->stride_w == 1 && node->dilation_h == 1 && node->dilation_w == 1 && node->height >= SIDE &&
           node->width >= SIDE;
}

/* Cycles of the direct sum against those of the products and, where transformed weights come from far, their bytes; of few channels nothing is left after the transforms. */
bool dn_wino_f32_pays(const dn_node *node, int32_t inputs, int32_t outputs) {
    const float pixels = (float)node->height * (float)node->width, k = (float)inputs * (float)outputs;
    const float tiles = (float)(dn_tiles_along(SIDE, node->height) * dn_tiles_along(SIDE, node->width));
    if (inputs < LEAST_CHANNELS || outputs < LEAST_CHANNELS) return false;
    float direct = 9 * pixels * k / 16, products = 1.15f * tiles * k, transforms = tiles * (3.0f * (float)inputs + 2.5f * (float)outputs), far = k > MANY_WEIGHTS ? k * 64 / 8 : 0;
    return (products > far ? products : far) + transforms < direct;
}

/* Channels of a group that are read, and the tiles and panels done together. */
typedef struct extent {
    int32_t channels, panels, tiles;
} extent;

static extent extent_of(const dn_plan *plan, const dn_plan_op *op, const dn_node *node, const dn_step *step) {
    int32_t channels = op->group_in ? op->group_in : step->in.pixel, outputs = step->groups > 1 ? op->group_out : step->out.channels, panels = (outputs + DN_PANEL - 1) / DN_PANEL;
    int32_t all = dn_tiles_along(SIDE, node->height) * dn_tiles_along(SIDE, node->width), block = dn_wino_f32_block(plan->kernels.product_f32, channels, outputs, MANY_TILES);
    return (extent){channels, panels, block < all ? block : all};
}

static size_t input_floats(const extent *e) { return (size_t)(DN_WINO_F32_POSITIONS * e->tiles) * (size_t)e->channels; }

size_t dn_wino_f32_scratch(const dn_plan *plan, const dn_step *step) {
    const dn_plan_op *op = &plan->ops[step->op];
    extent e = extent_of(plan, op, &plan->graph->nodes[op->node], step);
    size_t list = (size_t)step->parts * sizeof(dn_run);
    return dn_round_up((input_floats(&e) + (size_t)(DN_WINO_F32_POSITIONS * e.tiles) * (size_t)(e.panels * DN_PANEL)) * sizeof(float) + list, 64);
}

static dn_place tile_place(const dn_walk *w, int32_t tile, int32_t across) {
    return dn_walk_place(w, dn_tile_begin(SIDE, tile / across, w->node->height), dn_tile_begin(SIDE, tile % across, w->node->width));
}

/* A worker's scratch: transformed inputs, products, the list of runs. */
typedef struct room {
    float *v, *m;
    dn_run *runs;
} room;

static room room_of(uint8_t *scratch, const extent *e) {
    float *v = (float *)(void *)scratch, *m = v + input_floats(e);
    return (room){v, m, (dn_run *)(void *)(m + (size_t)(DN_WINO_F32_POSITIONS * e->tiles) * (size_t)(e->panels * DN_PANEL))};
}

/* How many of `left` tiles from number t on stand side by side, two pixels apart: at an odd width the last begins one pixel after the one before. */
static int32_t beside(const dn_walk *w, int32_t t, int32_t left, int32_t across) {
    int32_t column = t % across, whole = w->node->width / SIDE;
    if (column >= whole) return 1;
    return whole - column < left ? whole - column : left;
}

static void load(const dn_walk *w, const room *r, const extent *e, int32_t first, int32_t count, int32_t across, int32_t group) {
    const dn_map *in = &w->step->in;
    const float *input = (const float *)(const void *)(w->run->arena + in->offset) + dn_walk_in(w, group);
    for (int32_t t = 0, n; t < count; t += n) {
        n = beside(w, first + t, count - t, across);
        w->run->plan->kernels.wino_f32->input(input + tile_place(w, first + t, across).in, in->row, in->pixel, (size_t)e->channels, (size_t)n, r->v + (size_t)t * (size_t)e->channels,
                                              (size_t)count * (size_t)e->channels);
    }
}

static void store(const dn_walk *w, const float *m, int32_t first, int32_t count, int32_t across, int32_t group, int32_t panel, int32_t panels) {
    const dn_step *step = w->step;
    const size_t lanes = (size_t)(panels * DN_PANEL), channels = lanes - DN_PANEL + (size_t)dn_walk_last(w, group, panel, panels);
    const dn_epilogue epilogue = dn_walk_epilogue(w, group, panel, 0);
    float *output = (float *)(void *)(w->run->target + step->out.offset) + dn_walk_out(w, group, panel);
    const float *residual = step->has_second ? (const float *)(const void *)(w->run->arena + step->second.offset) + dn_walk_out(w, group, panel) : NULL;
    for (int32_t t = 0, n; t < count; t += n) {
        dn_place p = tile_place(w, first + t, across);
        n = beside(w, first + t, count - t, across);
        w->run->plan->kernels.wino_f32->output(m + (size_t)t * lanes, (size_t)count * lanes, lanes, channels, (size_t)n, output + p.out, step->out.row, step->out.pixel,
                                               residual ? residual + p.residual : NULL, step->second.row, step->second.pixel, &epilogue);
    }
}

void dn_run_group_wino_f32(const dn_walk *w, uint8_t *scratch, int32_t begin, int32_t end, int32_t group, int32_t panel, int32_t panels) {
    const dn_plan_op *op = w->op;
    const extent e = extent_of(w->run->plan, op, w->node, w->step);
    const room r = room_of(scratch, &e);
    const int32_t across = dn_tiles_along(SIDE, w->node->width);
    for (int32_t s = 0; s < w->step->parts; s++) r.runs[s] = (dn_run){w->runs[s].lane, w->runs[s].weight * DN_PANEL, w->runs[s].channels};
    dn_wino_f32_product product = {
        .v = r.v,
        .weights = (const float *)(const void *)(w->run->plan->blob + op->wino_offset) + (size_t)group * op->wino_group_stride + (size_t)panel * op->wino_panel_stride,
        .m = r.m,
        .channels = e.channels,
        .panels = panels,
        .panel_stride = op->wino_panel_stride,
        .position_stride = (size_t)op->wino_chunk * DN_PANEL,
        .runs = r.runs,
        .run_count = (size_t)w->step->parts,
    };
    for (int32_t first = begin * across; first < end * across; first += e.tiles) {
        int32_t count = product.tiles = end * across - first < e.tiles ? end * across - first : e.tiles;
        load(w, &r, &e, first, count, across, group);
        const float *m = dn_wino_f32_multiply(w->run->plan->kernels.product_f32, &product);
        store(w, m, first, count, across, group, panel, panels);
    }
}
