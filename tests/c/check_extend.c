/* check_extend.c - runs extended by channel groups: the bits of whole runs, nothing of the first groups written, every refusal leaves the last run. Arguments: seed, rounds. */
#include "net.h"

#include "base/alloc.h"
#include "plan/plan.h"

enum { IMAGES = 7, THREADS = 3, MAX_GROUPS = 4, POISON = 0xa5 };

/* ---- networks: between them every operation that keeps groups apart ---- */

static int32_t gated(int32_t a, int32_t groups) {
    const int32_t c = N.spec[a].channels;
    int32_t gate = op1("relu", conv(op1("global_avg_pool", a), c, 1, 1, groups, 1));
    return op2("mul", a, op1(pick(0, 1) ? "sigmoid" : "hardsigmoid", conv(gate, c, 1, 1, groups, 1)));
}

static int32_t shortcut(int32_t a, int32_t from, int32_t to, int32_t groups, int32_t stride) {
    dn_node_spec *s = node("shortcut", a, -1);
    s->stride[0] = s->stride[1] = stride, s->channels = to, s->map = N.map[N.count - 1];
    for (int32_t c = 0; c < to; c++) {
        int32_t group = c / (to / groups), within = c % (to / groups), width = from / groups;
        N.map[N.count - 1][c] = within < width ? group * width + within : -1;
    }
    return N.count - 1;
}

/* w: channels per group. */
static void residual_net(int32_t groups, int32_t w) {
    begin("residual");
    int32_t c = groups * w, a = block(0, c, 3, 1), b = norm(conv(op1("relu", norm(conv(a, c, 3, 1, groups, 1))), c, 3, 1, groups, 1));
    a = op1("relu", op2("add", b, a));
    b = norm(conv(op1("relu", norm(conv(a, 2 * c, 3, 2, groups, 1))), 2 * c, 3, 1, groups, 1));
    a = op1("relu", op2("add", b, shortcut(a, c, 2 * c, groups, 2)));
    head(op1("global_avg_pool", a));
}

static void mobile_net(int32_t groups, int32_t w) {
    begin("mobile");
    int32_t c = groups * w, a = op1("hardswish", norm(conv(0, c, 3, pick(1, 2), 1, 1)));
    a = op1("hardswish", norm(conv(a, c, pick(0, 1) ? 3 : 5, 1, c, 1)));
    N.spec[a].channels = c;
    a = gated(a, groups);
    a = norm(conv(a, c, 1, 1, groups, 1));
    a = op2("add", op1("relu6", norm(conv(a, c, 3, 1, c, 2))), a);
    head(pool("avg_pool", a, 2, 1, 0)); /* signed: the head's groups have compensations */
}

static void branch_net(int32_t groups, int32_t w) {
    begin("branches");
    int32_t c = groups * w, a = valued("leaky_relu", norm(conv(0, c, 3, 1, 1, 2)), 0.1f);
    dn_node_spec *s = node("pad", a, -1);
    for (int i = 0; i < 4; i++) s->pad[i] = i;
    a = pool("max_pool", N.count - 1, 3, 2, 1);
    a = op1("relu", op1("batchnorm", conv(a, c, 5, 1, groups, 1)));
    N.spec[a - 1].value = 1e-3f;
    s = node("adaptive_avg_pool", op2("add", a, valued("leaky_relu", a, 0.3f)), -1);
    s->height = s->width = 2;
    head(N.count - 1);
}

/* The first layers keep all channels at every point: they are computed again. */
static void shared_net(int32_t groups, int32_t w) {
    begin("shared");
    int32_t a = block(0, 8, 3, 1);
    N.spec[a - 2].fixed = 1;
    int32_t c = groups * w;
    a = op1("relu", norm(conv(a, c, 3, 1, 1, 1)));
    head(pool("max_pool", op1("relu", norm(conv(a, 2 * c, 3, 1, groups, 1))), 2, 2, 0));
}

typedef void network(int32_t groups, int32_t w);

