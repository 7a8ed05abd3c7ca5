/* check_train.c - the trainer against a plain double-precision forward pass and its finite differences, for every operation; determinism, interruption, optimisers. */
#include "train_oracle.h"

/* ---- helpers ---- */

static dn_trainer *trainer_for(int threads, dn_isa isa, uint64_t seed) {
    dn_trainer *t;
    dn_error err = {0};
    dn_trainer_options o = {.batch = IMAGES + 2, .threads = threads, .isa = isa, .stat_slots = 2, .stat_momentum = 0.1f, .seed = seed};
    dn_status status = dn_trainer_new(&t, N.graph, N.params, NULL, NULL, &o, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    if (!t) exit(1);
    return t;
}

static point full_point(void) {
    point p = {.step = 3, .seed = 7};
    for (int s = 0; s < dn_graph_spaces(N.graph); s++) {
        dn_space_info info;
        dn_graph_space(N.graph, s, &info);
        p.active[s] = info.full;
    }
    for (int s = 0; s < dn_graph_stages(N.graph); s++) {
        int32_t keep;
        dn_graph_stage(N.graph, s, &p.depth[s], &keep);
    }
    return p;
}

/* Every elastic space at about the fraction a / b. */
static point part_point(int a, int b) {
    point p = full_point();
    for (int s = 0; s < dn_graph_spaces(N.graph); s++) {
        dn_space_info info, lead;
        dn_graph_space(N.graph, s, &info);
        if (!info.elastic) continue;
        dn_graph_space(N.graph, info.lead, &lead);
        int units = lead.full / lead.unit, kept = units * a / b > 0 ? units * a / b : 1;
        p.active[s] = info.full / units * kept;
    }
    return p;
}

static size_t outputs(void) { return size_of(N.count - 1); }

static dn_status pass(dn_trainer *t, const point *p, const float *x, size_t n, int slot, const float *r, float *logits) {
    dn_error err = {0};
    dn_subnet subnet = {p->active, NULL, p->depth};
    dn_status status = dn_trainer_forward(t, &subnet, x, DN_F32, n, slot, p->step, logits, NULL, &err);
    if (status == DN_OK && r) status = dn_trainer_backward(t, r, NULL, &err);
    if (status != DN_OK) printf("%s: %s\n", N.name, err.message);
    return status;
}

static float *random_floats(size_t n) {
    float *x = malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) x[i] = guard_float() * 1.5f;
    return x;
}

static double loss_at(const point *p, double *const *w, double *const *b, const float *x, const float *r) {
    double *logits = ref_forward(p, w, b, x, IMAGES), sum = 0;
    for (size_t i = 0; i < IMAGES * outputs(); i++) sum += logits[i] * (double)r[i];
    free(logits);
    return sum;
}

