/* check_plan.c - whole networks, through the public header alone: every level this CPU has gives the tables and the logits of ref, bit for bit. Arguments: seed, rounds. */
#include "net.h"

enum { IMAGES = 3, THREADS = 3 };

/* ---- networks: between them every operation, maps with zero point 0 and 128 under every kind of window ---- */

static void residual_net(void) {
    begin("residual");
    int32_t c = 4 * pick(1, 12), a = block(0, c, 3, 1), b = norm(conv(block(a, c, 3, 1), c, 3, 1, 1, 1));
    a = op1("relu", op2("add", b, a));
    b = norm(conv(block(a, 2 * c, 3, 2), 2 * c, 3, 1, 1, 1));
    dn_node_spec *s = node("shortcut", a, -1);
    s->stride[0] = s->stride[1] = 2, s->channels = 2 * c, s->map = N.map[N.count - 1];
    for (int i = 0; i < 2 * c; i++) N.map[N.count - 1][i % 64] = i < c ? i : -1;
    head(op1("global_avg_pool", op1("relu", op2("add", b, N.count - 1))));
}

static void mobile_net(void) {
    begin("mobile");
    int32_t c = 4 * pick(2, 9), a = op1("hardswish", norm(conv(0, c, 3, 2, 1, 1)));
    int32_t b = op1("hardswish", norm(conv(a, c, pick(0, 1) ? 3 : 5, 1, c, 1))); /* depthwise over a signed map */
    int32_t gate = op1("hardsigmoid", conv(op1("relu", conv(op1("global_avg_pool", b), 4 * pick(1, 4), 1, 1, 1, 1)), c, 1, 1, 1, 1));
    a = op2("add", norm(conv(op2("mul", b, gate), c, 1, 1, 1, 1)), a);
    a = op1("relu6", norm(conv(a, c, 3, 1, c, 2)));
    head(pool("avg_pool", op1("relu6", norm(conv(a, c, 3, 2, c, 1))), 2, 1, 0));
}

static void branch_net(void) {
    begin("branches");
    int32_t c = 4 * pick(1, 10), a = op1("hardswish", norm(conv(0, c, 3, 1, 1, 1)));
    int32_t left = valued("leaky_relu", norm(conv(a, 4 * pick(1, 10), 3, 1, 1, 2)), 0.1f), right = op1("sigmoid", conv(a, 4 * pick(1, 10), 1, 1, 1, 1));
    a = op2("concat", left, right);
    a = pool("max_pool", a, 3, 2, 1);
    dn_node_spec *s = node("pad", a, -1);
    for (int i = 0; i < 4; i++) s->pad[i] = 1;
    a = conv(norm(conv(N.count - 1, 4 * pick(1, 9), 5, 1, 1, 1)), 4 * pick(4, 9), 3, 1, 1, 1);
    s = node("adaptive_avg_pool", valued("leaky_relu", a, 0.2f), -1);
    s->height = 2, s->width = 2;
    head(N.count - 1);
}

static void grouped_net(void) {
    begin("groups");
    int32_t g = pick(2, 4), c = 8 * g, a = block(0, c, 3, 1);
    a = op1("hardswish", norm(conv(a, 4 * g * pick(1, 5), 3, 1, g, 1)));
    a = norm(conv(a, N.spec[a - 2].channels, 3, 2, g, 1));
    head(pool("max_pool", a, 2, 2, 0));
}

/* ---- points ---- */

/* Every elastic space at about `part` quarters of its channels. */
static dn_subnet subnet_of(int part, int8_t bits) {
    for (int32_t i = 0; i < dn_graph_spaces(N.graph); i++) {
        dn_space_info space, lead;
        dn_graph_space(N.graph, i, &space);
        dn_graph_space(N.graph, space.lead, &lead);
        int32_t units = lead.full / lead.unit, kept = units * part / 4;
        while (kept < 1 || (kept < units && (kept * lead.unit) % 4)) kept++; /* int8 widths are multiples of 4 */
        N.active[i] = !space.elastic || kept >= units ? space.full : space.full / units * kept;
    }
    memset(N.bits, bits, sizeof N.bits);
    return (dn_subnet){.active = N.active, .bits = N.bits};
}

/* ---- one level ---- */

/* What a level computes at a point: tables as its own kernels calibrate them, logits with one and with several threads. */
typedef struct result {
    float mean[512], variance[512], scale[MAX_NODES], logits[2][IMAGES * OUTPUTS];
} result;

