/* calibrate.c - statistics and scales of a point, layer by layer: measure a step's real output, write its tables, run it, go on with what it really produced. */
#include "plan/calibrate.h"

#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/pool.h"
#include "base/size.h"
#include "base/status.h"

/* ---- tasks over images ---- */

static void task_raw(void *context, size_t image, int worker) { dn_real_raw(context, image, worker); }

static void task_finish(void *context, size_t image, int worker) {
    (void)worker;
    dn_real_finish(context, image);
}

static void task_run(void *context, size_t image, int worker) {
    const dn_calibration *c = context;
    dn_run_context run = dn_calibration_context(c, image, worker);
    run.threads = 1;
    dn_run_step(&run, c->step);
}

/* Sums of x, or of (x - centre)^2, per lane of one image. */
static void task_sums(void *context, size_t image, int worker) {
    (void)worker;
    const dn_calibration *c = context;
    int32_t lanes = c->step->out.pixel;
    const float *x = c->real + image * c->real_stride;
    double *sums = c->sums + image * (size_t)lanes;
    memset(sums, 0, (size_t)lanes * sizeof *sums);
    for (int32_t p = 0; p < c->step->out.height * c->step->out.width; p++, x += lanes)
        for (int32_t lane = 0; lane < lanes; lane++) {
            double d = (double)x[lane] - (c->centre ? c->centre[lane] : 0);
            sums[lane] += c->centre ? d * d : d;
        }
}

static int32_t group_of(const dn_step *step, const dn_scalars *s, int32_t lane) {
    int32_t g = 0;
    while (g + 1 < step->groups && lane >= s[g + 1].begin) g++;
    return g;
}

/* Largest magnitude per group of one image; NaN if there is one. */
static void task_peaks(void *context, size_t image, int worker) {
    (void)worker;
    const dn_calibration *c = context;
    const dn_step *step = c->step;
    const float *x = c->real + image * c->real_stride;
    float *peaks = c->peaks + image * (size_t)step->groups;
    memset(peaks, 0, (size_t)step->groups * sizeof *peaks);
    for (int32_t p = 0; p < step->out.height * step->out.width; p++)
        for (int32_t lane = 0; lane < step->out.pixel; lane++, x++) {
            float *peak = &peaks[step->groups > 1 ? group_of(step, step->scalars, lane) : 0], v = fabsf(*x);
            if (!(v <= *peak) && *peak == *peak) *peak = v;
        }
}

/* Histogram of magnitudes; peaks[group] of image 0 holds the largest over all images by now. */
static void task_bins(void *context, size_t image, int worker) {
    const dn_calibration *c = context;
    const dn_step *step = c->step;
    const float *x = c->real + image * c->real_stride;
    for (int32_t p = 0; p < step->out.height * step->out.width; p++)
        for (int32_t lane = 0; lane < step->out.pixel; lane++, x++) {
            int32_t g = step->groups > 1 ? group_of(step, step->scalars, lane) : 0;
            if (c->channel[lane] < 0 || c->peaks[g] <= 0) continue;
            int32_t bin = (int32_t)(fabsf(*x) / c->peaks[g] * DN_BINS);
            c->bins[((size_t)worker * (size_t)step->groups + (size_t)g) * DN_BINS + (size_t)(bin < DN_BINS ? bin : DN_BINS - 1)]++;
        }
}

static dn_status over_images(dn_calibration *c, dn_task *task, dn_error *err) {
    dn_status status = dn_pool_run(c->threads, c->images, task, c, c->poll);
    return status == DN_OK ? DN_OK : dn_fail(err, status, "interrupted");
}

/* ---- statistics ---- */

static void reduce_sums(const dn_calibration *c, double *out) {
    int32_t lanes = c->step->out.pixel;
    double count = (double)c->images * c->step->out.height * c->step->out.width;
    for (int32_t lane = 0; lane < lanes; lane++) {
        out[lane] = 0;
        for (size_t i = 0; i < c->images; i++) out[lane] += c->sums[i * (size_t)lanes + (size_t)lane];
        out[lane] /= count;
    }
}

