/* check_taps.c - tapped nodes of the trainer: their values against the plain forward pass, gradients that are added to them against finite differences. */
#include "train_oracle.h"

static const float *tap_weights[MAX_NODES]; /* per tap: what its values are multiplied by in the loss, [images][dense size], or NULL */
static int taps[MAX_NODES], tap_count;

static point point_at(int a, int b) {
    point p = {.step = 3, .seed = 7};
    for (int s = 0; s < dn_graph_spaces(N.graph); s++) {
        dn_space_info info, lead;
        dn_graph_space(N.graph, s, &info);
        dn_graph_space(N.graph, info.lead, &lead);
        int units = lead.full / lead.unit;
        p.active[s] = info.elastic ? info.full / units * (units * a / b) : info.full;
    }
    for (int s = 0; s < dn_graph_stages(N.graph); s++) {
        int32_t keep;
        dn_graph_stage(N.graph, s, &p.depth[s], &keep);
    }
    return p;
}

static dn_trainer *trainer_with(int threads) {
    dn_trainer *t;
    dn_error err = {0};
    int32_t nodes[MAX_NODES];
    for (int k = 0; k < tap_count; k++) nodes[k] = taps[k];
    dn_trainer_options o = {.batch = IMAGES, .threads = threads, .isa = DN_ISA_BEST, .stat_slots = 1, .stat_momentum = 0.1f, .seed = 7, .taps = nodes, .tap_count = tap_count};
    dn_status status = dn_trainer_new(&t, N.graph, N.params, NULL, NULL, &o, &err);
    CHECK(status == DN_OK, "%s: %s", N.name, err.message);
    if (!t) exit(1);
    return t;
}

/* Active entries of a node's full values, one after the other. */
static size_t dense(const point *p, int node, const double *full, double *out) {
    bool mask[4096];
    size_t size = size_of(node), count = 0, channels = (size_t)N.graph->nodes[node].channels;
    is_active(p, node, mask);
    for (size_t i = 0; i < IMAGES * size; i++)
        if (mask[i % size % channels]) out[count++] = full[i];
    return count;
}

static double loss_at(const point *p, double *const *w, double *const *b, const float *x, const float *r) {
    double *values[MAX_NODES] = {0}, sum = 0, part[20000];
    ref_keep = values;
    double *logits = ref_forward(p, w, b, x, IMAGES);
    for (size_t i = 0; i < IMAGES * size_of(N.count - 1); i++) sum += logits[i] * (double)r[i];
    for (int k = 0; k < tap_count; k++) {
        if (!tap_weights[k]) continue;
        size_t count = dense(p, taps[k], values[taps[k]], part);
        for (size_t i = 0; i < count; i++) sum += part[i] * (double)tap_weights[k][i];
    }
    for (int i = 0; i < N.count - 1; i++) free(values[i]);
    free(logits);
    ref_keep = NULL;
    return sum;
}

/* The derivative along a random direction of one array of parameters. */
static void check_direction(const point *p, double *const *w, double *const *b, double *array, size_t size, const float *gradient, const float *x, const float *r, int i) {
    double *direction = malloc(size * sizeof(double)), wanted = 0, got = 0, scale = 0.1, h = 1e-6;
    for (size_t k = 0; k < size; k++) direction[k] = (double)guard_float(), got += direction[k] * (double)gradient[k], scale += fabs(direction[k] * (double)gradient[k]);
    for (int side = -1; side <= 1; side += 2) {
        for (size_t k = 0; k < size; k++) array[k] += side * h * direction[k];
        wanted += side * loss_at(p, w, b, x, r) / (2 * h);
        for (size_t k = 0; k < size; k++) array[k] -= side * h * direction[k];
    }
    CHECK(fabs(wanted - got) <= 3e-4 * scale, "%s with %d taps, first %d: node %d (%s): %g, differences say %g", N.name, tap_count, taps[0], i, N.spec[i].op, got, wanted);
    free(direction);
}

static void check_gradients(dn_trainer *t, const point *p, const float *x, const float *r) {
    double *w[MAX_NODES] = {0}, *b[MAX_NODES] = {0};
    for (int i = 0; i < N.count; i++) {
        if (!N.weights[i]) continue;
        w[i] = malloc((N.weights[i] + 1) * sizeof(double)), b[i] = malloc((N.biases[i] + 1) * sizeof(double));
        for (size_t k = 0; k < N.weights[i]; k++) w[i][k] = (double)N.weight[i][k];
        for (size_t k = 0; k < N.biases[i]; k++) b[i][k] = (double)N.bias[i][k];
    }
    for (int i = 0; i < N.count; i++) {
        if (!N.weights[i]) continue;
        float *gw = calloc(N.weights[i] + 1, sizeof(float)), *gb = calloc(N.biases[i] + 1, sizeof(float));
        dn_trainer_get_grads(t, i, gw, gb);
        check_direction(p, w, b, w[i], N.weights[i], gw, x, r, i);
        if (N.biases[i]) check_direction(p, w, b, b[i], N.biases[i], gb, x, r, i);
        free(gw), free(gb);
    }
    for (int i = 0; i < N.count; i++) free(w[i]), free(b[i]);
}

