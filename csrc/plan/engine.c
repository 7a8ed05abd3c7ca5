/* engine.c - engines: arenas, one image through the steps, batches over threads. */
#include <pthread.h>
#include <string.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/fpenv.h"
#include "base/pool.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

struct dn_engine {
    const dn_plan *plan;
    pthread_mutex_t lock;
    dn_kept kept;
    dn_steps steps;  /* of the point that ran last */
    int64_t macs;    /* per image, of the last run */
    uint8_t *memory; /* lanes x (arenas + scratch), where lanes are the threads of a batch, and a lane's arenas the images that go through the steps together */
    size_t bytes;
};

/* A few bytes, mostly the lanes of one or two pixels: calls of memset would take longer than what they do. */
static void fill(uint8_t *to, int value, size_t size) {
    uint8_t block[16];
    memset(block, value, sizeof block);
    for (; size >= sizeof block; to += sizeof block, size -= sizeof block) memcpy(to, block, sizeof block);
    for (; size > 0; size--) *to++ = block[0];
}

/* The right halo of a row and the left one of the next are side by side. */
void dn_fill_halo(uint8_t *base, const dn_map *map, int32_t begin, int32_t end) {
    size_t element = (size_t)map->size;
    int value = map->u8 ? map->zero : 0;
    size_t left = (size_t)(map->left * map->pixel) * element, right = (size_t)(map->right * map->pixel) * element;
    fill(dn_map_at(base, map, begin, -map->left), value, left);
    for (int32_t y = begin; y < end && (left || right); y++) fill(dn_map_at(base, map, y, map->width), value, y + 1 < end ? right + left : right);
    size_t row = (size_t)map->row * element;
    if (begin == 0 && map->top) memset(dn_map_at(base, map, -map->top, -map->left), value, (size_t)map->top * row);
    if (end == map->height && map->bottom) memset(dn_map_at(base, map, map->height, -map->left), value, (size_t)map->bottom * row);
}

void dn_run_step(const dn_run_context *run, const dn_step *step) {
    dn_op_kind kind = run->plan->ops[step->op].kind;
    if (step->winograd) dn_run_wino(run, step);
    else if (run->plan->ops[step->op].planes) dn_run_linear(run, step);
    else if (kind == DN_DO_CONV) dn_run_conv(run, step);
    else if (kind == DN_DO_DEPTHWISE) dn_run_depthwise(run, step);
    else dn_run_pixels(run, step);
}

dn_status dn_engine_new(dn_engine **out, const dn_plan *plan, dn_error *err) {
    *out = NULL;
    dn_engine *engine;
    DN_TRY(DN_NEW(&engine, 1, err));
    engine->plan = plan;
    dn_status status = dn_steps_new(&engine->steps, plan, err);
    if (status == DN_OK && pthread_mutex_init(&engine->lock, NULL)) status = dn_fail(err, DN_ENOMEM, "no mutex for an engine");
    if (status == DN_OK) {
        *out = engine;
        return DN_OK;
    }
    dn_steps_free(&engine->steps);
    dn_free(engine);
    return status;
}

void dn_engine_free(dn_engine *engine) {
    if (!engine) return;
    pthread_mutex_destroy(&engine->lock);
    dn_kept_free(&engine->kept);
    dn_steps_free(&engine->steps);
    dn_free(engine->memory);
    dn_free(engine);
}

size_t dn_engine_arena_bytes(const dn_engine *engine) { return engine->bytes + engine->steps.bytes; }

size_t dn_engine_kept_bytes(const dn_engine *engine) { return dn_kept_bytes(&engine->kept); }

int64_t dn_engine_macs(const dn_engine *engine) { return engine->macs; }

enum { TOGETHER = 4, NEAR_BYTES = 1 << 19 }; /* images whose arenas fit near the core share what a step fetches: weights above all */

static size_t together(const dn_point *point, size_t images) {
    size_t most = NEAR_BYTES / dn_arena_stride(point);
    if (most > TOGETHER) most = TOGETHER;
    if (most > images) most = images;
    return most ? most : 1;
}
static size_t lane_bytes(const dn_point *point, int32_t threads, size_t images) { return images * dn_arena_stride(point) + (size_t)threads * point->scratch_bytes; }