static dn_status measure_norm(dn_calibration *c, dn_error *err) {
    const dn_node *norm = &c->run.plan->graph->nodes[c->op->norm];
    int32_t lanes = c->step->out.pixel;
    double *mean = c->sums + c->images * (size_t)lanes, *variance = mean + lanes;
    c->centre = NULL;
    DN_TRY(over_images(c, task_sums, err));
    reduce_sums(c, mean);
    c->centre = mean;
    DN_TRY(over_images(c, task_sums, err));
    reduce_sums(c, variance);
    for (int32_t lane = 0; lane < lanes; lane++) {
        if (c->channel[lane] < 0) continue;
        size_t at = (size_t)norm->norm_offset + (size_t)c->channel[lane];
        if (!isfinite(mean[lane]) || !isfinite(variance[lane])) return dn_fail(err, DN_ENONFINITE, "%s: calibration images give channel %d mean %g", norm->name, c->channel[lane], mean[lane]);
        if (c->options->mean_shift) mean[lane] += (double)c->options->mean_shift[at];
        if (c->options->variance_ratio) variance[lane] *= (double)c->options->variance_ratio[at];
        if (c->options->variance_shift) variance[lane] += (double)c->options->variance_shift[at];
        c->observed[at] = (float)mean[lane];
        c->observed[(size_t)c->run.plan->graph->norm_channels + at] = (float)variance[lane];
        c->tables->mean[at] = c->options->kept_mean ? c->options->kept_mean[at] : (float)mean[lane];
        c->tables->variance[at] = c->options->kept_variance ? c->options->kept_variance[at] : (float)variance[lane];
    }
    return DN_OK;
}

/* ---- scales ---- */

/* Squared error of clipping magnitudes at `limit` and rounding them to steps of limit / levels; magnitudes at the centres of the bins. */
static double clip_error(const int64_t *bins, double peak, double limit, double levels) {
    double step = limit / levels, error = 0;
    for (int32_t i = 0; i < DN_BINS; i++) {
        if (!bins[i]) continue;
        double v = (i + 0.5) * peak / DN_BINS, q = rint(v / step);
        double d = v - (q > levels ? levels : q) * step;
        error += (double)bins[i] * d * d;
    }
    return error;
}

static double choose_limit(const dn_calibration *c, const int64_t *bins, double peak, double levels) {
    if (c->options->range == DN_RANGE_MINMAX || peak <= 0) return peak;
    if (c->options->range == DN_RANGE_PERCENTILE) {
        int64_t total = 0, seen = 0;
        for (int32_t i = 0; i < DN_BINS; i++) total += bins[i];
        for (int32_t i = 0; i < DN_BINS; i++) {
            seen += bins[i];
            if ((double)seen >= (double)total * c->options->percentile / 100) return (i + 1) * peak / DN_BINS;
        }
        return peak;
    }
    double best = peak, least = clip_error(bins, peak, peak, levels);
    for (int32_t k = 99; k >= 20; k--) {
        double limit = peak * k / 100, error = clip_error(bins, peak, limit, levels);
        if (error < least) least = error, best = limit;
    }
    return best;
}

/* Whether a dense int8 layer that cannot add up groups reads the tensor: then all its groups must share one scale. */
static bool needs_common_scale(const dn_calibration *c) {
    const dn_plan *plan = c->run.plan;
    for (int32_t k = 0; k < plan->op_count; k++) {
        const dn_plan_op *op = &plan->ops[k];
        if (op->kind != DN_DO_CONV || !op->int8 || op->partial || op->group_in) continue;
        if (plan->source[plan->graph->nodes[op->node].inputs[0]] == c->op->output) return true;
    }
    return false;
}

static dn_status measure_scale(dn_calibration *c, dn_error *err) {
    const dn_plan *plan = c->run.plan;
    const dn_node *node = &plan->graph->nodes[c->op->output];
    int32_t groups = c->step->groups;
    DN_TRY(over_images(c, task_peaks, err));
    for (int32_t g = 0; g < groups; g++)
        for (size_t i = 0; i < c->images; i++) {
            float peak = c->peaks[i * (size_t)groups + (size_t)g];
            if (!isfinite(peak)) return dn_fail(err, DN_ENONFINITE, "%s: calibration image %zu gives %g", node->name, i, (double)peak);
            if (peak > c->peaks[g]) c->peaks[g] = peak;
        }
    for (int32_t g = 1; g < groups && needs_common_scale(c); g++) c->peaks[0] = fmaxf(c->peaks[0], c->peaks[g]);
    for (int32_t g = 1; g < groups && needs_common_scale(c); g++) c->peaks[g] = c->peaks[0];
    memset(c->bins, 0, (size_t)c->threads * (size_t)groups * DN_BINS * sizeof *c->bins);
    DN_TRY(over_images(c, task_bins, err));
    double levels = node->is_signed ? 127 : 255;
    for (int32_t g = 0; g < plan->graph->groups; g++) {
        int32_t own = g < groups ? g : 0;
        int64_t *bins = c->bins + (size_t)own * DN_BINS;
        for (int32_t t = 1; t < c->threads && g < groups; t++)
            for (int32_t i = 0; i < DN_BINS; i++) bins[i] += c->bins[((size_t)t * (size_t)groups + (size_t)g) * DN_BINS + (size_t)i];
        double limit = choose_limit(c, bins, (double)c->peaks[own], levels);
        float scale = (float)(limit > 0 ? limit / levels : 1 / levels);
        c->tables->scale[(size_t)c->op->output * (size_t)plan->graph->groups + (size_t)g] = scale >= 0x1p-120f ? scale : 0x1p-120f;
    }
    if (groups > 1 && needs_common_scale(c))
        for (int32_t g = 1; g < plan->graph->groups; g++) {
            float *scale = c->tables->scale + (size_t)c->op->output * (size_t)plan->graph->groups;
            scale[g] = scale[0];
        }
    return DN_OK;
}