static double *widen(const float *x, size_t n) {
    double *y = malloc((n + 1) * sizeof(double));
    for (size_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

/* Some entries of one parameter array: finite differences of the sum over all points against the gradient. */
static void check_array(const point *points, int count, double *const *w, double *const *b, double *array, size_t size, const float *gradient, const float *x, const float *r, int i,
                        const char *what) {
    double largest = 1e-3;
    for (size_t k = 0; k < size; k++) largest = fmax(largest, fabs((double)gradient[k]));
    for (int trial = 0; trial < TRIALS && trial < (int)size; trial++) {
        size_t k = size <= TRIALS ? (size_t)trial : (size_t)guard_below((int)size);
        if (trial >= trials) continue;
        double keep = array[k], h = 1e-6, difference = 0; /* small: a kink inside 2h would look like a wrong gradient */
        for (int q = 0; q < count; q++) {
            array[k] = keep + h;
            difference += loss_at(&points[q], w, b, x, r);
            array[k] = keep - h;
            difference -= loss_at(&points[q], w, b, x, r);
        }
        array[k] = keep;
        difference /= 2 * h;
        CHECK(fabs(difference - (double)gradient[k]) <= 3e-4 * largest, "%s: node %d (%s) %s %zu: %g, differences say %g (largest %g)", N.name, i, N.spec[i].op, what, k,
              (double)gradient[k], difference, largest);
    }
}

/* Forward against the oracle, gradients against finite differences, at several points whose gradients add up. */
static void check_net(void) {
    finish();
    point points[3] = {full_point(), part_point(1, 2), part_point(3, 4)};
    int count = 3;
    if (dn_graph_stages(N.graph))
        for (int s = 0; s < dn_graph_stages(N.graph); s++) {
            int32_t blocks, keep;
            dn_graph_stage(N.graph, s, &blocks, &keep);
            points[1].depth[s] = keep;
        }
    double *w[MAX_NODES] = {0}, *b[MAX_NODES] = {0};
    for (int i = 0; i < N.count; i++)
        if (N.weights[i]) w[i] = widen(N.weight[i], N.weights[i]), b[i] = widen(N.bias[i], N.biases[i]);
    float *x = random_floats(IMAGES * size_of(0)), *r = random_floats(IMAGES * outputs()), *logits = malloc(IMAGES * outputs() * sizeof(float));
    dn_trainer *t = trainer_for(2, DN_ISA_BEST, 7);
    for (int q = 0; q < count; q++) {
        CHECK(pass(t, &points[q], x, IMAGES, q & 1, r, logits) == DN_OK, "%s", N.name);
        double *wanted = ref_forward(&points[q], w, b, x, IMAGES);
        for (size_t i = 0; i < IMAGES * outputs(); i++)
            CHECK(fabs(wanted[i] - (double)logits[i]) <= 2e-5 * (1 + fabs(wanted[i])), "%s point %d: logit %zu is %g, not %g", N.name, q, i, (double)logits[i], wanted[i]);
        free(wanted);
    }
    for (int i = 0; i < N.count; i++) {
        if (!N.weights[i]) continue;
        float *gw = calloc(N.weights[i] + 1, sizeof(float)), *gb = calloc(N.biases[i] + 1, sizeof(float));
        dn_trainer_get_grads(t, i, gw, gb);
        check_array(points, count, w, b, w[i], N.weights[i], gw, x, r, i, "weight");
        if (N.biases[i]) check_array(points, count, w, b, b[i], N.biases[i], gb, x, r, i, "bias");
        free(gw), free(gb);
    }
    dn_trainer_free(t);
    for (int i = 0; i < N.count; i++) free(w[i]), free(b[i]);
    free(x), free(r), free(logits);
    end();
}

/* ---- one network per operation ---- */

static int stem(const char *name, int channels) {
    begin(name, 6, 7, 3);
    return conv(0, channels, 3, 1);
}
static int small_stem(const char *name, int channels) {
    begin(name, 3, 4, 3);
    return conv(0, channels, 3, 1);
}

static void block(int *a, int channels, int stage, int number) {
    int first = N.count, x = *a;
    int c = op1("relu", bn(conv(x, channels, 3, 1)));
    *a = op1("relu", op2("add", bn(conv(c, channels, 3, 1)), x));
    for (int i = first; i < N.count; i++) N.spec[i].stage = stage, N.spec[i].block = number;
}

static void residual_net(void) {
    int a = op1("relu", bn(stem("residual", 8)));
    block(&a, 8, 0, 0);
    block(&a, 8, 0, 1);
    int c = op1("relu", bn(conv(a, 12, 3, 2)));
    c = bn(conv(c, 12, 3, 1));
    dn_node_spec *s = node("shortcut", a, -1);
    s->channels = 12, s->stride[0] = s->stride[1] = 2, s->map = N.map[N.count - 1];
    for (int i = 0; i < 12; i++) N.map[N.count - 1][i] = i < 8 ? i : -1;
    a = op1("relu", op2("add", c, N.count - 1));
    block(&a, 12, 1, 0);
    (void)linear(op1("global_avg_pool", a), 5);
}

static void check_ops(void) {
    static const char *const acts[] = {"relu", "relu6", "leaky_relu", "hardswish", "sigmoid", "hardsigmoid", "identity"};
    for (int i = 0; i < 7; i++) {
        head(conv(valued(acts[i], conv_full(stem(acts[i], 5), 8, 3, 1, 1, 1, 1, 1), 0.1f), 6, 3, 1));
        check_net();
        head(conv(valued(acts[i], bn(stem(acts[i], 8)), 0.1f), 6, 3, 1));
        check_net();
        int a = stem(acts[i], 8), b = conv(0, 8, 1, 1);
        a = valued(acts[i], op2("add", bn(a), b), 0.1f);
        head(op2("add", conv(a, 8, 3, 1), a));
        check_net();
    }
    head(stem("conv", 20)), check_net();
    head(conv_full(stem("stride 2", 9), 21, 3, 2, 1, 1, 1, 1)), check_net();
    head(conv_full(stem("stride 3 of a 2 x 2 kernel", 9), 7, 2, 3, 0, 1, 1, 0)), check_net();
    head(conv_full(stem("dilation", 9), 17, 3, 1, 2, 1, 2, 1)), check_net();
    head(conv_full(stem("groups", 12), 18, 3, 2, 1, 3, 1, 1)), check_net();
    head(conv_full(stem("depthwise", 12), 12, 3, 1, 1, 12, 1, 1)), check_net();
    head(conv_full(op1("relu6", bn(stem("depthwise stride 2", 20))), 20, 3, 2, 1, 20, 1, 0)), check_net();
    head(op1("relu6", bn(conv_full(stem("depthwise dilated", 19), 19, 3, 1, 2, 19, 2, 0)))), check_net();
    int a = stem("asymmetric padding", 6);
    (void)conv_full(a, 10, 3, 2, 0, 1, 1, 1);
    memcpy(N.spec[N.count - 1].pad, (int32_t[]){2, 0, 1, 3}, sizeof(int32_t[4]));
    head(N.count - 1), check_net();
    head(op1("relu", conv(op1("relu", conv(small_stem("heavy", 96), 96, 3, 1)), 8, 1, 2))), check_net();
    head(op1("relu", bn(conv(op1("relu", bn(small_stem("heavy after batch norm", 96))), 96, 3, 1)))), check_net();
    a = stem("add of itself", 6);
    head(op2("add", a, a)), check_net();
    a = stem("add", 6);
    head(op1("relu", op2("add", a, conv(a, 6, 3, 1)))), check_net();
    a = bn(stem("two batch norms of one tensor", 6));
    head(op2("add", bn(1), op1("relu", a))), check_net();
    a = stem("downsample", 6);
    head(op1("relu", op2("add", bn(conv(a, 8, 3, 2)), bn(conv(a, 8, 1, 2))))), check_net();
    a = stem("mul", 6);
    head(op2("mul", a, op1("sigmoid", conv(a, 6, 3, 1)))), check_net();
    a = stem("mul of itself", 6);
    head(op2("mul", a, a)), check_net();
    a = op1("hardswish", bn(stem("squeeze and excite", 8)));
    head(op2("mul", a, op1("hardsigmoid", conv_full(op1("relu", conv_full(op1("global_avg_pool", a), 4, 1, 1, 0, 1, 1, 1)), 8, 1, 1, 0, 1, 1, 1)))), check_net();
    a = stem("concat", 6);
    head(conv(op1("relu", bn(op2("concat", conv(a, 12, 3, 1), op1("relu", a)))), 7, 3, 1)), check_net();
    a = stem("concat into depthwise", 10);
    a = op2("concat", a, conv(a, 7, 1, 1));
    head(conv_full(a, 17, 3, 1, 1, 17, 1, 1)), check_net();
    head(pool("max_pool", op1("relu", stem("max pool", 6)), 3, 2, 1)), check_net();
    head(pool("max_pool", op1("relu", conv(stem("max pool of blocks", 6), 9, 3, 1)), 2, 2, 0)), check_net();
    head(pool("avg_pool", stem("average pool", 6), 3, 2, 1)), check_net();
    linear(op1("global_avg_pool", op1("relu", bn(stem("global pool", 6)))), 5), check_net();
    a = stem("adaptive pool", 6);
    dn_node_spec *s = node("adaptive_avg_pool", a, -1);
    s->height = 4, s->width = 3;
    head(N.count - 1), check_net();
    a = stem("pad", 6);
    memcpy(node("pad", a, -1)->pad, (int32_t[]){1, 0, 2, 3}, sizeof(int32_t[4]));
    head(N.count - 1), check_net();
    head(valued("dropout", stem("dropout", 6), 0.4f)), check_net();
    (void)linear(op1("relu", bn(linear(op1("flatten", stem("linear", 6)), 33))), 5), check_net();
    a = linear(op1("flatten", stem("linear with groups", 8)), 12);
    N.spec[a].groups = 4;
    (void)linear(op1("relu", a), 5), check_net();
    begin("features only", 1, 1, 13);
    (void)linear(op1("relu", linear(op1("relu", bn(linear(0, 20))), 18)), 4), check_net();
    residual_net(), check_net();
}

/* Maps of even sides and enough channels: 3 x 3 convolutions go through winograd_pass.c. */
static int even_stem(const char *name, int height, int width, int channels) {
    begin(name, height, width, 3);
    return op1("relu", bn(conv(0, channels, 3, 1)));
}

/* Some heavy layers, whose images go together, behind a maximum and in front of one. */
static void heavy_net(int side) {
    int a = op1("relu", conv_full(even_stem("winograd, heavy", side, side, 20), 64, 3, 1, 1, 1, 1, 1));
    a = op1("relu", conv_full(a, 128, 3, 1, 1, 1, 1, 1));
    head(op1("relu", bn(conv(pool("max_pool", a, 2, 2, 0), 12, 3, 1))));
}

static void check_winograd(void) {
    head(op1("relu", conv_full(even_stem("winograd", 6, 8, 20), 18, 3, 1, 1, 1, 1, 1))), check_net();
    head(op1("relu6", bn(conv(even_stem("winograd, 2 x 2", 2, 2, 16), 33, 3, 1)))), check_net();
    head(conv_full(even_stem("winograd, no padding", 8, 6, 13), 24, 3, 1, 0, 1, 1, 0)), check_net();
    head(conv_full(even_stem("winograd, padding of 2", 4, 6, 13), 24, 3, 1, 2, 1, 1, 0)), check_net();
    head(conv_full(even_stem("winograd, groups", 6, 4, 36), 40, 3, 1, 1, 2, 1, 1)), check_net();
    int a = even_stem("winograd, concat", 4, 4, 14);
    head(conv(op2("concat", conv(a, 12, 3, 1), a), 17, 3, 1)), check_net();
    a = even_stem("winograd, add", 4, 4, 16);
    head(op1("relu", op2("add", bn(conv(op1("relu", bn(conv(a, 24, 3, 1))), 16, 3, 1)), a))), check_net();
    heavy_net(4), check_net();
}

/* ---- determinism, failure, hooks ---- */

typedef struct snapshot {
    float *data;
    size_t count;
} snapshot;

static snapshot all_of(dn_trainer *t, void (*get)(const dn_trainer *, int32_t, float *, float *)) {
    size_t count = 0;
    for (int i = 0; i < N.count; i++) count += N.weights[i] + N.biases[i];
    snapshot s = {calloc(count + 1, sizeof(float)), count};
    size_t at = 0;
    for (int i = 0; i < N.count; i++) {
        if (!N.weights[i]) continue;
        get(t, i, s.data + at, N.biases[i] ? s.data + at + N.weights[i] : NULL);
        at += N.weights[i] + N.biases[i];
    }
    return s;
}

static const dn_update sgd = {.optimizer = DN_SGD, .lr = 0.05f, .momentum = 0.9f, .weight_decay = 1e-3f, .nesterov = 1};

static snapshot trained(int threads, dn_isa isa, const float *x, const float *r, float *logits) {
    dn_trainer *t = trainer_for(threads, isa, 7);
    point whole = full_point(), half = part_point(1, 2);
    for (int step = 0; step < 3; step++) {
        CHECK(pass(t, &whole, x, IMAGES + 2, 0, r, logits) == DN_OK, "pass");
        CHECK(pass(t, &half, x, IMAGES, 1, r, logits) == DN_OK, "pass");
        double norm;
        dn_error err = {0};
        CHECK(dn_trainer_commit(t, &sgd, &norm, &err) == DN_OK, "%s", err.message);
    }
    snapshot s = all_of(t, dn_trainer_get_params);
    dn_trainer_free(t);
    return s;
}

static void check_determinism(void) {
    finish();
    float *x = random_floats((IMAGES + 2) * size_of(0)), *r = random_floats((IMAGES + 2) * outputs()), logits[256];
    snapshot one = trained(1, DN_ISA_BEST, x, r, logits);
    for (int threads = 2; threads <= 3; threads++) {
        snapshot many = trained(threads, DN_ISA_BEST, x, r, logits);
        CHECK(memcmp(one.data, many.data, one.count * sizeof(float)) == 0, "%d threads give other bits", threads);
        free(many.data);
    }
    snapshot plain = trained(1, DN_ISA_REF, x, r, logits);
    for (size_t i = 0; i < one.count; i++) CHECK(fabs((double)(one.data[i] - plain.data[i])) <= 1e-5 * (1 + fabs((double)one.data[i])), "parameter %zu: %g, ref %g", i, (double)one.data[i], (double)plain.data[i]);
    free(one.data), free(plain.data), free(x), free(r);
    end();
}

static int stop_after;
static int ask(void *context) { return (void)context, --stop_after < 0; }

static void check_failures(void) {
    residual_net();
    finish();
    float *x = random_floats(IMAGES * size_of(0)), *r = random_floats(IMAGES * outputs()), logits[256];
    point p = full_point();
    dn_subnet subnet = {p.active, NULL, p.depth};
    dn_error err = {0};
    for (int k = 1;; k++) {
        dn_trainer *t;
        dn_trainer_options o = {.batch = IMAGES, .threads = 2, .isa = DN_ISA_BEST, .stat_slots = 1, .stat_momentum = 0.1f};
        int64_t before = dn_alloc_live();
        dn_alloc_fail_at(k);
        dn_status status = dn_trainer_new(&t, N.graph, N.params, NULL, NULL, &o, &err);
        bool reached = dn_alloc_fail_left() == 0;
        dn_alloc_fail_at(0);
        CHECK(status == (reached ? DN_ENOMEM : DN_OK) && !t == reached, "allocation %d", k);
        dn_trainer_free(t);
        CHECK(dn_alloc_live() == before, "allocation %d: %lld blocks left", k, (long long)(dn_alloc_live() - before));
        if (!reached) break;
    }
    dn_trainer *t = trainer_for(2, DN_ISA_REF, 7);
    const dn_poll poll = {ask, NULL};
    snapshot before = all_of(t, dn_trainer_get_params);
    int64_t blocks = dn_alloc_live();
    t->poll_ns = 0; /* every step asks: stop at the first, second, third ... */
    int stops = 0;
    for (int k = 0; k < 2000; k += 1 + k / 8) {
        stop_after = k;
        dn_status status = dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 0, 0, logits, &poll, &err);
        if (status == DN_OK) status = dn_trainer_backward(t, r, &poll, &err);
        CHECK(status == DN_OK || status == DN_EINTERRUPTED, "status %d", status);
        stops += status == DN_EINTERRUPTED;
        if (status != DN_OK && t->broken) CHECK(dn_trainer_commit(t, &sgd, NULL, &err) == DN_EINVAL, "an interrupted pass was committed");
        dn_trainer_discard(t);
        snapshot g = all_of(t, dn_trainer_get_grads);
        for (size_t i = 0; i < g.count; i++) CHECK(g.data[i] == 0, "gradient %zu is left over", i);
        free(g.data);
    }
    CHECK(stops > 10, "%d passes were stopped", stops);
    t->poll_ns = 4000000;
    r[3] = INFINITY;
    CHECK(pass(t, &p, x, IMAGES, 0, r, logits) == DN_OK, "pass");
    CHECK(dn_trainer_commit(t, &sgd, NULL, &err) == DN_ENONFINITE, "committed: %s", err.message);
    CHECK(dn_trainer_diagnose(t, &err) == DN_ENONFINITE, "no diagnosis");
    CHECK(dn_trainer_steps(t) == 0, "steps");
    snapshot after = all_of(t, dn_trainer_get_params);
    CHECK(memcmp(before.data, after.data, before.count * sizeof(float)) == 0, "parameters changed");
    dn_trainer_discard(t);
    r[3] = 0;
    CHECK(pass(t, &p, x, IMAGES, 0, r, logits) == DN_OK && dn_trainer_commit(t, &sgd, NULL, &err) == DN_OK, "the trainer is unusable: %s", err.message);
    CHECK(dn_alloc_live() == blocks, "a step allocates");
    CHECK(dn_trainer_backward(t, r, NULL, &err) == DN_EINVAL, "backward without forward");
    CHECK(dn_trainer_forward(t, &subnet, x, DN_U8, IMAGES, 0, 0, logits, NULL, &err) == DN_EINVAL, "uint8 without a table");
    CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 2, 0, logits, NULL, &err) == DN_EINVAL, "slot");
    CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, 100, 0, 0, logits, NULL, &err) == DN_EINVAL, "too many images");
    dn_trainer_free(t);
    free(before.data), free(after.data), free(x), free(r);
    end();
}