static void check_values(dn_trainer *t, const point *p, const float *x) {
    double *w[MAX_NODES] = {0}, *b[MAX_NODES] = {0}, *values[MAX_NODES] = {0}, part[20000];
    float got[20000];
    dn_error err = {0};
    for (int i = 0; i < N.count; i++) {
        w[i] = malloc((N.weights[i] + 1) * sizeof(double)), b[i] = malloc((N.biases[i] + 1) * sizeof(double));
        for (size_t k = 0; k < N.weights[i]; k++) w[i][k] = (double)N.weight[i][k];
        for (size_t k = 0; k < N.biases[i]; k++) b[i][k] = (double)N.bias[i][k];
    }
    ref_keep = values;
    double *logits = ref_forward(p, w, b, x, IMAGES);
    ref_keep = NULL;
    for (int k = 0; k < tap_count; k++) {
        int32_t shape[3];
        size_t count = dense(p, taps[k], taps[k] == N.count - 1 ? logits : values[taps[k]], part);
        dn_trainer_tap_shape(t, k, shape);
        CHECK((size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * IMAGES == count, "%s: tap %d is %d x %d x %d", N.name, k, shape[0], shape[1], shape[2]);
        CHECK(dn_trainer_tap_read(t, k, got, &err) == DN_OK, "%s", err.message);
        for (size_t i = 0; i < count; i++) CHECK(fabs(part[i] - (double)got[i]) <= 2e-5 * (1 + fabs(part[i])), "%s: tap %d value %zu is %g, not %g", N.name, k, i, (double)got[i], part[i]);
    }
    for (int i = 0; i < N.count; i++) free(w[i]), free(b[i]), free(values[i]);
    free(logits);
}

/* One pass at a point with gradients added to every tap; two threads give the bits of one. */
static void check_point(point p) {
    size_t logits_count = IMAGES * size_of(N.count - 1);
    float *x = malloc(IMAGES * size_of(0) * sizeof(float)), *r = malloc(logits_count * sizeof(float)), *logits = malloc(logits_count * sizeof(float)), *g[MAX_NODES] = {0}, *first[MAX_NODES] = {0};
    dn_error err = {0};
    dn_subnet subnet = {p.active, NULL, p.depth};
    for (size_t i = 0; i < IMAGES * size_of(0); i++) x[i] = 1.5f * guard_float();
    for (size_t i = 0; i < logits_count; i++) r[i] = guard_float();
    for (int k = 0; k < tap_count; k++) {
        g[k] = malloc(IMAGES * size_of(taps[k]) * sizeof(float));
        for (size_t i = 0; i < IMAGES * size_of(taps[k]); i++) g[k][i] = guard_float();
        tap_weights[k] = g[k];
    }
    memset(logits, 0, logits_count * sizeof(float));
    for (int threads = 1; threads <= 2; threads++) {
        dn_trainer *t = trainer_with(threads);
        CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 0, p.step, logits, NULL, &err) == DN_OK, "%s: %s", N.name, err.message);
        if (threads == 1) check_values(t, &p, x);
        for (int k = 0; k < tap_count; k++) CHECK(dn_trainer_tap_add(t, k, g[k], &err) == DN_OK, "%s", err.message);
        CHECK(dn_trainer_backward(t, r, NULL, &err) == DN_OK, "%s", err.message);
        if (threads == 1) check_gradients(t, &p, x, r);
        for (int i = 0; i < N.count; i++) {
            if (!N.weights[i]) continue;
            float *gw = calloc(N.weights[i] + 1, sizeof(float));
            dn_trainer_get_grads(t, i, gw, NULL);
            if (threads == 2) CHECK(memcmp(gw, first[i], N.weights[i] * sizeof(float)) == 0, "%s: threads change the gradient of node %d", N.name, i);
            if (threads == 2) free(gw);
            else first[i] = gw;
        }
        dn_trainer_free(t);
    }
    for (int i = 0; i < N.count; i++) free(first[i]), free(g[i]);
    free(x), free(r), free(logits);
}

static void check_net(void) {
    finish();
    for (int i = 1; i <= N.count; i++) { /* one tap after the other, then all */
        tap_count = 0;
        for (int k = i == N.count ? 1 : i; k < (i == N.count ? N.count - 1 : i + 1); k++)
            if (strcmp(N.spec[k].op, "flatten") != 0 && k < N.count - 1) taps[tap_count++] = k;
        if (!tap_count) continue;
        check_point(point_at(1, 1));
        if (i == N.count) check_point(point_at(1, 2));
    }
    end();
}