static dn_status keep_scale(const dn_calibration *c, dn_error *err) {
    const dn_graph *graph = c->run.plan->graph;
    const size_t groups = (size_t)graph->groups, at = (size_t)c->op->output * groups;
    for (size_t g = 0; g < groups; g++) {
        float scale = c->options->kept_scale[at + g];
        if (!(scale > 0) || isinf(scale)) return dn_fail(err, DN_EINVAL, "%s: the scale to keep is %g: it must be above 0 and finite", graph->nodes[c->op->output].name, (double)scale);
        c->tables->scale[at + g] = scale;
    }
    return DN_OK;
}

/* ---- the walk ---- */

static void list_lanes(dn_calibration *c) {
    const dn_node *node = &c->run.plan->graph->nodes[c->op->output];
    int32_t begin = 0, lane = 0;
    for (int32_t s = 0; s < node->segment_count; s++) {
        int32_t active = c->binding.subnet->active[node->segments[s].space], lanes = (int32_t)dn_round_up((size_t)active, 4);
        for (int32_t i = 0; i < lanes; i++) c->channel[lane + i] = i < active ? begin + i : -1;
        lane += lanes;
        begin += node->segments[s].full;
    }
}

static void write_tables(const dn_calibration *c) {
    dn_step_facts(&c->binding, c->number);
    dn_step_fill(&c->binding, c->number);
    dn_step_lists(c->run.point, c->step);
}

/* Replaces the tables of a convolution by those of its bare sum. */
static void set_raw_tables(const dn_calibration *c) {
    if (c->op->kind != DN_DO_CONV && c->op->kind != DN_DO_DEPTHWISE) return;
    dn_step_raw_tables(&c->binding, c->step);
    for (int32_t g = 0; g < c->step->groups; g++) c->step->scalars[g].lo = -INFINITY, c->step->scalars[g].hi = INFINITY;
}

static dn_status calibrate_step(dn_calibration *c, dn_error *err) {
    const dn_graph *graph = c->run.plan->graph;
    bool wants_norm = c->op->norm >= 0, own_scale = dn_op_writes_u8(c->op) && graph->nodes[c->op->output].scale_from == c->op->output && c->op->kind != DN_DO_DEQUANTIZE;
    if (own_scale && c->options->kept_scale) DN_TRY(keep_scale(c, err));
    own_scale = own_scale && !c->options->kept_scale;
    write_tables(c); /* lists and maps are right already, numbers not yet */
    list_lanes(c);
    if (wants_norm || own_scale) {
        if (wants_norm && c->op->partial) return dn_fail(err, DN_EUNSUPPORTED, "%s: batch norm after a dense layer over channel groups", graph->nodes[c->op->node].name);
        set_raw_tables(c);
        DN_TRY(over_images(c, task_raw, err));
        if (wants_norm) DN_TRY(measure_norm(c, err));
        if (own_scale) DN_TRY(over_images(c, task_finish, err));
        if (own_scale) DN_TRY(measure_scale(c, err));
        write_tables(c);
    }
    return over_images(c, task_run, err);
}