static int calls[4];
static void count_input(void *context, const dn_hook_call *call) { (void)context, (void)call, __atomic_fetch_add(&calls[0], 1, __ATOMIC_RELAXED); }
static void halve(void *context, const dn_hook_call *call) {
    (void)context, calls[1]++;
    for (int64_t i = 0; i < (int64_t)call->rows * call->columns * call->channels; i++) call->values[i] *= 0.5f;
}
static void double_it(void *context, const dn_hook_call *call) {
    (void)context, __atomic_fetch_add(&calls[2], 1, __ATOMIC_RELAXED);
    for (int64_t i = 0; i < (int64_t)call->rows * call->columns * call->channels; i++) call->values[i] *= 2;
}
static void count_accumulator(void *context, const dn_hook_call *call) {
    double_it(context, call);
    __atomic_fetch_add(&calls[3], 1, __ATOMIC_RELAXED);
}

/* Halving the weights and doubling the sums leaves the output alone; the gradient hook doubles what the layer's own weights get. */
static void check_hooks(void) {
    for (int kind = 0; kind < 3; kind++) {
        int a = op1("relu", conv(stem("hooks", 8), 8, 3, 1));
        if (kind == 1) a = conv(op1("relu", bn(a)), 8, 3, 1);
        if (kind == 2) a = op1("relu", conv(op1("relu", bn(a)), 96, 3, 1)), a = conv(a, 96, 3, 1);
        int where = kind == 0 ? 2 : a;
        head(a);
        finish();
        float *x = random_floats(IMAGES * size_of(0)), *r = random_floats(IMAGES * outputs()), plain[256], hooked[256];
        point p = full_point();
        dn_trainer *t = trainer_for(2, DN_ISA_BEST, 7);
        dn_error err = {0};
        CHECK(pass(t, &p, x, IMAGES, 0, r, plain) == DN_OK, "pass");
        float *g1 = calloc(N.weights[where] + 1, sizeof(float)), *g2 = calloc(N.weights[where] + 1, sizeof(float));
        dn_trainer_get_grads(t, where, g1, NULL);
        dn_trainer_discard(t);
        dn_train_hooks hooks = {count_input, halve, double_it, count_accumulator, NULL};
        CHECK(dn_trainer_set_hooks(t, 0, &hooks, &err) == DN_EINVAL, "hooks on the input");
        CHECK(dn_trainer_set_hooks(t, where, &hooks, &err) == DN_OK, "%s", err.message);
        memset(calls, 0, sizeof calls);
        CHECK(pass(t, &p, x, IMAGES, 0, r, hooked) == DN_OK, "pass");
        dn_trainer_get_grads(t, where, g2, NULL);
        for (size_t i = 0; i < IMAGES * outputs(); i++) CHECK(fabsf(plain[i] - hooked[i]) <= 1e-5f * (1 + fabsf(plain[i])), "kind %d logit %zu: %g, %g", kind, i, (double)plain[i], (double)hooked[i]);
        for (size_t i = 0; i < N.weights[where]; i++) CHECK(fabsf(2 * g1[i] - g2[i]) <= 1e-4f * (1 + fabsf(g2[i])), "kind %d gradient %zu: %g, %g", kind, i, (double)g1[i], (double)g2[i]);
        CHECK(calls[0] == IMAGES && calls[1] == 1 && calls[3] == IMAGES && calls[2] == 2 * IMAGES, "kind %d: %d %d %d %d calls", kind, calls[0], calls[1], calls[2], calls[3]);
        CHECK(dn_trainer_set_hooks(t, where, NULL, &err) == DN_OK, "%s", err.message);
        CHECK(pass(t, &p, x, IMAGES, 0, NULL, hooked) == DN_OK, "pass");
        CHECK(memcmp(plain, hooked, IMAGES * outputs() * sizeof(float)) == 0, "hooks stayed");
        dn_trainer_free(t);
        free(g1), free(g2), free(x), free(r);
        end();
    }
}