static dn_status reserve(dn_engine *engine, size_t bytes, dn_error *err) {
    if (bytes <= engine->bytes) return DN_OK;
    uint8_t *memory;
    DN_TRY(DN_NEW(&memory, bytes, err));
    dn_free(engine->memory);
    engine->memory = memory;
    engine->bytes = bytes;
    return DN_OK;
}

dn_status dn_engine_reserve(dn_engine *engine, const dn_point *point, dn_error *err) {
    pthread_mutex_lock(&engine->lock);
    dn_status status = reserve(engine, lane_bytes(point, engine->plan->threads, 1), err);
    pthread_mutex_unlock(&engine->lock);
    return status;
}

/* ---- running ---- */

typedef struct batch {
    dn_run_context run; /* of image 0 in lane 0 */
    size_t images, image_bytes, outputs, lane, group; /* group: images that go through the steps together */
    int64_t *profile_ns;
} batch;

/* What a step multiplies in this run: of grouped layers, and of the one that adds them up, only the groups that are not done. */
static int64_t macs_of(const dn_run_context *run, const dn_step *step) {
    const dn_plan_op *op = &run->plan->ops[step->op];
    int32_t groups = run->point->groups;
    return op->grouped || op->partial ? step->macs / groups * (groups - run->done) : step->macs;
}

static size_t groups_of(const batch *b) { return (b->images + b->group - 1) / b->group; }

/* Steps [begin, end) of image i of the group that starts at image `first`. */
static void run_steps(const batch *b, size_t first, size_t i, int lane, int32_t begin, int32_t end) {
    const size_t stride = dn_arena_stride(b->run.point);
    dn_run_context run = b->run;
    run.arena = run.target = b->run.arena + (size_t)lane * b->lane + i * stride;
    run.scratch = b->run.arena + (size_t)lane * b->lane + b->group * stride;
    run.input = (const uint8_t *)b->run.input + (first + i) * b->image_bytes;
    run.output = b->run.output + (first + i) * b->outputs;
    if (run.done) run.kept = b->run.kept + (first + i) * b->outputs;
    for (int32_t k = begin; k < end; k++) {
        int64_t start = b->profile_ns ? dn_clock_ns() : 0;
        dn_run_step(&run, &run.steps[k]);
        if (b->profile_ns) b->profile_ns[k] += dn_clock_ns() - start;
    }
}

/* Steps whose weights are more than the maps they work on run for one image of a group after the other, and fetch the weights once. Where maps are more, an image goes through
 * all steps up to the next of those, and its maps stay near. */
static void run_group(const batch *b, size_t number, int lane) {
    const dn_step *steps = b->run.steps;
    const size_t first = number * b->group, count = b->images - first < b->group ? b->images - first : b->group;
    for (int32_t begin = 0, end; begin < b->run.point->step_count; begin = end) {
        end = begin + 1;
        while (!steps[begin].heavy && end < b->run.point->step_count && !steps[end].heavy) end++;
        for (size_t i = 0; i < count; i++) run_steps(b, first, i, lane, begin, end);
    }
}

static void run_batch_item(void *context, size_t item, int worker) { run_group(context, item, worker); }

static dn_status check_run(const dn_engine *engine, const dn_point *point, dn_dtype dtype, int32_t threads, dn_error *err) {
    if (point->plan != engine->plan) return dn_fail(err, DN_EINVAL, "the point belongs to another plan");
    if (dtype == DN_U8 && !engine->plan->input_table) return dn_fail(err, DN_EINVAL, "uint8 input needs a network with Preprocess; pass preprocessed float32");
    if (threads < 1 || threads > engine->plan->threads) return dn_fail(err, DN_EINVAL, "threads is %d: the engine was compiled for 1 to %d", threads, engine->plan->threads);
    return DN_OK;
}

