/* conv_pass.c - covers a map with the tiles of the convolution kernels: which tile, in which order, with which taps.
 *
 * The choice of tiles changes no bit of the result: every output is one chain of fused multiply-adds in the order of its runs. */
#include "train/train.h"

enum { MAX_TILE = 32, CHUNK = 64, LINES = 16 };

/* Cycles of one step (one input channel) of a tile, in units of one panel-wide multiply-add: arithmetic, loads, or the latency of too few sums. */
static float tile_cost(int mr, int nr) {
    float work = (float)(mr * nr), loads = (float)(mr + 2 * nr) * 0.5f;
    float cost = work > loads ? work : loads;
    return (cost > 5 ? cost : 5) + 0.5f;
}

static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

/* A grid of output pixels and the taps they use. */
typedef struct region {
    int32_t y, y_end, y_step, x, x_end, x_step;
    const dn_row_taps *taps;
} region;

/* How to go over a map: all pixels alike, or the inside and the edges apart, so that padding costs no arithmetic; the corners belong to the top and bottom edge or, where
 * that fills tiles better, make one of their own. */
typedef enum layout { WHOLE, EDGES, EDGES_AND_CORNERS } layout;
enum { REGIONS = 6 };

static int list_regions(const dn_conv_pass *pass, layout how, region regions[REGIONS]) {
    const int32_t h = pass->rows, w = pass->columns, corner = how == EDGES_AND_CORNERS;
    if (how == WHOLE) {
        regions[0] = (region){0, h, 1, 0, w, 1, pass->taps};
        return 1;
    }
    regions[0] = (region){1, h - 1, 1, 1, w - 1, 1, pass->taps};
    regions[1] = (region){1, h - 1, 1, 0, 1, 1, pass->left};
    regions[2] = (region){1, h - 1, 1, w - 1, w, 1, pass->right};
    regions[3] = (region){0, 1, 1, corner, w - corner, 1, pass->taps};
    regions[4] = (region){h - 1, h, 1, corner, w - corner, 1, pass->taps};
    regions[5] = (region){0, h, h - 1, 0, w, w - 1, pass->taps};
    return 5 + corner;
}

/* Part of the rows of taps that output row y can use. */
static float row_share(const dn_conv_pass *pass, int32_t y) {
    int32_t used = 0;
    for (int32_t k = 0; k < pass->taps_count; k++) used += y * pass->row_step + pass->taps[k].offset >= 0 && y * pass->row_step + pass->taps[k].offset < pass->row_limit;
    return pass->taps_count ? (float)used / (float)pass->taps_count : 1;
}

/* What the map costs with tiles of mr pixels, in tiles with all taps. */
static float count_tiles(const dn_conv_pass *pass, layout how, int mr) {
    const int32_t h = pass->rows, w = pass->columns, corner = how == EDGES_AND_CORNERS;
    if (how == WHOLE) return (float)ceil_div(h * w, mr);
    float inside = (float)ceil_div((h - 2) * (w - 2), mr), side = (float)ceil_div(h - 2, mr), row = (float)ceil_div(w - 2 * corner, mr);
    return inside + side * (pass->left_share + pass->right_share) + row * (row_share(pass, 0) + row_share(pass, h - 1)) + (float)(corner * ceil_div(4, mr));
}

/* The best layout for a variant and what the map costs with it. */
static float best_layout(const dn_conv_pass *pass, const dn_conv_f32_variant *variant, layout *best) {
    *best = WHOLE;
    if (variant->form == DN_FORM_ROW) return (float)(pass->rows * ceil_div(pass->columns, variant->mr));
    float least = count_tiles(pass, WHOLE, variant->mr) * 0.98f; /* a split has more, shorter loops */
    if (pass->left && pass->rows > 2 && pass->columns > 2)
        for (layout how = EDGES; how <= EDGES_AND_CORNERS; how++) {
            float tiles = count_tiles(pass, how, variant->mr);
            if (tiles >= least) continue;
            least = tiles;
            *best = how;
        }
    return least * 1.04f; /* pointers cost a little more than rows */
}