/* ---- optimisers against double ---- */

static void check_optimizer(dn_update u) {
    (void)linear(op1("flatten", bn(stem("optimizer", 6))), 5);
    finish();
    float *x = random_floats(IMAGES * size_of(0)), *r = random_floats(IMAGES * outputs()), logits[256];
    point p = full_point();
    dn_trainer *t = trainer_for(1, DN_ISA_BEST, 7);
    snapshot start = all_of(t, dn_trainer_get_params);
    double *w = widen(start.data, start.count), *m = calloc(start.count, sizeof(double)), *v = calloc(start.count, sizeof(double));
    for (int step = 1; step <= 4; step++) {
        CHECK(pass(t, &p, x, IMAGES, 0, r, logits) == DN_OK, "pass");
        snapshot g = all_of(t, dn_trainer_get_grads);
        double norm = 0, reported;
        for (size_t i = 0; i < g.count; i++) norm += (double)g.data[i] * (double)g.data[i];
        norm = sqrt(norm);
        double gain = u.clip_norm > 0 && norm > (double)u.clip_norm ? (double)u.clip_norm / (norm + 1e-6) : 1;
        size_t at = 0;
        for (int n = 0; n < N.count; n++)
            for (size_t k = 0; k < N.weights[n] + N.biases[n]; k++, at++) {
                bool decays = k < N.weights[n] && N.graph->nodes[n].op != DN_OP_BATCHNORM;
                double d = (double)g.data[at] * gain, lr = (double)u.lr, decay = decays ? (double)u.weight_decay : 0;
                if (u.optimizer == DN_SGD) {
                    d += decay * w[at];
                    m[at] = (double)u.momentum * m[at] + d;
                    w[at] -= lr * (u.nesterov ? d + (double)u.momentum * m[at] : m[at]);
                } else {
                    double b1 = (double)u.beta1, b2 = (double)u.beta2;
                    w[at] *= 1 - lr * decay;
                    m[at] = b1 * m[at] + (1 - b1) * d;
                    v[at] = b2 * v[at] + (1 - b2) * d * d;
                    w[at] -= lr / (1 - pow(b1, step)) * m[at] / (sqrt(v[at]) / sqrt(1 - pow(b2, step)) + (double)u.epsilon);
                }
            }
        dn_error err = {0};
        CHECK(dn_trainer_commit(t, &u, &reported, &err) == DN_OK, "%s", err.message);
        CHECK(fabs(reported - norm) <= 1e-9 * norm, "norm %g, not %g", reported, norm);
        snapshot now = all_of(t, dn_trainer_get_params);
        for (size_t i = 0; i < now.count; i++) {
            CHECK(fabs((double)now.data[i] - w[i]) <= 2e-5 * (1 + fabs(w[i])), "step %d parameter %zu: %g, not %g", step, i, (double)now.data[i], w[i]);
            w[i] = (double)now.data[i];
        }
        free(g.data), free(now.data);
    }
    CHECK(dn_trainer_steps(t) == 4, "steps");
    dn_trainer_free(t);
    free(start.data), free(w), free(m), free(v), free(x), free(r);
    end();
}