static void block(int *a, int channels, int stage, int number) {
    int first = N.count, x = *a;
    int c = op1("relu", bn(conv(x, channels, 3, 1)));
    *a = op1("relu", op2("add", bn(conv(c, channels, 3, 1)), x));
    for (int i = first; i < N.count; i++) N.spec[i].stage = stage, N.spec[i].block = number;
}

static void blocks(void) {
    begin("residual blocks", 5, 4, 3);
    int a = op1("relu", bn(conv(0, 8, 3, 1)));
    block(&a, 8, 0, 0);
    block(&a, 8, 0, 1);
    (void)linear(op1("global_avg_pool", op1("relu", bn(conv(a, 12, 3, 2)))), 5);
}

/* What a tap refuses, and that a gradient counts for one pass only. */
static void check_refusals(void) {
    blocks();
    finish();
    taps[0] = 13, taps[1] = 3, tap_count = 2; /* in the second block; before both */
    dn_error err = {0};
    dn_trainer *t = trainer_with(2);
    point p = point_at(1, 1);
    p.depth[0] = 1; /* the second block is left out */
    dn_subnet subnet = {p.active, NULL, p.depth};
    float *x = calloc(IMAGES * size_of(0), sizeof(float)), *room = calloc(IMAGES * 1000, sizeof(float)), logits[IMAGES * 5], r[IMAGES * 5] = {1};
    int32_t shape[3] = {9, 9, 9};
    dn_trainer_tap_shape(t, 1, shape);
    CHECK(shape[0] == 0 && dn_trainer_tap_read(t, 1, room, &err) == DN_EINVAL && strstr(err.message, "tap 1"), "before a pass: %s", err.message);
    CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 0, 0, logits, NULL, &err) == DN_OK, "%s", err.message);
    dn_trainer_tap_shape(t, 0, shape);
    CHECK(shape[0] == 0 && shape[2] == 0 && dn_trainer_tap_read(t, 0, room, &err) == DN_EINVAL && dn_trainer_tap_add(t, 0, room, &err) == DN_EINVAL, "a block that is left out");
    CHECK(dn_trainer_tap_add(t, 2, room, &err) == DN_EINVAL && dn_trainer_tap_add(t, -1, room, &err) == DN_EINVAL, "a tap that is not there");
    CHECK(dn_trainer_tap_add(t, 1, room, &err) == DN_OK && dn_trainer_backward(t, r, NULL, &err) == DN_OK, "%s", err.message);
    float *one = calloc(N.weights[1] + 1, sizeof(float)), *two = calloc(N.weights[1] + 1, sizeof(float));
    for (int i = 0; i < IMAGES * 100; i++) room[i] = 3;
    for (int k = 0; k < 2; k++) { /* the second pass has no addition */
        dn_trainer_discard(t);
        CHECK(dn_trainer_forward(t, &subnet, x, DN_F32, IMAGES, 0, 0, logits, NULL, &err) == DN_OK, "%s", err.message);
        if (k == 0) CHECK(dn_trainer_tap_add(t, 1, NULL, &err) == DN_OK, "%s", err.message);
        CHECK(dn_trainer_backward(t, r, NULL, &err) == DN_OK, "%s", err.message);
        dn_trainer_get_grads(t, 1, k ? two : one, NULL);
    }
    CHECK(memcmp(one, two, N.weights[1] * sizeof(float)) == 0, "a gradient outlives its pass");
    dn_trainer_free(t);
    dn_trainer *none = NULL;
    dn_trainer_options o = {.batch = IMAGES, .threads = 1, .isa = DN_ISA_BEST, .taps = (int32_t[]){0}, .tap_count = 1};
    CHECK(dn_trainer_new(&none, N.graph, N.params, NULL, NULL, &o, &err) == DN_EINVAL && strstr(err.message, "tap 0 is node 0"), "%s", err.message);
    free(x), free(room), free(one), free(two);
    end();
}

int main(void) {
    blocks();
    check_net();
    begin("layers alone", 5, 4, 3);
    int a = op1("relu6", conv_full(0, 12, 3, 1, 1, 1, 1, 1));
    a = op1("hardswish", conv_full(a, 12, 3, 1, 1, 12, 1, 1));
    a = pool("max_pool", a, 2, 2, 0);
    (void)linear(op1("relu", bn(linear(op1("flatten", op2("concat", a, conv(a, 6, 1, 1))), 16))), 5);
    check_net();
    begin("heavy", 3, 3, 3);
    (void)linear(op1("global_avg_pool", op1("relu", bn(conv(op1("relu", conv(0, 96, 3, 1)), 96, 3, 1)))), 5);
    check_net();
    check_refusals();
    return guard_finish("taps");
}