static void describe_batch(batch *b, const dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, float *output, int32_t threads) {
    const dn_graph *graph = engine->plan->graph;
    const dn_node *in = &graph->nodes[0], *out = &graph->nodes[graph->output];
    *b = (batch){.run = {.plan = engine->plan, .point = point, .steps = engine->steps.steps, .input = input, .dtype = dtype, .output = output, .threads = threads},
                 .image_bytes = (size_t)in->height * (size_t)in->width * (size_t)in->channels * (dtype == DN_U8 ? 1 : sizeof(float)),
                 .outputs = (size_t)out->height * (size_t)out->width * (size_t)out->channels};
}

/* Few images: each on all threads. Many: one image per thread, each with an arena of its own, so that nothing waits between layers. */
static dn_status run_batch(dn_engine *engine, batch *b, size_t n, const dn_poll *poll, dn_error *err) {
    int32_t threads = b->run.threads;
    bool spread = threads > 1 && n >= 2 * (size_t)threads && !b->profile_ns;
    b->images = n;
    b->group = together(b->run.point, spread ? n / (size_t)threads : n);
    b->lane = lane_bytes(b->run.point, engine->plan->threads, b->group);
    DN_TRY(reserve(engine, spread ? b->lane * (size_t)threads : b->lane, err));
    b->run.arena = engine->memory;
    if (spread) {
        b->run.threads = 1;
        dn_status status = dn_pool_run(threads, groups_of(b), run_batch_item, b, poll);
        return status == DN_OK ? DN_OK : dn_fail(err, status, "interrupted");
    }
    int64_t next_poll = dn_clock_ns() + 5000000;
    for (size_t i = 0; i < groups_of(b); i++) {
        run_group(b, i, 0);
        if (!poll || i + 1 == groups_of(b) || dn_clock_ns() < next_poll) continue;
        if (poll->ask(poll->context)) return dn_fail(err, DN_EINTERRUPTED, "interrupted after %zu of %zu images", (i + 1) * b->group, n);
        next_poll = dn_clock_ns() + 5000000;
    }
    return DN_OK;
}

static void count_macs(dn_engine *engine, const dn_run_context *run) {
    engine->macs = 0;
    for (int32_t k = 0; k < run->point->step_count; k++) engine->macs += macs_of(run, &run->steps[k]);
}

/* A whole run, which is kept where it can be extended. */
static dn_status run_whole(dn_engine *engine, batch *b, const dn_images *images, const dn_poll *poll, dn_error *err) {
    const dn_point *point = b->run.point;
    size_t output_bytes = images->n * b->outputs * sizeof(float);
    bool keeps = engine->plan->mixes < 0;
    if (keeps) DN_TRY(dn_kept_reserve(&engine->kept, point, images->bytes, output_bytes, err));
    DN_TRY(run_batch(engine, b, images->n, poll, err));
    if (keeps) dn_kept_store(&engine->kept, point, images, b->run.output, output_bytes);
    count_macs(engine, &b->run);
    return DN_OK;
}

/* What is kept stays until the run has succeeded. */
static dn_status run_added(dn_engine *engine, batch *b, const dn_images *images, const dn_poll *poll, dn_error *err) {
    DN_TRY(dn_kept_check(&engine->kept, b->run.point, images, err));
    b->run.done = engine->kept.point->groups;
    b->run.kept = engine->kept.output;
    DN_TRY(run_batch(engine, b, images->n, poll, err));
    dn_kept_store(&engine->kept, b->run.point, &engine->kept.images, b->run.output, images->n * b->outputs * sizeof(float));
    count_macs(engine, &b->run);
    return DN_OK;
}

typedef dn_status run_kind(dn_engine *engine, batch *b, const dn_images *images, const dn_poll *poll, dn_error *err);

static dn_status run(run_kind *kind, dn_engine *engine, batch *b, size_t n, const dn_poll *poll, dn_error *err) {
    const dn_images images = {.data = b->run.input, .dtype = b->run.dtype, .n = n, .bytes = n * b->image_bytes};
    dn_fpenv saved = dn_fpenv_enter();
    pthread_mutex_lock(&engine->lock);
    dn_steps_write(&engine->steps, b->run.point);
    dn_status status = kind(engine, b, &images, poll, err);
    pthread_mutex_unlock(&engine->lock);
    dn_fpenv_leave(saved);
    return status;
}