/* With tiles drawn from those each step can have: the same bits. */
static void check_tiles(const result *r, const dn_plan *plan, const dn_point *point, const dn_subnet *subnet, const dn_tables *tables, dn_engine *engine, const void *images, dn_dtype dtype) {
    dn_tile tiles[MAX_NODES], tile;
    float logits[IMAGES * OUTPUTS];
    char name[32] = "", shape[96];
    dn_error err = {0};
    dn_step_info info;
    dn_point *other;
    for (int i = 0; i < MAX_NODES; i++) tiles[i] = (dn_tile){-1, -1};
    for (int32_t k = 0; k < dn_point_steps(point); k++) {
        int32_t count = 0;
        while (dn_point_tile(point, k, count, &tile, name)) count++;
        dn_point_shape_name(point, k, shape);
        CHECK((count > 0) == (shape[0] != 0), "%s: step %d has %d tiles and the shape '%s'", N.name, k, count, shape);
        if (!count) continue;
        dn_point_step(point, k, &info);
        (void)dn_point_tile(point, k, guard_below(count), &tiles[info.node], name);
    }
    dn_status status = dn_point_new_tiled(&other, plan, subnet, tables, tiles, &err);
    if (status == DN_OK) status = dn_engine_run(engine, other, images, dtype, IMAGES, logits, pick(1, THREADS), NULL, NULL, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    CHECK(memcmp(logits, r->logits[0], sizeof logits) == 0, "%s: tiles like %s change logits", N.name, name);
    dn_point_free(other);
    for (int i = 0; i < MAX_NODES; i++) tiles[i] = (dn_tile){127, -1};
    status = dn_point_new_tiled(&other, plan, subnet, tables, tiles, &err);
    CHECK(!name[0] || (status == DN_EINVAL && !other), "%s: a tile that does not exist gives status %d", N.name, status);
    dn_point_free(other);
}

static int compute(result *r, dn_isa isa, int part, int8_t bits, const void *images, dn_dtype dtype) {
    dn_plan *plan;
    dn_point *point = NULL;
    dn_engine *engine = NULL;
    dn_error err = {0};
    memset(r, 0, sizeof *r);
    const dn_plan_options options = {.threads = THREADS, .isa = isa, .precision = 32, .least_bits = bits};
    const dn_calibration_options how = {.range = DN_RANGE_MINMAX, .percentile = 100, .threads = 1};
    dn_tables tables = {.mean = r->mean, .variance = r->variance, .scale = r->scale};
    dn_subnet subnet = subnet_of(part, bits);
    CHECK(dn_graph_norm_channels(N.graph) <= 512, "%s has too many channels for this test", N.name);
    dn_status status = dn_plan_new(&plan, N.graph, N.params, N.input_table, &options, &err);
    if (status == DN_OK) status = dn_calibrate(plan, &subnet, images, dtype, IMAGES, &how, &tables, NULL, &err);
    if (status == DN_OK) status = dn_point_new(&point, plan, &subnet, &tables, &err);
    if (status == DN_OK) status = dn_engine_new(&engine, plan, &err);
    for (int k = 0; status == DN_OK && k < 2; k++)
        status = dn_engine_run(engine, point, images, dtype, IMAGES, r->logits[k], k ? THREADS : 1, NULL, NULL, &err);
    CHECK(status == DN_OK, "%s at %s, part %d: %s", N.name, dn_isa_name(isa), part, err.message);
    if (status == DN_OK) check_tiles(r, plan, point, &subnet, &tables, engine, images, dtype);
    dn_engine_free(engine);
    dn_point_free(point);
    dn_plan_free(plan);
    return status == DN_OK;
}

static void compare(int quantised, int part, int8_t bits, const void *images, dn_dtype dtype) {
    result ref, found;
    if (!compute(&ref, DN_ISA_REF, part, bits, images, dtype)) return;
    CHECK(memcmp(ref.logits[0], ref.logits[1], sizeof ref.logits[0]) == 0, "%s: threads change ref", N.name);
    CHECK(memcmp(ref.logits[0], ref.logits[0] + OUTPUTS, OUTPUTS * sizeof(float)) != 0, "%s: different images give the same logits, which tells nothing", N.name);
    for (int isa = DN_ISA_REF + 1; isa <= DN_ISA_BEST; isa++) {
        if (!dn_isa_available((dn_isa)isa) || !compute(&found, (dn_isa)isa, part, bits, images, dtype)) continue;
        int tables = !memcmp(ref.mean, found.mean, sizeof ref.mean) && !memcmp(ref.variance, found.variance, sizeof ref.variance) && !memcmp(ref.scale, found.scale, sizeof ref.scale);
        CHECK(tables, "%s: tables of %s differ from ref (quantised %d, part %d, %d bits)", N.name, dn_isa_name((dn_isa)isa), quantised, part, bits);
        for (int k = 0; k < 2; k++) {
            int i = 0;
            while (i < IMAGES * OUTPUTS - 1 && memcmp(&ref.logits[k][i], &found.logits[k][i], sizeof(float)) == 0) i++;
            CHECK(memcmp(ref.logits[k], found.logits[k], sizeof ref.logits[k]) == 0, "%s: logit %d is %.9g in ref, %.9g in %s (quantised %d, part %d, %d bits, %d threads)", N.name, i,
                  (double)ref.logits[k][i], (double)found.logits[k][i], dn_isa_name((dn_isa)isa), quantised, part, bits, k ? THREADS : 1);
        }
    }
}

int main(int argc, char **argv) {
    static void (*const networks[])(void) = {residual_net, mobile_net, branch_net, grouped_net};
    guard_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const int rounds = argc > 2 ? atoi(argv[2]) : 4;
    for (int isa = DN_ISA_REF; isa < DN_ISA_BEST; isa++)
        if (dn_isa_available((dn_isa)isa)) {
            printf("%s\n", dn_isa_name((dn_isa)isa));
            CHECK(dn_isa_effective((dn_isa)isa) == (dn_isa)isa, "%s comes to %s", dn_isa_name((dn_isa)isa), dn_isa_name(dn_isa_effective((dn_isa)isa)));
        }
    for (int round = 0; round < rounds; round++)
        for (size_t n = 0; n < sizeof networks / sizeof *networks; n++)
            for (int quantised = 0; quantised < 3; quantised++) {
                networks[n]();
                if (!finish(quantised, 1)) return 1;
                const size_t size = IMAGES * (size_t)(N.height * N.width * N.channels);
                float *images = floats(size, 0, 2);
                uint8_t *bytes = malloc(size);
                for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)guard_random();
                compare(quantised, 4, 8, images, DN_F32);
                compare(quantised, pick(1, 3), 8, bytes, DN_U8);
                if (quantised) compare(quantised, pick(1, 4), (int8_t)pick(2, 4), images, DN_F32);
                free(images);
                free(bytes);
                free_net();
            }
    return guard_finish("check_plan");
}
