/* check_plan.c - whole networks, through the public header alone: every level this CPU has gives the tables and the logits of ref, bit for bit. Arguments: seed, rounds. */
#include "guard.h"

#include "dynadnn.h"

enum { MAX_NODES = 40, IMAGES = 3, THREADS = 3, OUTPUTS = 5 };

typedef struct net {
    const char *name;
    dn_node_spec spec[MAX_NODES];
    int32_t inputs[MAX_NODES][3], map[MAX_NODES][64];
    int32_t count, height, width, channels;
    dn_graph *graph;
    dn_params params[MAX_NODES];
    float *floats[MAX_NODES][3];
    int8_t *codes[MAX_NODES];
    int8_t bits[MAX_NODES];
    int32_t active[4 * MAX_NODES];
    float *input_table;
} net;

static net N;

/* ---- building a network ---- */

static int32_t pick(int low, int high) { return low + guard_below(high - low + 1); }

static void begin(const char *name) {
    memset(&N, 0, sizeof N);
    N.name = name;
    N.count = 1;
    N.height = pick(7, 13), N.width = pick(7, 13), N.channels = pick(1, 5);
    N.spec[0] = (dn_node_spec){.op = "input", .name = "input", .height = N.height, .width = N.width, .channels = N.channels, .stage = -1};
}

static dn_node_spec *node(const char *op, int32_t a, int32_t b) {
    dn_node_spec *s = &N.spec[N.count];
    *s = (dn_node_spec){.op = op, .name = op, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .groups = 1, .stage = -1};
    N.inputs[N.count][0] = a;
    N.inputs[N.count][1] = b;
    s->inputs = N.inputs[N.count];
    s->input_count = b < 0 ? 1 : 2;
    N.count++;
    return s;
}

static int32_t op1(const char *op, int32_t a) { return node(op, a, -1), N.count - 1; }
static int32_t op2(const char *op, int32_t a, int32_t b) { return node(op, a, b), N.count - 1; }
static int32_t valued(const char *op, int32_t a, float value) { return node(op, a, -1)->value = value, N.count - 1; }

static void square(dn_node_spec *s, int32_t kernel, int32_t stride, int32_t pad) {
    for (int i = 0; i < 2; i++) s->kernel[i] = kernel, s->stride[i] = stride;
    for (int i = 0; i < 4; i++) s->pad[i] = pad;
}

static int32_t pool(const char *op, int32_t a, int32_t kernel, int32_t stride, int32_t pad) { return square(node(op, a, -1), kernel, stride, pad), N.count - 1; }

static int32_t conv(int32_t a, int32_t channels, int32_t kernel, int32_t stride, int32_t groups, int32_t dilation) {
    dn_node_spec *s = node("conv2d", a, -1);
    square(s, kernel, stride, kernel / 2 * dilation);
    s->channels = channels, s->groups = groups, s->dilation[0] = s->dilation[1] = dilation, s->bias = guard_below(2);
    return N.count - 1;
}

static int32_t norm(int32_t a) { return valued("batchnorm", a, 1e-3f); }
static int32_t block(int32_t a, int32_t channels, int32_t kernel, int32_t stride) { return op1("relu", norm(conv(a, channels, kernel, stride, 1, 1))); }
static void head(int32_t a) {
    dn_node_spec *s = node("linear", op1("flatten", a), -1);
    s->channels = OUTPUTS, s->bias = 1;
}

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

/* ---- parameters, points ---- */

static float *floats(size_t n, float middle, float reach) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = middle + reach * guard_float();
    return x;
}

static void fill(int32_t i, int quantised) {
    dn_tensor_info t;
    dn_graph_tensor(N.graph, i, &t);
    if (!t.weights) return;
    const int is_norm = strcmp(N.spec[i].op, "batchnorm") == 0;
    const size_t n = (size_t)t.weights;
    N.floats[i][0] = floats(n, is_norm ? 1 : 0, is_norm ? 0.5f : 0.3f);
    N.floats[i][1] = floats((size_t)t.biases, 0, 0.3f);
    N.params[i] = (dn_params){.weight = N.floats[i][0], .bias = t.biases ? N.floats[i][1] : NULL};
    if (!quantised || is_norm) return;
    N.floats[i][2] = floats((size_t)t.channels, 0.003f, 0.002f);
    N.codes[i] = malloc(n);
    for (size_t k = 0; k < n; k++) N.codes[i][k] = (int8_t)pick(-127, 95);
    N.params[i] = (dn_params){.codes = N.codes[i], .code_scale = N.floats[i][2], .bias = N.params[i].bias};
}

/* quantised: 0 all float, 1 all int8, 2 the last layer is left in float. */
static int finish(int quantised) {
    dn_error err = {0};
    CHECK(dn_graph_new(&N.graph, N.spec, N.count, N.count - 1, 1, &err) == DN_OK, "%s: %s", N.name, err.message);
    if (!N.graph) return 0;
    for (int32_t i = 0; i < N.count; i++) fill(i, quantised == 1 || (quantised == 2 && i < N.count - 1));
    N.input_table = floats((size_t)N.channels * 256, 0, 0);
    for (int i = 0; i < N.channels * 256; i++) N.input_table[i] = (float)(i % 256 - 100 - i / 256) * 0.02f;
    return 1;
}

static void free_net(void) {
    dn_graph_free(N.graph);
    for (int32_t i = 0; i < N.count; i++) {
        for (int k = 0; k < 3; k++) free(N.floats[i][k]);
        free(N.codes[i]);
    }
    free(N.input_table);
}

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

static int compute(result *r, dn_isa isa, int part, int8_t bits, const void *images, dn_dtype dtype) {
    dn_plan *plan;
    dn_point *point = NULL;
    dn_engine *engine = NULL;
    dn_error err = {0};
    memset(r, 0, sizeof *r);
    const dn_plan_options options = {.threads = THREADS, .isa = isa, .precision = 32, .least_bits = bits};
    const dn_calibration_options how = {.range = DN_RANGE_MINMAX, .percentile = 100, .threads = 1};
    dn_tables tables = {r->mean, r->variance, r->scale};
    dn_subnet subnet = subnet_of(part, bits);
    CHECK(dn_graph_norm_channels(N.graph) <= 512, "%s has too many channels for this test", N.name);
    dn_status status = dn_plan_new(&plan, N.graph, N.params, N.input_table, &options, &err);
    if (status == DN_OK) status = dn_calibrate(plan, &subnet, images, dtype, IMAGES, &how, &tables, NULL, &err);
    if (status == DN_OK) status = dn_point_new(&point, plan, &subnet, &tables, &err);
    if (status == DN_OK) status = dn_engine_new(&engine, plan, &err);
    for (int k = 0; status == DN_OK && k < 2; k++)
        status = dn_engine_run(engine, point, images, dtype, IMAGES, r->logits[k], k ? THREADS : 1, NULL, NULL, &err);
    CHECK(status == DN_OK, "%s at %s, part %d: %s", N.name, dn_isa_name(isa), part, err.message);
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
                if (!finish(quantised)) return 1;
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
