/* net.h - builds random networks for the C tests: nodes, then parameters; one network at a time, in N. */
#ifndef DN_TEST_NET_H
#define DN_TEST_NET_H

#include "guard.h"

#include "dynadnn.h"

enum { MAX_NODES = 40, OUTPUTS = 5 };

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

static inline int32_t pick(int low, int high) { return low + guard_below(high - low + 1); }

static inline void begin(const char *name) {
    memset(&N, 0, sizeof N);
    N.name = name;
    N.count = 1;
    N.height = pick(7, 13), N.width = pick(7, 13), N.channels = pick(1, 5);
    N.spec[0] = (dn_node_spec){.op = "input", .name = "input", .height = N.height, .width = N.width, .channels = N.channels, .stage = -1};
}

static inline dn_node_spec *node(const char *op, int32_t a, int32_t b) {
    dn_node_spec *s = &N.spec[N.count];
    *s = (dn_node_spec){.op = op, .name = op, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .groups = 1, .stage = -1};
    N.inputs[N.count][0] = a;
    N.inputs[N.count][1] = b;
    s->inputs = N.inputs[N.count];
    s->input_count = b < 0 ? 1 : 2;
    N.count++;
    return s;
}

static inline int32_t op1(const char *op, int32_t a) { return node(op, a, -1), N.count - 1; }
static inline int32_t op2(const char *op, int32_t a, int32_t b) { return node(op, a, b), N.count - 1; }
static inline int32_t valued(const char *op, int32_t a, float value) { return node(op, a, -1)->value = value, N.count - 1; }

static inline void square(dn_node_spec *s, int32_t kernel, int32_t stride, int32_t pad) {
    for (int i = 0; i < 2; i++) s->kernel[i] = kernel, s->stride[i] = stride;
    for (int i = 0; i < 4; i++) s->pad[i] = pad;
}

static inline int32_t pool(const char *op, int32_t a, int32_t kernel, int32_t stride, int32_t pad) { return square(node(op, a, -1), kernel, stride, pad), N.count - 1; }

static inline int32_t conv(int32_t a, int32_t channels, int32_t kernel, int32_t stride, int32_t groups, int32_t dilation) {
    dn_node_spec *s = node("conv2d", a, -1);
    square(s, kernel, stride, kernel / 2 * dilation);
    s->channels = channels, s->groups = groups, s->dilation[0] = s->dilation[1] = dilation, s->bias = guard_below(2);
    return N.count - 1;
}

static inline int32_t norm(int32_t a) { return valued("batchnorm", a, 1e-3f); }
static inline int32_t block(int32_t a, int32_t channels, int32_t kernel, int32_t stride) { return op1("relu", norm(conv(a, channels, kernel, stride, 1, 1))); }
static inline void head(int32_t a) {
    dn_node_spec *s = node("linear", op1("flatten", a), -1);
    s->channels = OUTPUTS, s->bias = 1;
}

/* ---- parameters ---- */

static inline float *floats(size_t n, float middle, float reach) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = middle + reach * guard_float();
    return x;
}

static inline void fill(int32_t i, int quantised) {
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

/* quantised: 0 all float, 1 all int8, 2 the last layer is left in float. groups: incremental channel groups of the whole network. */
static inline int finish(int quantised, int32_t groups) {
    dn_error err = {0};
    CHECK(dn_graph_new(&N.graph, N.spec, N.count, N.count - 1, groups, &err) == DN_OK, "%s: %s", N.name, err.message);
    if (!N.graph) return 0;
    for (int32_t i = 0; i < N.count; i++) fill(i, quantised == 1 || (quantised == 2 && i < N.count - 1));
    N.input_table = floats((size_t)N.channels * 256, 0, 0);
    for (int i = 0; i < N.channels * 256; i++) N.input_table[i] = (float)(i % 256 - 100 - i / 256) * 0.02f;
    return 1;
}

static inline void free_net(void) {
    dn_graph_free(N.graph);
    for (int32_t i = 0; i < N.count; i++) {
        for (int k = 0; k < 3; k++) free(N.floats[i][k]);
        free(N.codes[i]);
    }
    free(N.input_table);
}

#endif
