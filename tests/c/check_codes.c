/* check_codes.c - fake quantisation in the trainer: without scales nothing changes, with them every thread count gives the same bits, gradients stop where tensors were clipped. */
#include "train_oracle.h"

enum { CASES = 9 };

static dn_trainer *trainer_for(int threads, const uint8_t *coded) {
    dn_trainer *t;
    dn_error err = {0};
    dn_trainer_options o = {.batch = IMAGES, .threads = threads, .isa = DN_ISA_BEST, .stat_slots = 1, .stat_momentum = 0.1f, .seed = 7, .coded = coded, .learns_scales = 1};
    CHECK(dn_trainer_new(&t, N.graph, N.params, NULL, NULL, &o, &err) == DN_OK, "%s: %s", N.name, err.message);
    if (!t) exit(1);
    return t;
}

static point point_of(int part) {
    point p = {.step = 3, .seed = 7};
    for (int s = 0; s < dn_graph_spaces(N.graph); s++) {
        dn_space_info info;
        dn_graph_space(N.graph, s, &info);
        p.active[s] = info.elastic && info.full % 2 == 0 && info.unit == 1 ? info.full / part : info.full;
    }
    return p;
}

static int stem(const char *name, int channels) {
    begin(name, 6, 7, 3);
    return conv(0, channels, 3, 1);
}

/* Networks in which a coded tensor meets every way a tensor is made and read. */
static void make(int which) {
    int a, b;
    switch (which) {
    case 0:
        a = op1("relu", bn(stem("residual", 8)));
        b = op1("relu", bn(conv(a, 8, 3, 1)));
        a = op1("relu", op2("add", bn(conv(b, 8, 3, 1)), a));
        (void)linear(op1("global_avg_pool", op1("relu", op2("add", bn(conv(a, 12, 3, 2)), bn(conv(a, 12, 1, 2))))), 5);
        break;
    case 1: head(conv(valued("leaky_relu", bn(stem("leaky", 8)), 0.1f), 6, 3, 1)); break;
    case 2: head(conv(op1("hardswish", bn(stem("hardswish", 8))), 6, 3, 1)); break;
    case 3:
        a = op1("relu6", bn(stem("depthwise", 12)));
        a = op1("relu6", bn(conv_full(a, 12, 3, 2, 1, 12, 1, 0)));
        head(op1("relu", conv_full(a, 8, 1, 1, 0, 1, 1, 1)));
        break;
    case 4:
        a = op1("relu", stem("gate", 8));
        b = op1("sigmoid", conv_full(op1("global_avg_pool", a), 8, 1, 1, 0, 1, 1, 1));
        head(op2("concat", op2("mul", a, b), op1("hardsigmoid", a)));
        break;
    case 5: head(pool("avg_pool", pool("max_pool", op1("relu", bn(stem("pools", 8))), 3, 1, 1), 2, 2, 0)); break;
    case 6:
        begin("heavy", 3, 4, 3);
        head(op1("relu", bn(conv(op1("relu", bn(conv(0, 96, 3, 1))), 96, 3, 1))));
        break;
    case 7:
        begin("features", 1, 1, 13);
        (void)linear(op1("relu", linear(op1("relu", bn(linear(0, 20))), 18)), 4);
        break;
    case 8:
        a = stem("batch norms of one tensor", 6);
        head(op2("add", bn(a), op1("relu", bn(a))));
        break;
    }
    finish();
}

static size_t outputs(void) { return size_of(N.count - 1); }

static float *random_floats(size_t n) {
    float *x = malloc((n + 1) * sizeof(float));
    for (size_t i = 0; i < n; i++) x[i] = guard_float() * 1.5f;
    return x;
}

static int8_t bits[MAX_NODES];

static void pass(dn_trainer *t, const point *p, bool coding, const float *x, const float *r, float *logits) {
    dn_error err = {0};
    dn_subnet subnet = {p->active, coding ? bits : NULL, NULL};
    dn_status status = dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 0, p->step, logits, NULL, &err);
    if (status == DN_OK) status = dn_trainer_backward(t, r, NULL, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
}

static float *gradients(const dn_trainer *t, size_t *count) {
    size_t n = 0, at = 0;
    for (int i = 0; i < N.count; i++) n += N.weights[i] + N.biases[i];
    float *g = calloc(n + 1, sizeof(float));
    for (int i = 0; i < N.count; i++)
        if (N.weights[i]) dn_trainer_get_grads(t, i, g + at, N.biases[i] ? g + at + N.weights[i] : NULL), at += N.weights[i] + N.biases[i];
    return *count = n, g;
}