/* Frozen layers and batch norms stay; running statistics follow the biased variance; uint8 goes through the table. */
static void check_state(void) {
    (void)linear(op1("flatten", op1("relu", bn(conv(op1("relu", bn(stem("state", 6))), 6, 3, 1)))), 5);
    finish();
    uint8_t frozen[MAX_NODES] = {0, 1, 1}, images[IMAGES * 6 * 7 * 3];
    float table[3 * 256], x[IMAGES * 6 * 7 * 3], r[IMAGES * 5], a[IMAGES * 5], b[IMAGES * 5];
    for (int i = 0; i < 3 * 256; i++) table[i] = (float)(i % 256) / 100 - 1;
    for (size_t i = 0; i < sizeof images; i++) images[i] = (uint8_t)guard_below(256), x[i] = table[i % 3 * 256 + images[i]];
    for (int i = 0; i < IMAGES * 5; i++) r[i] = guard_float();
    dn_trainer_options o = {.batch = IMAGES, .threads = 1, .isa = DN_ISA_BEST, .stat_slots = 2, .stat_momentum = 0.25f};
    dn_error err = {0};
    dn_trainer *t;
    point p = full_point();
    dn_subnet subnet = {p.active, NULL, NULL};
    CHECK(dn_trainer_new(&t, N.graph, N.params, frozen, table, &o, &err) == DN_OK, "%s", err.message);
    CHECK(dn_trainer_forward(t, &subnet, images, DN_U8, IMAGES, 1, 0, a, NULL, &err) == DN_OK, "%s", err.message);
    dn_trainer_discard(t);
    CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 1, 0, b, NULL, &err) == DN_OK, "%s", err.message);
    CHECK(memcmp(a, b, sizeof a) == 0, "the table and its values differ");
    CHECK(dn_trainer_backward(t, r, NULL, &err) == DN_OK && dn_trainer_commit(t, &sgd, NULL, &err) == DN_OK, "%s", err.message);
    float w[6 * 27], mean[12], variance[12], gamma[6], beta[6];
    dn_trainer_get_params(t, 1, w, NULL);
    dn_trainer_get_params(t, 2, gamma, beta);
    CHECK(memcmp(w, N.weight[1], sizeof w) == 0 && memcmp(gamma, N.weight[2], sizeof gamma) == 0, "frozen parameters moved");
    dn_trainer_get_params(t, 5, gamma, beta);
    CHECK(memcmp(gamma, N.weight[5], sizeof gamma) != 0, "trained parameters stayed");
    dn_trainer_get_stats(t, 1, mean, variance);
    for (int c = 0; c < 6; c++) CHECK(mean[c] == 0 && variance[c] == 1, "statistics of a frozen batch norm moved");
    for (int c = 6; c < 12; c++) CHECK(mean[c] != 0 && variance[c] != 1 && variance[c] > 0.75f, "statistics stayed: %g %g", (double)mean[c], (double)variance[c]);
    dn_trainer_get_stats(t, 0, mean, variance);
    for (int c = 0; c < 12; c++) CHECK(mean[c] == 0 && variance[c] == 1, "statistics of the other slot moved");
    dn_trainer_free(t);
    end();
}