/* The best variant for exactly nr panels at once, and its cost for the whole map. */
static const dn_conv_f32_variant *best_variant(const dn_conv_f32 *kernels, const dn_conv_pass *pass, int nr, float *cost) {
    const dn_conv_f32_variant *best = NULL;
    for (size_t i = 0; i < kernels->variant_count; i++) {
        const dn_conv_f32_variant *v = &kernels->variants[i];
        layout how;
        if (v->nr != nr || (v->form == DN_FORM_ROW && v->mr > pass->columns) || v->mr > MAX_TILE) continue;
        float c = best_layout(pass, v, &how) * tile_cost(v->mr, nr);
        if (best && c >= *cost) continue;
        best = v;
        *cost = c;
    }
    return best;
}

/* Which variants cover `panels` panels most cheaply: use[p] is the one to take when p panels are left. */
static void choose(const dn_conv_f32 *kernels, const dn_conv_pass *pass, int32_t panels, const dn_conv_f32_variant **use) {
    const dn_conv_f32_variant *variant[8] = {0};
    float cost[8] = {0}, total[CHUNK + 1] = {0};
    for (int nr = 1; nr < 8; nr++) variant[nr] = best_variant(kernels, pass, nr, &cost[nr]);
    for (int32_t p = 1; p <= panels; p++) {
        use[p] = NULL;
        for (int32_t nr = 1; nr < 8 && nr <= p; nr++) {
            if (!variant[nr]) continue;
            float c = total[p - nr] + cost[nr];
            if (use[p] && c >= total[p]) continue;
            use[p] = variant[nr];
            total[p] = c;
        }
    }
}

/* The runs of output rows y0 .. y1 together: those of taps that some of the rows can use. */
static void set_runs(const dn_conv_pass *pass, const dn_row_taps *taps, dn_conv_f32_job *job, int32_t y0, int32_t y1) {
    int32_t low = 0, high = pass->taps_count;
    while (low < high && y1 * pass->row_step + taps[low].offset < 0) low++;
    while (high > low && y0 * pass->row_step + taps[high - 1].offset >= pass->row_limit) high--;
    job->runs = pass->runs + taps[low].first;
    job->run_count = (size_t)(taps[high].first - taps[low].first);
}

void dn_fetch_ahead(dn_ahead *ahead) {
    if (!ahead || !ahead->count) return;
    const char *at = ahead->streams[ahead->count - 1].at, *end = ahead->streams[ahead->count - 1].end;
    for (int line = 0; line < LINES && at < end; line++, at += 64) __builtin_prefetch(at, 0, 2);
    ahead->streams[ahead->count - 1].at = at;
    if (at >= end) ahead->count--;
}

static void run_rows(const dn_conv_pass *pass, const dn_conv_f32_variant *variant, const dn_conv_f32_job *common, float *output) {
    dn_conv_f32_job here = *common, *job = &here;
    job->in_step = pass->in_step;
    job->out_step = pass->out_step;
    for (int32_t y = 0; y < pass->rows; y++) {
        set_runs(pass, pass->taps, job, y, y);
        for (int32_t x = 0; x < pass->columns; x += variant->mr) {
            int32_t first = x + variant->mr <= pass->columns ? x : pass->columns - variant->mr;
            job->input = pass->input + y * pass->in_row + first * pass->in_step;
            job->output = output + y * pass->out_row + first * pass->out_step;
            variant->run(job);
            dn_fetch_ahead(pass->ahead);
        }
    }
}

static void run_region(const dn_conv_pass *pass, const dn_conv_f32_variant *variant, const dn_conv_f32_job *common, const region *where) {
    dn_conv_f32_job job = *common;
    int32_t in[MAX_TILE], out[MAX_TILE], y = where->y, x = where->x;
    int32_t left = ceil_div(where->y_end - where->y, where->y_step) * ceil_div(where->x_end - where->x, where->x_step);
    job.in_offset = in;
    job.out_offset = out;
    while (left > 0) {
        int32_t first_row = y, last_row = y;
        for (int i = 0; i < variant->mr; i++) {
            if (i >= left) {
                in[i] = in[i - 1];
                out[i] = out[i - 1];
                continue;
            }
            in[i] = (int32_t)(y * pass->in_row + x * pass->in_step);
            out[i] = (int32_t)(y * pass->out_row + x * pass->out_step);
            last_row = y;
            x += where->x_step;
            if (x >= where->x_end) x = where->x, y += where->y_step;
        }
        left -= variant->mr;
        set_runs(pass, where->taps, &job, first_row, last_row);
        variant->run(&job);
        dn_fetch_ahead(pass->ahead);
    }
}