static void all_coded(uint8_t *coded) {
    for (int i = 0; i < N.count; i++) {
        const dn_op op = N.graph->nodes[i].op;
        coded[i] = op != DN_OP_FLATTEN && op != DN_OP_MAX_POOL && i < N.count - 1;
        bits[i] = (int8_t[]){8, 4, 3, 2}[i % 4];
    }
}

static void give_scales(dn_trainer *t, float scale) {
    dn_error err = {0};
    float scales[MAX_NODES], channel[256];
    for (int i = 0; i < N.count; i++) scales[i] = scale;
    for (int i = 0; i < 256; i++) channel[i] = 0.004f + 0.0001f * (float)i;
    for (int i = 0; i < N.count; i++)
        if (t->layer_of[i] >= 0) CHECK(dn_trainer_set_code_scale(t, i, channel, 95, &err) == DN_OK, "%s", err.message);
    CHECK(dn_trainer_set_scales(t, scales, &err) == DN_OK, "%s", err.message);
}

/* Coded tensors without scales are stored and split off other units, but every number is the same. */
static void check_identity(const point *p, const uint8_t *coded, const float *x, const float *r) {
    float one[256], two[256];
    size_t n;
    dn_trainer *a = trainer_for(2, NULL), *b = trainer_for(2, coded);
    pass(a, p, false, x, r, one), pass(b, p, true, x, r, two);
    CHECK(memcmp(one, two, IMAGES * outputs() * sizeof(float)) == 0, "%s: other logits", N.name);
    double *w[MAX_NODES] = {0}, *v[MAX_NODES] = {0};
    for (int i = 0; i < N.count; i++) {
        w[i] = calloc(N.weights[i] + 1, sizeof(double)), v[i] = calloc(N.biases[i] + 1, sizeof(double));
        for (size_t k = 0; k < N.weights[i]; k++) w[i][k] = (double)N.weight[i][k];
        for (size_t k = 0; k < N.biases[i]; k++) v[i][k] = (double)N.bias[i][k];
    }
    double *wanted = ref_forward(p, w, v, x, IMAGES);
    for (size_t i = 0; i < IMAGES * outputs(); i++) CHECK(fabs(wanted[i] - (double)two[i]) <= 2e-5 * (1 + fabs(wanted[i])), "%s: logit %zu is %g, not %g", N.name, i, (double)two[i], wanted[i]);
    for (int i = 0; i < N.count; i++) free(w[i]), free(v[i]);
    free(wanted);
    float *g = gradients(a, &n), *h = gradients(b, &n);
    for (size_t i = 0; i < n; i++) CHECK(fabsf(g[i] - h[i]) <= 1e-5f * (1 + fabsf(g[i])), "%s: gradient %zu is %g, not %g", N.name, i, (double)h[i], (double)g[i]);
    free(g), free(h);
    dn_trainer_free(a), dn_trainer_free(b);
}

static void check_threads(const point *p, const uint8_t *coded, const float *x, const float *r) {
    float one[256], two[256], peak1[MAX_NODES], peak2[MAX_NODES];
    double slope1[MAX_NODES], slope2[MAX_NODES];
    size_t n;
    dn_trainer *a = trainer_for(1, coded), *b = trainer_for(3, coded);
    give_scales(a, 0.02f), give_scales(b, 0.02f);
    pass(a, p, true, x, r, one), pass(b, p, true, x, r, two);
    float *g = gradients(a, &n), *h = gradients(b, &n), *plain = NULL;
    CHECK(memcmp(one, two, IMAGES * outputs() * sizeof(float)) == 0 && memcmp(g, h, n * sizeof(float)) == 0, "%s: three threads give other bits", N.name);
    dn_trainer_get_peaks(a, peak1), dn_trainer_get_peaks(b, peak2);
    dn_trainer_get_slopes(a, slope1), dn_trainer_get_slopes(b, slope2);
    CHECK(memcmp(peak1, peak2, (size_t)N.count * sizeof(float)) == 0 && memcmp(slope1, slope2, (size_t)N.count * sizeof(double)) == 0, "%s: three threads see other ranges", N.name);
    CHECK(peak1[0] > 0 && slope1[N.count - 1] == 0, "%s: ranges", N.name);
    for (int i = 0; i < N.count; i++) {
        size_t floats;
        const float *v = dn_trainer_tensor(a, i, &floats);
        for (size_t k = 0; coded[i] && v && k < IMAGES * floats; k++) CHECK(fabsf(v[k] / 0.02f - rintf(v[k] / 0.02f)) < 1e-3f, "%s: node %d holds %g", N.name, i, (double)v[k]);
    }
    dn_trainer_discard(b);
    pass(b, p, false, x, r, two); /* without bits weights and tensors are what they were */
    dn_trainer *c = trainer_for(1, NULL);
    pass(c, p, false, x, r, one);
    plain = gradients(c, &n);
    free(h), h = gradients(b, &n);
    CHECK(memcmp(one, two, IMAGES * outputs() * sizeof(float)) == 0, "%s: a float pass is not one", N.name);
    for (size_t i = 0; i < n; i++) CHECK(fabsf(plain[i] - h[i]) <= 1e-5f * (1 + fabsf(plain[i])), "%s: float gradient %zu", N.name, i);
    free(g), free(h), free(plain);
    dn_trainer_free(a), dn_trainer_free(b), dn_trainer_free(c);
}