/* ---- losses, augmentation, halting ---- */

static void check_losses(void) {
    enum { n = 3, k = 4 };
    float logits[n * k] = {1e4f, -1e4f, 3, 2, 0, 0, 0, 0, -2, 5, 1, 0.5f}, teacher[n * k] = {1, 2, 3, 4, 1e4f, 0, 0, -1e4f, 2, 1, 0, -3}, weight[n] = {1, 0, 2}, loss[n], d[n * k], base[n * k];
    int64_t labels[n] = {1, 2, 0}, bad[n] = {0, 4, 0};
    dn_error err = {0};
    CHECK(dn_loss_cross_entropy(logits, labels, NULL, n, k, 0, 1, loss, d, &err) == DN_OK, "%s", err.message);
    CHECK(loss[0] == 2e4f && fabsf(loss[1] - logf(4)) < 1e-6f, "cross entropy %g %g", (double)loss[0], (double)loss[1]);
    CHECK(d[0] == 1.0f / 3 && d[1] == -1.0f / 3 && d[2] == 0, "gradient %g %g", (double)d[0], (double)d[1]);
    CHECK(dn_loss_cross_entropy(logits, bad, NULL, n, k, 0, 1, loss, d, &err) == DN_EINVAL && strstr(err.message, "label 1 is 4"), "%s", err.message);
    for (int kind = 0; kind < 3; kind++)
        for (int i = k; i < n * k; i++) { /* finite differences of mean(loss * weight) * scale, away from the extreme row */
            double up = 0, down = 0;
            float moved[n * k];
            const float h = 1e-2f;
            for (int side = 0; side < 2; side++) {
                memcpy(moved, logits, sizeof moved);
                moved[i] += side ? -h : h;
                if (kind == 0) (void)dn_loss_cross_entropy(moved, labels, weight, n, k, 0.1f, 2, loss, d, &err);
                if (kind == 1) (void)dn_loss_distillation(moved, teacher, weight, n, k, 3, 2, 0, loss, d, &err);
                if (kind == 2) (void)dn_loss_mse(moved, teacher, weight, n, k, 2, loss, d, &err);
                for (int m = 1; m < n; m++) *(side ? &down : &up) += 2.0 / n * (double)weight[m] * (double)loss[m];
            }
            if (kind == 0) (void)dn_loss_cross_entropy(logits, labels, weight, n, k, 0.1f, 2, loss, d, &err);
            if (kind == 1) (void)dn_loss_distillation(logits, teacher, weight, n, k, 3, 2, 0, loss, d, &err);
            if (kind == 2) (void)dn_loss_mse(logits, teacher, weight, n, k, 2, loss, d, &err);
            double wanted = (up - down) / (2 * (double)h);
            CHECK(fabs(wanted - (double)d[i]) <= 2e-3 * (1 + fabs(wanted)), "loss %d element %d: %g, differences say %g", kind, i, (double)d[i], wanted);
        }
    for (int i = 0; i < n * k; i++) base[i] = d[i] = (float)i;
    CHECK(dn_loss_distillation(logits, teacher, NULL, n, k, 2, 1, 1, loss, d, &err) == DN_OK, "%s", err.message);
    float only[n * k];
    CHECK(dn_loss_distillation(logits, teacher, NULL, n, k, 2, 1, 0, loss, only, &err) == DN_OK, "%s", err.message);
    for (int i = 0; i < n * k; i++) CHECK(fabsf(d[i] - base[i] - only[i]) < 1e-5f, "accumulation");
    CHECK(dn_loss_distillation(logits, teacher, NULL, n, k, 0, 1, 0, loss, d, &err) == DN_EINVAL, "temperature 0");
    logits[5] = NAN;
    CHECK(dn_loss_cross_entropy(logits, labels, NULL, n, k, 0, 1, loss, d, &err) == DN_OK && isnan(loss[1]) && !isnan(loss[2]), "NaN must show");
}