static void run_pointers(const dn_conv_pass *pass, const dn_conv_f32_variant *variant, dn_conv_f32_job *job, float *output) {
    region regions[REGIONS];
    layout how;
    (void)best_layout(pass, variant, &how);
    job->input = pass->input;
    job->output = output;
    for (int k = 0, count = list_regions(pass, how, regions); k < count; k++) run_region(pass, variant, job, &regions[k]);
}

void dn_conv_pass_run(const dn_conv_f32 *kernels, const dn_conv_pass *pass) {
    const dn_conv_f32_variant *use[CHUNK + 1];
    int32_t panels = ceil_div(pass->outputs, 16), planned = 0;
    if (pass->rows < 1 || pass->columns < 1) return;
    for (int32_t p = 0; p < panels;) {
        int32_t left = panels - p < CHUNK ? panels - p : CHUNK;
        if (left > planned) {
            choose(kernels, pass, left, use);
            planned = left;
        }
        const dn_conv_f32_variant *variant = use[left];
        int32_t beyond = pass->outputs - 16 * (p + variant->nr - 1);
        dn_conv_f32_job job = {
            .weights = pass->weights + (size_t)p * pass->panel_stride,
            .panel_stride = pass->panel_stride,
            .last = beyond < 16 ? beyond : 16,
            .epilogue = pass->epilogue,
        };
        job.epilogue.scale += 16 * p;
        job.epilogue.bias += 16 * p;
        if (variant->form == DN_FORM_ROW) run_rows(pass, variant, &job, pass->output + 16 * p);
        else run_pointers(pass, variant, &job, pass->output + 16 * p);
        p += variant->nr;
    }
}

static const dn_convgrad_f32_variant *best_grad(const dn_convgrad_f32 *kernels, int32_t channels, int32_t panels) {
    const dn_convgrad_f32_variant *best = NULL;
    float least = 0;
    for (size_t i = 0; i < kernels->variant_count; i++) {
        const dn_convgrad_f32_variant *v = &kernels->variants[i];
        if (v->nr > panels) continue;
        float c = tile_cost(v->mr, v->nr) * (float)ceil_div(channels, v->mr) / (float)v->nr;
        if (best && c >= least) continue;
        best = v;
        least = c;
    }
    return best;
}

void dn_grad_pass_run(const dn_convgrad_f32 *kernels, const dn_grad_pass *pass) {
    int32_t panels = ceil_div(pass->outputs, 16);
    if (pass->rows < 1 || pass->columns < 1 || pass->channels < 1) return;
    for (int32_t p = 0; p < panels;) {
        const dn_convgrad_f32_variant *variant = best_grad(kernels, pass->channels, panels - p);
        int32_t beyond = pass->outputs - 16 * (p + variant->nr - 1);
        dn_convgrad_f32_job job = {
            .dy = pass->dy + 16 * p,
            .panel_stride = pass->panel_stride,
            .x_row = pass->x_row,
            .x_step = pass->x_step,
            .dy_row = pass->dy_row,
            .dy_step = pass->dy_step,
            .rows = pass->rows,
            .columns = pass->columns,
            .last = beyond < 16 ? beyond : 16,
        };
        for (int32_t c = 0; c < pass->channels; c += variant->mr) {
            job.x = pass->x + c;
            job.dw = pass->dw + (size_t)p * pass->panel_stride + (size_t)c * 16;
            job.channels = pass->channels - c < variant->mr ? pass->channels - c : variant->mr;
            variant->run(&job);
        }
        p += variant->nr;
    }
}