dn_status dn_engine_run(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, float *output, int32_t threads, int64_t *profile_ns, const dn_poll *poll,
                        dn_error *err) {
    DN_TRY(check_run(engine, point, dtype, threads, err));
    batch b;
    describe_batch(&b, engine, point, input, dtype, output, threads);
    b.profile_ns = profile_ns;
    return run(run_whole, engine, &b, n, poll, err);
}

dn_status dn_engine_extend(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, float *output, int32_t threads, const dn_poll *poll, dn_error *err) {
    DN_TRY(check_run(engine, point, dtype, threads, err));
    batch b;
    describe_batch(&b, engine, point, input, dtype, output, threads);
    return run(run_added, engine, &b, n, poll, err);
}

/* ---- looking inside ---- */

/* The step that computes the tensor a node's value is read from, -1 if fusion left none. */
static int32_t step_of(const dn_point *point, int32_t node) {
    int32_t tensor = point->plan->source[node];
    for (int32_t k = 0; k < point->step_count; k++) {
        const dn_plan_op *op = &point->plan->ops[point->records[k].op];
        if (op->output == tensor && op->kind != DN_DO_OUTPUT) return k;
    }
    return -1;
}

/* Channels stand together: concatenations of parts that are not multiples of 4 are refused before. */
static void copy_map(const dn_run_context *run, const dn_step *step, float *output) {
    const dn_scalars *s = step->scalars;
    for (int32_t y = 0; y < step->out.height; y++)
        for (int32_t x = 0; x < step->out.width; x++) {
            const uint8_t *pixel = dn_map_at(run->arena, &step->out, y, x);
            for (int32_t c = 0, g = 0; c < step->out.channels; c++) {
                while (g + 1 < step->groups && c >= s[g + 1].begin) g++;
                *output++ = step->out.u8 ? ((float)pixel[c] - s[g].out_zero) * s[g].out_real : dn_map_float(&step->out, pixel, c);
            }
        }
}

static dn_status find_step(const dn_point *point, int32_t node, int32_t *number, dn_error *err) {
    const dn_graph *graph = point->plan->graph;
    if (node < 0 || node >= graph->count) return dn_fail(err, DN_EINVAL, "there is no node %d", node);
    *number = step_of(point, node);
    if (*number < 0) return dn_fail(err, DN_EINVAL, "%s has no values of its own: it is computed together with the node after it, or dropped", graph->nodes[node].name);
    if (!point->records[*number].gaps) return DN_OK;
    return dn_fail(err, DN_EUNSUPPORTED, "%s is a concatenation of odd parts", graph->nodes[node].name);
}

dn_status dn_point_shape(const dn_point *point, int32_t node, int32_t shape[3], dn_error *err) {
    int32_t number;
    DN_TRY(find_step(point, node, &number, err));
    const dn_map map = dn_record_map(point->plan, &point->records[number]);
    shape[0] = map.height;
    shape[1] = map.width;
    shape[2] = map.channels;
    return DN_OK;
}

dn_status dn_engine_activation(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, int32_t node, float *output, dn_error *err) {
    int32_t shape[3], last;
    DN_TRY(check_run(engine, point, dtype, 1, err));
    DN_TRY(find_step(point, node, &last, err));
    DN_TRY(dn_point_shape(point, node, shape, err));
    size_t values = (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2];
    dn_fpenv saved = dn_fpenv_enter();
    batch b;
    describe_batch(&b, engine, point, input, dtype, NULL, 1);
    pthread_mutex_lock(&engine->lock);
    dn_steps_write(&engine->steps, point);
    dn_status status = reserve(engine, lane_bytes(point, engine->plan->threads, 1), err);
    for (size_t i = 0; status == DN_OK && i < n; i++) {
        dn_run_context run = b.run;
        run.arena = run.target = engine->memory;
        run.scratch = run.arena + dn_arena_stride(point);
        run.input = (const uint8_t *)input + i * b.image_bytes;
        for (int32_t k = 0; k <= last; k++) dn_run_step(&run, &run.steps[k]);
        copy_map(&run, &run.steps[last], output + i * values);
    }
    pthread_mutex_unlock(&engine->lock);
    dn_fpenv_leave(saved);
    return status;
}