/* ---- points ---- */

static dn_subnet subnet_of(int32_t groups, int8_t bits) {
    for (int32_t i = 0; i < dn_graph_spaces(N.graph); i++) {
        dn_space_info space;
        dn_graph_space(N.graph, i, &space);
        N.active[i] = space.elastic ? space.full / dn_graph_groups(N.graph) * groups : space.full;
    }
    memset(N.bits, bits, sizeof N.bits);
    return (dn_subnet){.active = N.active, .bits = N.bits};
}

/* Points of 1 to all groups with the tables of the last, and images. */
typedef struct setup {
    dn_plan *plan;
    dn_point *points[MAX_GROUPS + 1];
    float mean[1024], variance[1024], scale[MAX_NODES * MAX_GROUPS];
    float *images;
    size_t outputs;
} setup;

static dn_point *point_of(setup *s, int32_t groups, int8_t bits) {
    dn_point *point;
    dn_error err = {0};
    dn_subnet subnet = subnet_of(groups, bits);
    dn_status status = dn_point_new(&point, s->plan, &subnet, &(dn_tables){.mean = s->mean, .variance = s->variance, .scale = s->scale}, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    return point;
}

static int begin_setup(setup *s, dn_isa isa, int32_t groups, int8_t bits) {
    const dn_plan_options options = {.threads = THREADS, .isa = isa, .precision = 32, .least_bits = 2};
    const dn_calibration_options how = {.range = DN_RANGE_MINMAX, .percentile = 100, .threads = 1};
    dn_error err = {0};
    memset(s, 0, sizeof *s);
    s->images = floats((size_t)(IMAGES * N.height * N.width * N.channels), 0, 2);
    s->outputs = OUTPUTS;
    CHECK(dn_graph_norm_channels(N.graph) <= 1024, "%s has too many channels for this test", N.name);
    dn_status status = dn_plan_new(&s->plan, N.graph, N.params, N.input_table, &options, &err);
    dn_tables tables = {.mean = s->mean, .variance = s->variance, .scale = s->scale};
    dn_subnet whole = subnet_of(groups, bits);
    if (status == DN_OK) status = dn_calibrate(s->plan, &whole, s->images, DN_F32, IMAGES, &how, &tables, NULL, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    for (int32_t g = 1; status == DN_OK && g <= groups; g++) s->points[g] = point_of(s, g, bits);
    return status == DN_OK && s->points[groups];
}

static void end_setup(setup *s) {
    for (int g = 0; g <= MAX_GROUPS; g++) dn_point_free(s->points[g]);
    dn_plan_free(s->plan);
    free(s->images);
}

/* ---- the same bits ---- */

static void check_bits(const setup *s, int32_t groups, int32_t threads, size_t n) {
    dn_engine *engine = NULL, *whole = NULL;
    float got[IMAGES * OUTPUTS], want[IMAGES * OUTPUTS];
    dn_error err = {0};
    CHECK(dn_engine_new(&engine, s->plan, &err) == DN_OK && dn_engine_new(&whole, s->plan, &err) == DN_OK, "%s", err.message);
    for (int32_t from = 1; from < groups; from++)
        for (int32_t to = from + 1; to <= groups; to++) {
            dn_status status = dn_engine_run(whole, s->points[to], s->images, DN_F32, n, want, threads, NULL, NULL, &err);
            int64_t all = dn_engine_macs(whole);
            if (status == DN_OK) status = dn_engine_run(engine, s->points[from], s->images, DN_F32, n, got, threads, NULL, NULL, &err);
            if (status == DN_OK) status = dn_engine_extend(engine, s->points[to], s->images, DN_F32, n, got, threads, NULL, &err);
            CHECK(status == DN_OK, "%s: %s", N.name, err.message);
            CHECK(memcmp(got, want, n * OUTPUTS * sizeof(float)) == 0, "%s: %d to %d of %d groups, %d threads, %zu images", N.name, from, to, groups, threads, n);
            CHECK(dn_engine_macs(engine) < all, "%s computes %lld of %lld", N.name, (long long)dn_engine_macs(engine), (long long)all);
        }
    dn_engine_free(engine);
    dn_engine_free(whole);
}

/* ---- what the steps write ---- */

/* Lanes [0, first) of a step's output, pixel by pixel: filled with poison, or counted where they are not. */
static int64_t spoil(uint8_t *arena, const dn_step *step, int32_t first, int only_count) {
    int64_t changed = 0;
    for (int32_t y = 0; y < step->out.height; y++)
        for (int32_t x = 0; x < step->out.width; x++) {
            uint8_t *pixel = dn_map_at(arena, &step->out, y, x);
            for (int32_t i = 0; i < first * step->out.size; i++) {
                if (!only_count) pixel[i] = POISON;
                changed += pixel[i] != POISON;
            }
        }
    return changed;
}

/* Steps in an arena of their own whose first groups hold nonsense from beginning to end: they neither write nor need them. */
static void check_writes(const setup *s, int32_t from, int32_t to) {
    dn_engine *engine = NULL;
    dn_steps steps = {0};
    float kept[OUTPUTS], got[OUTPUTS], want[OUTPUTS];
    dn_error err = {0};
    const dn_point *point = s->points[to];
    guarded arena = guard_alloc(dn_round_up(point->arena_bytes + 64, 64), POISON), scratch = guard_alloc(THREADS * dn_round_up(point->scratch_bytes, 64) + 64, POISON);
    dn_status status = dn_engine_new(&engine, s->plan, &err);
    if (status == DN_OK) status = dn_engine_run(engine, s->points[from], s->images, DN_F32, 1, kept, 1, NULL, NULL, &err);
    if (status == DN_OK) status = dn_engine_run(engine, point, s->images, DN_F32, 1, want, 1, NULL, NULL, &err);
    if (status == DN_OK) status = dn_steps_new(&steps, s->plan, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    dn_steps_write(&steps, point);
    dn_run_context run = {.plan = s->plan, .point = point, .steps = steps.steps, .arena = arena.data, .target = arena.data, .scratch = scratch.data, .input = s->images, .dtype = DN_F32, .output = got,
                          .threads = pick(1, THREADS), .done = from, .kept = kept};
    int grouped = 0;
    for (int32_t k = 0; k < point->step_count; k++) {
        const dn_step *step = &steps.steps[k];
        const dn_plan_op *op = &s->plan->ops[step->op];
        int32_t first = op->grouped ? step->out.channels / to * from : 0;
        (void)spoil(arena.data, step, first, 0);
        dn_run_step(&run, step);
        int64_t changed = spoil(arena.data, step, first, 1);
        CHECK(changed == 0, "%s: step %d (%s) writes %lld bytes of groups that are done", N.name, k, N.spec[op->node].op, (long long)changed);
        grouped += op->grouped;
    }
    CHECK(grouped > 2, "%s has %d grouped steps", N.name, grouped);
    CHECK(memcmp(got, want, sizeof got) == 0, "%s: %d to %d groups over nonsense", N.name, from, to);
    dn_engine_free(engine);
    dn_steps_free(&steps);
    guard_free(arena);
    guard_free(scratch);
}

/* ---- refusals ---- */

static void refused(dn_engine *engine, const dn_point *point, const void *images, dn_dtype dtype, size_t n, dn_status want, const char *text) {
    float out[IMAGES * OUTPUTS];
    dn_error err = {0};
    dn_status status = dn_engine_extend(engine, point, images, dtype, n, out, 1, NULL, &err);
    CHECK(status == want && strstr(err.message, text), "%s: status %d, not %d: %s", N.name, status, want, err.message);
}

static void check_refusals(setup *s, int32_t groups, int8_t bits, int quantised) {
    dn_engine *engine = NULL;
    float out[2 * OUTPUTS], want[2 * OUTPUTS], *other = floats((size_t)(2 * N.height * N.width * N.channels), 0, 2);
    uint8_t *bytes = calloc((size_t)(2 * N.height * N.width * N.channels), 1);
    dn_error err = {0};
    CHECK(dn_engine_new(&engine, s->plan, &err) == DN_OK, "%s", err.message);
    refused(engine, s->points[2], s->images, DN_F32, 2, DN_EINVAL, "nothing has been run");
    dn_point *brief = point_of(s, 1, bits), *others = NULL, *fewer = NULL;
    s->variance[0] += 0.5f;
    others = point_of(s, 2, bits);
    s->variance[0] -= 0.5f;
    if (quantised) fewer = point_of(s, 2, bits == 8 ? 4 : 8);
    CHECK(dn_engine_run(engine, s->points[groups], s->images, DN_F32, 2, want, 1, NULL, NULL, &err) == DN_OK, "%s", err.message);
    refused(engine, s->points[groups], s->images, DN_F32, 2, DN_EPOINT, "none to add");
    refused(engine, s->points[1], s->images, DN_F32, 2, DN_EPOINT, "only adds");
    CHECK(dn_engine_kept_bytes(engine) == 0, "a run of all groups keeps %zu bytes", dn_engine_kept_bytes(engine));
    CHECK(dn_engine_run(engine, brief, s->images, DN_F32, 2, out, 1, NULL, NULL, &err) == DN_OK, "%s", err.message);
    dn_point_free(brief); /* the engine holds it */
    refused(engine, s->points[groups], other, DN_F32, 2, DN_EINVAL, "not what the engine ran last");
    refused(engine, s->points[groups], s->images, DN_F32, 1, DN_EINVAL, "1 images");
    refused(engine, s->points[groups], bytes, DN_U8, 2, DN_EINVAL, "uint8");
    refused(engine, others, s->images, DN_F32, 2, DN_EPOINT, "statistics");
    if (fewer) refused(engine, fewer, s->images, DN_F32, 2, DN_EPOINT, "bits");
    CHECK(dn_engine_extend(engine, s->points[groups], s->images, DN_F32, 2, out, 1, NULL, &err) == DN_OK, "%s", err.message);
    CHECK(memcmp(out, want, sizeof out) == 0, "%s: refusals change what is kept", N.name);
    dn_point_free(others);
    dn_point_free(fewer);
    dn_engine_free(engine);
    free(other);
    free(bytes);
}

/* The k-th allocation fails, in a run and in an extension: said, nothing lost, and then it works. */
static void check_memory(const setup *s, int32_t groups) {
    float out[2 * OUTPUTS];
    for (int64_t k = 1; k <= 4; k++) {
        dn_engine *engine = NULL;
        dn_error err = {0};
        CHECK(dn_engine_new(&engine, s->plan, &err) == DN_OK, "%s", err.message);
        dn_alloc_fail_at(k);
        dn_status run = dn_engine_run(engine, s->points[1], s->images, DN_F32, 2, out, 1, NULL, NULL, &err);
        dn_alloc_fail_at(0);
        CHECK(run == (k <= 3 ? DN_ENOMEM : DN_OK), "allocation %d: status %d", (int)k, run);
        if (run != DN_OK) refused(engine, s->points[groups], s->images, DN_F32, 2, DN_EINVAL, "nothing has been run");
        CHECK(dn_engine_run(engine, s->points[1], s->images, DN_F32, 2, out, 1, NULL, NULL, &err) == DN_OK, "%s", err.message);
        size_t before = dn_engine_arena_bytes(engine);
        dn_alloc_fail_at(1);
        dn_status extended = dn_engine_extend(engine, s->points[groups], s->images, DN_F32, 2, out, 1, NULL, &err);
        dn_alloc_fail_at(0);
        if (extended != DN_OK) extended = dn_engine_extend(engine, s->points[groups], s->images, DN_F32, 2, out, 1, NULL, &err);
        CHECK(extended == DN_OK, "%s (arena of %zu)", err.message, before);
        dn_engine_free(engine);
    }
}

static void check_case(network *make, int quantised, dn_isa isa) {
    const int32_t groups = pick(2, MAX_GROUPS), w = quantised ? 4 * pick(1, 5 - groups) : pick(1, 18 / groups); /* shortcuts have room for 64 channels */
    const int8_t bits = quantised && pick(0, 1) ? 4 : 8;
    setup s;
    make(groups, w);
    if (!finish(quantised, groups)) return;
    if (begin_setup(&s, isa, groups, bits)) {
        for (int32_t threads = 1; threads <= THREADS; threads++) check_bits(&s, groups, threads, threads == 2 ? 1 : IMAGES);
        for (int32_t from = 1; from < groups; from++) check_writes(&s, from, pick(from + 1, groups));
        check_refusals(&s, groups, bits, quantised);
        if (guard_below(8) == 0) check_memory(&s, groups);
    }
    end_setup(&s);
    free_net();
}

/* ---- networks whose groups meet ---- */

static void plain_net(void) {
    begin("plain");
    head(block(block(0, 8, 3, 1), 8, 3, 1));
}

static void concat_net(void) {
    begin("concat");
    int32_t a = block(0, 8, 3, 1), b = op2("concat", a, op1("relu", conv(a, 8, 3, 1, 2, 1)));
    head(op1("global_avg_pool", b));
}

static void crossed_net(void) {
    begin("crossed");
    int32_t a = block(0, 8, 3, 1), b = shortcut(a, 8, 8, 2, 1);
    N.map[b][0] = 7;
    head(op1("global_avg_pool", op2("add", norm(conv(a, 8, 3, 1, 2, 1)), b)));
}

static void late_net(void) {
    begin("late");
    int32_t a = block(0, 8, 3, 1);
    head(a);
    (void)op1("relu", N.count - 1);
}

static void check_mixing(void (*make)(void), int32_t groups, int quantised, const char *text) {
    setup s;
    float out[OUTPUTS];
    make();
    if (!finish(quantised, groups)) return;
    if (begin_setup(&s, DN_ISA_BEST, groups, 8)) {
        dn_engine *engine = NULL;
        dn_error err = {0};
        CHECK(dn_engine_new(&engine, s.plan, &err) == DN_OK, "%s", err.message);
        CHECK(dn_engine_run(engine, s.points[1], s.images, DN_F32, 1, out, 1, NULL, NULL, &err) == DN_OK, "%s", err.message);
        CHECK(dn_engine_kept_bytes(engine) == 0, "%s keeps %zu bytes for nothing", N.name, dn_engine_kept_bytes(engine));
        refused(engine, s.points[groups], s.images, DN_F32, 1, DN_EUNSUPPORTED, text);
        dn_engine_free(engine);
    }
    end_setup(&s);
    free_net();
}

int main(int argc, char **argv) {
    static network *const networks[] = {residual_net, mobile_net, branch_net, shared_net};
    guard_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const int rounds = argc > 2 ? atoi(argv[2]) : 2;
    for (int round = 0; round < rounds; round++)
        for (size_t n = 0; n < sizeof networks / sizeof *networks; n++)
            for (int quantised = 0; quantised < 3; quantised++)
                for (int isa = DN_ISA_REF; isa < DN_ISA_BEST; isa++)
                    if (dn_isa_available((dn_isa)isa)) check_case(networks[n], quantised, (dn_isa)isa);
    for (int quantised = 0; quantised < 2; quantised++) {
        check_mixing(plain_net, 1, quantised, "conv2d reads all channels");
        check_mixing(concat_net, 2, quantised, "concat mixes");
        check_mixing(crossed_net, 2, quantised, "shortcut mixes");
        check_mixing(late_net, 2, quantised, "linear mixes");
    }
    CHECK(dn_alloc_live() == 0, "%lld blocks are left", (long long)dn_alloc_live());
    return guard_finish("check_extend");
}