/* What is taken out is one square, clipped at the border, of the given colour; nothing else changes. images [4][6][5][2], none of them 0. */
static void check_cutout(const uint8_t *images) {
    enum { h = 6, w = 5, c = 2, n = 64 };
    uint8_t out[n * h * w * c], again[n * h * w * c], colour[c] = {0, 0};
    int64_t index[n];
    int sizes[16] = {0};
    dn_error err = {0};
    for (int i = 0; i < n; i++) index[i] = i % 4;
    for (uint32_t epoch = 0; epoch < 4; epoch++) {
        dn_augment how = {.cutout = 3, .cutout_fill = colour, .seed = 9, .epoch = epoch};
        CHECK(dn_augment_batch(images, 4, h, w, c, index, n, &how, 1, out, &err) == DN_OK && dn_augment_batch(images, 4, h, w, c, index, n, &how, 3, again, &err) == DN_OK, "%s", err.message);
        CHECK(memcmp(out, again, sizeof out) == 0, "threads change cutout");
        for (int i = 0; i < n; i++) {
            int top = h, bottom = -1, left = w, right = -1, gone = 0;
            for (int p = 0; p < h * w; p++) {
                const uint8_t *now = out + (i * h * w + p) * c, *was = images + (index[i] * h * w + p) * c;
                if (memcmp(now, was, c) == 0) continue;
                CHECK(now[0] == 0 && now[1] == 0, "image %d pixel %d is %d", i, p, now[0]);
                gone++;
                top = p / w < top ? p / w : top, bottom = p / w > bottom ? p / w : bottom, left = p % w < left ? p % w : left, right = p % w > right ? p % w : right;
            }
            int high = bottom - top + 1, wide = right - left + 1;
            CHECK(gone == high * wide && high >= 2 && high <= 3 && wide >= 2 && wide <= 3, "image %d: %d pixels of %d x %d", i, gone, high, wide);
            CHECK((high == 3 || top == 0 || bottom == h - 1) && (wide == 3 || left == 0 || right == w - 1), "image %d: cut short inside", i);
            sizes[gone]++;
        }
    }
    CHECK(sizes[9] && sizes[6] && sizes[4], "middles do not reach the border: %d %d %d", sizes[9], sizes[6], sizes[4]);
    colour[0] = 7, colour[1] = 200;
    dn_augment all = {.cutout = 100, .cutout_fill = colour}, bad = {.cutout = -1};
    CHECK(dn_augment_batch(images, 4, h, w, c, index, n, &all, 1, out, &err) == DN_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof out; i++) CHECK(out[i] == colour[i % c], "a square larger than the image leaves %d", out[i]);
    CHECK(dn_augment_batch(images, 4, h, w, c, index, n, &bad, 1, out, &err) == DN_EINVAL && strstr(err.message, "cutout"), "%s", err.message);
}