static dn_status take_memory(dn_calibration *c, dn_error *err) {
    const dn_point *point = c->binding.point;
    size_t lanes = 1, groups = 1, elements = 1;
    for (int32_t k = 0; k < point->step_count; k++) {
        const dn_map *out = &c->binding.steps.steps[k].out;
        lanes = dn_size_max(lanes, (size_t)out->pixel);
        groups = dn_size_max(groups, (size_t)point->records[k].groups);
        elements = dn_size_max(elements, (size_t)out->pixel * (size_t)out->height * (size_t)out->width);
    }
    c->real_stride = dn_round_up(elements, 16);
    c->lane_bytes = dn_arena_stride(point);
    DN_TRY(dn_alloc((void **)&c->arenas, c->images, c->lane_bytes, err));
    DN_TRY(dn_alloc((void **)&c->scratch, (size_t)c->threads, dn_size_max(point->scratch_bytes, 64), err));
    DN_TRY(dn_alloc((void **)&c->real, c->images, c->real_stride * sizeof(float), err));
    DN_TRY(dn_alloc((void **)&c->sums, c->images + 2, lanes * sizeof(double), err));
    DN_TRY(dn_alloc((void **)&c->bins, (size_t)c->threads * groups, DN_BINS * sizeof(int64_t), err));
    DN_TRY(dn_alloc((void **)&c->peaks, c->images, groups * sizeof(float), err));
    DN_TRY(DN_NEW(&c->channel, lanes, err));
    size_t channels = (size_t)point->plan->graph->norm_channels;
    DN_TRY(DN_NEW(&c->observed, 2 * channels, err));
    for (size_t i = 0; i < channels; i++) c->observed[channels + i] = 1; /* inactive channels */
    return DN_OK;
}

/* Until a table is measured it holds harmless numbers. */
static void reset_tables(const dn_calibration *c) {
    const dn_graph *graph = c->binding.plan->graph;
    for (int32_t i = 0; i < graph->norm_channels; i++) c->tables->mean[i] = 0, c->tables->variance[i] = 1;
    for (int32_t i = 0; c->tables->scale && i < graph->count * graph->groups; i++) c->tables->scale[i] = 1;
}

static dn_status calibrate(dn_calibration *c, const dn_plan *plan, const dn_subnet *subnet, dn_error *err) {
    DN_TRY(dn_binding_begin(&c->binding, plan, subnet, c->tables, err));
    reset_tables(c);
    DN_TRY(dn_binding_tables(&c->binding, false, err));
    DN_TRY(take_memory(c, err));
    c->run.point = c->binding.point;
    for (int32_t k = 0; k < c->binding.step_count; k++) {
        c->number = k;
        c->step = &c->binding.steps.steps[k];
        c->op = &plan->ops[c->step->op];
        if (c->op->kind != DN_DO_OUTPUT) DN_TRY(calibrate_step(c, err));
    }
    size_t channels = (size_t)plan->graph->norm_channels;
    for (size_t i = 0; i < channels; i++) c->tables->mean[i] = c->observed[i], c->tables->variance[i] = c->observed[channels + i];
    return DN_OK;
}

dn_status dn_calibrate(const dn_plan *plan, const dn_subnet *subnet, const void *images, dn_dtype dtype, size_t n, const dn_calibration_options *options, dn_tables *tables,
                       const dn_poll *poll, dn_error *err) {
    if (n < 1) return dn_fail(err, DN_EINVAL, "calibration needs at least one image");
    if (dtype == DN_U8 && !plan->input_table) return dn_fail(err, DN_EINVAL, "uint8 images need a network with Preprocess; pass preprocessed float32");
    if (options->threads < 1 || options->threads > 64) return dn_fail(err, DN_EINVAL, "threads is %d: it must be 1 to 64", options->threads);
    if (!(options->percentile > 0 && options->percentile <= 100)) return dn_fail(err, DN_EINVAL, "percentile is %g: it must be above 0 and at most 100", options->percentile);
    if (plan->has_int8 && !tables->scale) return dn_fail(err, DN_EINVAL, "a quantised network needs a table of scales");
    dn_fpenv saved = dn_fpenv_enter();
    const dn_node *input = &plan->graph->nodes[0];
    dn_calibration c = {.tables = tables, .images = n, .threads = options->threads, .options = options, .poll = poll,
                        .image_bytes = (size_t)input->height * (size_t)input->width * (size_t)input->channels * (dtype == DN_U8 ? 1 : sizeof(float)),
                        .run = {.plan = plan, .input = images, .dtype = dtype, .threads = 1}};
    dn_status status = calibrate(&c, plan, subnet, err);
    dn_binding_end(&c.binding);
    dn_free(c.arenas);
    dn_free(c.scratch);
    dn_free(c.real);
    dn_free(c.sums);
    dn_free(c.bins);
    dn_free(c.peaks);
    dn_free(c.channel);
    dn_free(c.observed);
    dn_fpenv_leave(saved);
    return status;
}