/* With a range of next to nothing every value but zero is clipped, and no gradient passes any tensor. */
static void check_clipping(const point *p, const uint8_t *coded, const float *x, const float *r) {
    float logits[256];
    size_t n, last = 0;
    dn_trainer *t = trainer_for(2, coded);
    give_scales(t, 1e-9f);
    pass(t, p, true, x, r, logits);
    float *g = gradients(t, &n);
    for (int i = 0; i < N.count - 1; i++) last += N.weights[i] + N.biases[i];
    for (size_t i = 0; i < last; i++) CHECK(fabsf(g[i]) < 1e-6f, "%s: gradient %zu is %g", N.name, i, (double)g[i]);
    free(g);
    dn_trainer_free(t);
}

static void check_failures(const uint8_t *coded) {
    dn_error err = {0};
    dn_trainer *t;
    for (int k = 1;; k++) {
        dn_trainer_options o = {.batch = IMAGES, .threads = 1, .isa = DN_ISA_BEST, .stat_slots = 1, .coded = coded};
        int64_t before = dn_alloc_live();
        dn_alloc_fail_at(k);
        dn_status status = dn_trainer_new(&t, N.graph, N.params, NULL, NULL, &o, &err);
        bool reached = dn_alloc_fail_left() == 0;
        dn_alloc_fail_at(0);
        CHECK(status == (reached ? DN_ENOMEM : DN_OK), "allocation %d", k);
        dn_trainer_free(t);
        CHECK(dn_alloc_live() == before, "allocation %d leaks", k);
        if (!reached) break;
    }
    t = trainer_for(1, coded);
    float scales[MAX_NODES] = {0}, channel[256] = {0};
    CHECK(dn_trainer_set_code_scale(t, 1, channel, 95, &err) == DN_EINVAL, "a scale of 0");
    channel[0] = NAN;
    CHECK(dn_trainer_set_code_scale(t, 1, channel, 95, &err) == DN_EINVAL, "a scale of NaN");
    for (int i = 0; i < 256; i++) channel[i] = 1;
    CHECK(dn_trainer_set_code_scale(t, 0, channel, 95, &err) == DN_EINVAL && dn_trainer_set_code_scale(t, 1, channel, 128, &err) == DN_EINVAL, "a node without weights, a code beyond int8");
    scales[0] = -1;
    CHECK(dn_trainer_set_scales(t, scales, &err) == DN_EINVAL, "a negative scale");
    scales[0] = INFINITY;
    CHECK(dn_trainer_set_scales(t, scales, &err) == DN_EINVAL, "an infinite scale");
    dn_trainer_free(t);
}

int main(void) {
    for (int which = 0; which < CASES; which++) {
        make(which);
        uint8_t coded[MAX_NODES];
        all_coded(coded);
        float *x = random_floats(IMAGES * size_of(0)), *r = random_floats(IMAGES * outputs());
        for (int part = 1; part <= 2; part++) {
            const point p = point_of(part);
            check_identity(&p, coded, x, r);
            check_threads(&p, coded, x, r);
            check_clipping(&p, coded, x, r);
        }
        if (which == 0) check_failures(coded);
        free(x), free(r);
        end();
    }
    return guard_finish("codes");
}
