/* run_wino.c - Winograd convolutions over a map: rows of tiles and panels among threads, in int8 and in float; in int8 also a group, tiles of 2 x 2 or 4 x 4 outputs in blocks. */
#include "base/pool.h"
#include "plan/run_conv.h"

/* Offsets of the tiles from number `first` on; the last of `end` is repeated up to a whole quad. Returns how many that makes. */
static int32_t fill_tiles(const dn_walk *w, int32_t first, int32_t end, int32_t block, int32_t in[], int32_t out[], int32_t residual[]) {
    int32_t side = w->step->winograd, across = dn_tiles_along(side, w->node->width), left = end - first < block ? end - first : block, count = (int32_t)dn_round_up((size_t)left, DN_WINO_QUAD);
    int32_t row = first / across, column = first % across;
    for (int32_t i = 0; i < left; i++) {
        dn_place p = dn_walk_place(w, dn_tile_begin(side, row, w->node->height), dn_tile_begin(side, column, w->node->width));
        in[i] = (int32_t)p.in, out[i] = (int32_t)p.out, residual[i] = (int32_t)p.residual;
        if (++column == across) column = 0, row++;
    }
    for (int32_t i = left; i < count; i++) in[i] = in[left - 1], out[i] = out[left - 1], residual[i] = residual[left - 1];
    return count;
}

/* The segments; where weights are stored transformed, cut where a chunk of them ends. */
static int32_t runs_of(const dn_walk *w, dn_run runs[], int32_t *lanes) {
    int32_t count = 0, chunk = w->op->wino_chunk;
    *lanes = 0;
    for (int32_t s = 0; s < w->step->parts; s++) {
        const dn_segment_run *r = &w->runs[s];
        *lanes += r->lanes;
        if (w->step->packed) {
            runs[count++] = (dn_run){r->lane, r->weight * DN_PANEL, r->lanes};
            continue;
        }
        for (int32_t at = 0, stop; at < r->lanes; at = stop) {
            stop = at + chunk - (r->weight + at) % chunk < r->lanes ? at + chunk - (r->weight + at) % chunk : r->lanes;
            runs[count++] = (dn_run){r->lane + at, (int32_t)dn_wino_place(w->op, r->weight + at), stop - at};
        }
    }
    return count;
}

static void set_weights(const dn_walk *w, dn_wino_s8_job *job, int32_t group, int32_t panel) {
    const dn_plan_op *op = w->op;
    const uint8_t *blob = w->run->plan->blob;
    if (w->step->packed) {
        job->packed = (const int8_t *)blob + op->weight_offset + (size_t)group * op->group_stride + (size_t)panel * op->panel_stride;
        job->panel_stride = op->panel_stride;
        job->position_stride = op->tap_stride;
    } else {
        job->weights = (const int16_t *)(const void *)(blob + op->wino_offset) + (size_t)group * op->wino_group_stride + (size_t)panel * op->wino_panel_stride;
        job->panel_stride = op->wino_panel_stride;
        job->position_stride = (size_t)(op->wino_chunk * DN_PANEL);
    }
}

static void run_group_s8(const dn_walk *w, uint8_t *scratch, int32_t begin, int32_t end, int32_t group, int32_t panel, int32_t count) {
    const dn_step *step = w->step;
    const size_t out_size = step->out.u8 ? 1 : sizeof(float);
    dn_run runs[DN_WINO_RUNS];
    int32_t in[DN_WINO_TILES], out[DN_WINO_TILES], residual[DN_WINO_TILES], lanes, side = step->winograd, across = dn_tiles_along(side, w->node->width);
    int32_t run_count = runs_of(w, runs, &lanes), block = dn_wino_block(side, lanes, step->packed);
    dn_wino_s8_job job = {.input = w->run->arena + step->in.offset + dn_walk_in(w, group),
                          .output = w->run->target + step->out.offset + (size_t)dn_walk_out(w, group, panel) * out_size,
                          .residual = step->has_second ? w->run->arena + step->second.offset + dn_walk_out(w, group, panel) : NULL,
                          .scratch = scratch, .runs = runs, .run_count = (size_t)run_count, .in_row = step->in.row, .in_step = step->in.pixel, .out_row = step->out.row, .out_step = step->out.pixel,
                          .residual_row = step->second.row, .residual_step = step->second.pixel, .in_offset = in, .out_offset = out, .residual_offset = residual,
                          .side = side, .lanes = lanes, .panels = count, .last = dn_walk_last(w, group, panel, count), .view_add = step->view_add,
                          .view_mask = step->view_mask, .epilogue = dn_walk_epilogue(w, group, panel, 0)};
    set_weights(w, &job, group, panel);
    for (int32_t tile = begin * across; tile < end * across; tile += block) {
        job.tiles = fill_tiles(w, tile, end * across, block, in, out, residual);
        w->run->plan->kernels.wino_s8->run(&job);
    }
}

/* Rows of tiles that threads may share; rows of outputs that are left go with the tiles before them, whose outputs theirs compute once more. */
static int32_t tile_rows(const dn_walk *w) { return w->node->height / w->step->winograd; }

static int32_t first_part(const dn_walk *w) { return w->first_group * w->panels; }

/* Rows of tiles [begin, end) of parts [first, last), a part being a panel of a group. */
static void run_range(const dn_walk *w, int32_t worker, int32_t begin, int32_t end, int32_t first, int32_t last) {
    uint8_t *scratch = w->run->scratch + (size_t)worker * w->run->point->scratch_bytes;
    bool bottom = end == tile_rows(w);
    int32_t tile_end = bottom ? dn_tiles_along(w->step->winograd, w->node->height) : end;
    for (int32_t part = first; part < last;) {
        int32_t group = part / w->panels, panel = part % w->panels, count = last - part < w->panels - panel ? last - part : w->panels - panel;
        (w->op->int8 ? run_group_s8 : dn_run_group_wino_f32)(w, scratch, begin, tile_end, group, panel, count);
        part += count;
    }
    if (w->run->target == w->run->arena && first == first_part(w)) dn_fill_halo(w->run->target, &w->step->out, begin * w->step->winograd, bottom ? w->node->height : end * w->step->winograd);
}

static void run_item(void *context, size_t item, int worker) {
    const dn_walk *w = context;
    int32_t i = (int32_t)item, n = w->items, begin = first_part(w), end = w->panels * w->step->groups, parts = end - begin, rows = tile_rows(w);
    if (w->by_rows) run_range(w, worker, rows * i / n, rows * (i + 1) / n, begin, end);
    else run_range(w, worker, 0, rows, begin + parts * i / n, begin + parts * (i + 1) / n);
}

void dn_run_wino(const dn_run_context *run, const dn_step *step) {
    dn_walk w = dn_walk_of(run, step);
    int32_t panels = w.panels * (step->groups - w.first_group);
    dn_walk_split(&w, step->packed && panels >= run->threads ? 1 : tile_rows(&w), panels); /* threads that shared tiles would transform the same weights */
    if (w.items == 1) run_item(&w, 0, 0);
    else (void)dn_pool_run(run->threads, (size_t)w.items, run_item, &w, NULL);
}