static void check_augment(void) {
    enum { total = 4, h = 6, w = 5, c = 2, n = 9 };
    uint8_t images[total * h * w * c], one[n * h * w * c], two[n * h * w * c];
    int64_t index[n] = {0, 1, 2, 3, 3, 2, 1, 0, 2};
    for (size_t i = 0; i < sizeof images; i++) images[i] = (uint8_t)(1 + guard_below(255));
    dn_augment none = {.seed = 1}, how = {.flip = 1, .crop = 2, .shift = 1, .fill = 0, .seed = 1, .epoch = 4}, far = {.shift = 100, .seed = 5};
    dn_error err = {0};
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &none, 2, one, &err) == DN_OK, "%s", err.message);
    for (int i = 0; i < n; i++) CHECK(memcmp(one + i * h * w * c, images + index[i] * h * w * c, h * w * c) == 0, "no augmentation changed image %d", i);
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &how, 1, one, &err) == DN_OK && dn_augment_batch(images, total, h, w, c, index, n, &how, 3, two, &err) == DN_OK, "%s", err.message);
    CHECK(memcmp(one, two, sizeof one) == 0, "threads change augmentation");
    CHECK(memcmp(one + 2 * h * w * c, one + 5 * h * w * c, h * w * c) == 0, "randomness is keyed by the image's index");
    int kept = 0;
    for (size_t i = 0; i < sizeof one; i++) kept += one[i] != 0;
    CHECK(kept > (int)sizeof one / 4, "most of the images is gone: %d", kept);
    uint8_t flipped[n];
    dn_augment mirror = {.flip = 1, .seed = 1, .epoch = 4};
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &mirror, 1, two, &err) == DN_OK, "%s", err.message);
    dn_augment_flips(index, n, &mirror, flipped);
    for (int i = 0; i < n; i++) CHECK(flipped[i] == (memcmp(two + i * h * w * c, images + index[i] * h * w * c, h * w * c) != 0), "image %d: flipped is %d", i, flipped[i]);
    check_cutout(images);
    how.epoch = 5;
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &how, 1, two, &err) == DN_OK && memcmp(one, two, sizeof one) != 0, "epochs repeat themselves");
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &far, 1, two, &err) == DN_OK, "%s", err.message);
    index[3] = 4;
    CHECK(dn_augment_batch(images, total, h, w, c, index, n, &none, 1, one, &err) == DN_EINVAL && strstr(err.message, "index 3 is 4"), "%s", err.message);
}

static void check_halting(void) {
    dn_halting rule = {3, 0.01};
    double falling[] = {4, 3, 2, 1.5, 1.2, 1}, flat[] = {4, 3, 2, 1.99, 1.98, 1.99}, nan[] = {4, 3, 2, NAN, NAN, NAN}, trainee[] = {3, 2, 1, 0.9, 0.8, 0.7}, change[] = {1, 0.1, 0.005, 0.004, 0.003};
    CHECK(!dn_halt_training(&rule, falling, 6) && dn_halt_training(&rule, flat, 6) && dn_halt_training(&rule, nan, 6) && !dn_halt_training(&rule, flat, 3), "training");
    CHECK(!dn_halt_trainee(&rule, falling, trainee, 6) && dn_halt_trainee(&rule, trainee, falling, 6) && dn_halt_trainee(&rule, falling, (double[]){1, 0.9, 0.8, 0.8, 0.8, 0.8}, 6) && !dn_halt_trainee(&rule, falling, trainee, 0), "trainee");
    CHECK(dn_halt_teacher(&rule, change, 5) && !dn_halt_teacher(&rule, change, 4) && !dn_halt_teacher(&rule, change, 0), "teacher");
}

/* argument: trials, for where finite differences are slow */
int main(int argc, char **argv) {
    if (argc > 1) trials = atoi(argv[1]);
    check_losses();
    check_augment();
    check_halting();
    check_ops();
    check_winograd();
    residual_net(), check_determinism();
    heavy_net(4), check_determinism();
    check_failures();
    check_hooks();
    check_state();
    check_optimizer(sgd);
    check_optimizer((dn_update){.optimizer = DN_SGD, .lr = 0.1f, .momentum = 0.5f, .weight_decay = 0.01f, .clip_norm = 0.5f});
    check_optimizer((dn_update){.optimizer = DN_ADAMW, .lr = 0.01f, .weight_decay = 0.1f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f});
    return guard_finish("train");
}
