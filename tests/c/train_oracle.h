/* train_oracle.h - small networks for the trainer's tests, and their forward pass in double, written for reading. */
#ifndef DN_TEST_TRAIN_ORACLE_H
#define DN_TEST_TRAIN_ORACLE_H

#include "guard.h"

#include <float.h>
#include <math.h>

#include "base/rng.h"
#include "train/train.h"

enum { MAX_NODES = 64, IMAGES = 5, TRIALS = 7 };
static int trials = TRIALS; /* entries of a parameter array that finite differences are taken of; so many are drawn in any case, and the networks stay the same */

/* ---- networks ---- */

typedef struct net {
    dn_node_spec spec[MAX_NODES];
    int32_t inputs[MAX_NODES][8];
    int32_t map[MAX_NODES][64];
    int count, groups;
    const char *name;
    dn_graph *graph;
    dn_params params[MAX_NODES];
    float *weight[MAX_NODES], *bias[MAX_NODES];
    size_t weights[MAX_NODES], biases[MAX_NODES];
} net;

static net N;

static void begin(const char *name, int h, int w, int c) {
    memset(&N, 0, sizeof N);
    N.name = name;
    N.groups = 1;
    N.count = 1;
    N.spec[0] = (dn_node_spec){.op = "input", .name = "x", .height = h, .width = w, .channels = c, .stage = -1};
}

static dn_node_spec *node(const char *op, int a, int b) {
    dn_node_spec *s = &N.spec[N.count];
    *s = (dn_node_spec){.op = op, .name = op, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .groups = 1, .stage = -1};
    N.inputs[N.count][0] = a;
    N.inputs[N.count][1] = b;
    s->inputs = N.inputs[N.count];
    s->input_count = b < 0 ? 1 : 2;
    N.count++;
    return s;
}
static int op1(const char *op, int a) { return node(op, a, -1), N.count - 1; }
static int op2(const char *op, int a, int b) { return node(op, a, b), N.count - 1; }
static int valued(const char *op, int a, float value) { return node(op, a, -1)->value = value, N.count - 1; }
static int bn(int a) { return valued("batchnorm", a, 1e-3f); }
static int conv_full(int a, int channels, int k, int stride, int pad, int groups, int dilation, int bias) {
    dn_node_spec *s = node("conv2d", a, -1);
    s->channels = channels, s->kernel[0] = s->kernel[1] = k, s->stride[0] = s->stride[1] = stride, s->groups = groups, s->dilation[0] = s->dilation[1] = dilation, s->bias = bias;
    for (int i = 0; i < 4; i++) s->pad[i] = pad;
    return N.count - 1;
}
static int conv(int a, int channels, int k, int stride) { return conv_full(a, channels, k, stride, k / 2, 1, 1, 0); }
static int linear(int a, int channels) {
    dn_node_spec *s = node("linear", a, -1);
    s->channels = channels, s->bias = 1;
    return N.count - 1;
}
static int head(int a) { return linear(op1("flatten", a), 5); }
static int pool(const char *op, int a, int k, int stride, int pad) {
    dn_node_spec *s = node(op, a, -1);
    s->kernel[0] = s->kernel[1] = k, s->stride[0] = s->stride[1] = stride;
    for (int i = 0; i < 4; i++) s->pad[i] = pad;
    return N.count - 1;
}

static void finish(void) {
    dn_error err = {0};
    CHECK(dn_graph_new(&N.graph, N.spec, N.count, N.count - 1, N.groups, &err) == DN_OK, "%s: %s", N.name, err.message);
    if (!N.graph) exit(1);
    for (int i = 0; i < N.count; i++) {
        dn_tensor_info t;
        dn_graph_tensor(N.graph, i, &t);
        N.weights[i] = (size_t)t.weights, N.biases[i] = (size_t)t.biases;
        if (!t.weights) continue;
        N.weight[i] = calloc(N.weights[i] + 1, sizeof(float));
        N.bias[i] = calloc(N.biases[i] + 1, sizeof(float));
        const dn_node *n = &N.graph->nodes[i];
        float size = n->op == DN_OP_BATCHNORM ? 0.5f : 1.4f / sqrtf((float)t.weights / (float)n->channels);
        for (size_t k = 0; k < N.weights[i]; k++) N.weight[i][k] = guard_float() * size + (n->op == DN_OP_BATCHNORM ? 1 : 0);
        for (size_t k = 0; k < N.biases[i]; k++) N.bias[i][k] = guard_float() * 0.5f;
        N.params[i] = (dn_params){.weight = N.weight[i], .bias = t.biases ? N.bias[i] : NULL};
    }
}

static void end(void) {
    dn_graph_free(N.graph);
    for (int i = 0; i < N.count; i++) free(N.weight[i]), free(N.bias[i]);
}

/* ---- the oracle: full width, inactive channels zero, everything in double ---- */

typedef struct point {
    int32_t active[MAX_NODES], depth[8];
    uint64_t step, seed;
} point;

static size_t size_of(int i) { return (size_t)N.graph->nodes[i].height * (size_t)N.graph->nodes[i].width * (size_t)N.graph->nodes[i].channels; }

static void is_active(const point *p, int i, bool *mask) {
    dn_channels ranges[64];
    dn_graph_channels(N.graph, p->active, i, ranges);
    memset(mask, 0, (size_t)N.graph->nodes[i].channels);
    for (int r = 0; r < N.graph->nodes[i].segment_count; r++)
        for (int c = 0; c < ranges[r].count; c++) mask[ranges[r].begin + c] = true;
}

#define AT(t, node, y, x, c) (t)[((size_t)(y) * (size_t)(node)->width + (size_t)(x)) * (size_t)(node)->channels + (size_t)(c)]

static void ref_conv(const dn_node *n, const dn_node *in, const double *w, const double *b, const double *x, double *y) {
    int group_in = in->channels / n->groups, group_out = n->channels / n->groups;
    for (int oy = 0; oy < n->height; oy++)
        for (int ox = 0; ox < n->width; ox++)
            for (int o = 0; o < n->channels; o++) {
                double sum = n->has_bias ? b[o] : 0;
                for (int kh = 0; kh < n->kernel_h; kh++)
                    for (int kw = 0; kw < n->kernel_w; kw++) {
                        int iy = oy * n->stride_h + kh * n->dilation_h - n->pad_top, ix = ox * n->stride_w + kw * n->dilation_w - n->pad_left;
                        if (iy < 0 || ix < 0 || iy >= in->height || ix >= in->width) continue;
                        for (int c = 0; c < group_in; c++)
                            sum += AT(x, in, iy, ix, o / group_out * group_in + c) * w[((size_t)(o * n->kernel_h + kh) * (size_t)n->kernel_w + (size_t)kw) * (size_t)group_in + (size_t)c];
                    }
                AT(y, n, oy, ox, o) = sum;
            }
}

static void ref_pool(const dn_node *n, const dn_node *in, const double *x, double *y) {
    for (int oy = 0; oy < n->height; oy++)
        for (int ox = 0; ox < n->width; ox++)
            for (int c = 0; c < n->channels; c++) {
                int y0 = oy * n->stride_h - n->pad_top, y1 = y0 + n->kernel_h, x0 = ox * n->stride_w - n->pad_left, x1 = x0 + n->kernel_w, count = 0;
                if (n->op == DN_OP_ADAPTIVE_AVG_POOL) {
                    y0 = oy * in->height / n->height, y1 = ((oy + 1) * in->height + n->height - 1) / n->height;
                    x0 = ox * in->width / n->width, x1 = ((ox + 1) * in->width + n->width - 1) / n->width;
                }
                double sum = 0, top = -DBL_MAX;
                for (int iy = y0; iy < y1; iy++)
                    for (int ix = x0; ix < x1; ix++) {
                        if (iy < 0 || ix < 0 || iy >= in->height || ix >= in->width) continue;
                        sum += AT(x, in, iy, ix, c), count++;
                        if (AT(x, in, iy, ix, c) > top) top = AT(x, in, iy, ix, c);
                    }
                AT(y, n, oy, ox, c) = n->op == DN_OP_MAX_POOL ? top : sum / count;
            }
}

static void ref_norm(const dn_node *n, size_t images, const double *gamma, const double *beta, const double *x, double *y) {
    size_t pixels = images * (size_t)n->height * (size_t)n->width, channels = (size_t)n->channels;
    for (size_t c = 0; c < channels; c++) {
        double mean = 0, variance = 0;
        for (size_t p = 0; p < pixels; p++) mean += x[p * channels + c];
        mean /= (double)pixels;
        for (size_t p = 0; p < pixels; p++) variance += (x[p * channels + c] - mean) * (x[p * channels + c] - mean);
        variance /= (double)pixels;
        for (size_t p = 0; p < pixels; p++) y[p * channels + c] = (x[p * channels + c] - mean) / sqrt(variance + (double)n->value) * gamma[c] + beta[c];
    }
}

static double act(dn_op op, double v, double slope) {
    double t = v / 6 + 0.5;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    if (op == DN_OP_RELU) return v > 0 ? v : 0;
    if (op == DN_OP_RELU6) return v < 0 ? 0 : v > 6 ? 6 : v;
    if (op == DN_OP_LEAKY_RELU) return v > 0 ? v : v * slope;
    if (op == DN_OP_HARDSWISH) return v * t;
    if (op == DN_OP_SIGMOID) return 1 / (1 + exp(-v));
    return t;
}

/* Dropout keeps what the trainer keeps: positions count active channels only. */
static void ref_dropout(const dn_node *n, int index, const point *p, size_t image, const bool *mask, const double *x, double *y) {
    dn_rng rng = {p->seed, DN_STREAM_DROPOUT, (uint32_t)p->step};
    uint32_t e = 0, r[4];
    for (size_t i = 0; i < size_of(index); i++) {
        if (!mask[i % (size_t)n->channels]) continue;
        dn_rng_block(&rng, (uint64_t)index << 48 ^ (p->step >> 32) << 32 ^ image, e / 4, r);
        y[i] = (double)r[e % 4] >= (double)n->value * 0x1p32 ? x[i] / (1 - (double)n->value) : 0;
        e++;
    }
}

/* w[i], b[i]: parameters in double. Returns logits [images][outputs], to be freed. */
static double **ref_keep; /* if not NULL: takes the values of every node but the last, [images][size], 0 where not active */
static double *ref_forward(const point *p, double *const *w, double *const *b, const float *input, size_t images) {
    double *t[MAX_NODES] = {0};
    int32_t alias[MAX_NODES];
    bool skip[MAX_NODES], mask[4096];
    dn_graph_resolve(N.graph, p->depth, alias, skip);
    for (int i = 0; i < N.count; i++) {
        const dn_node *n = &N.graph->nodes[i];
        size_t size = size_of(i);
        t[i] = calloc(images * size + 1, sizeof(double));
        if (alias[i] != i) memcpy(t[i], t[alias[i]], images * size * sizeof(double));
        if (skip[i]) continue;
        int a = n->input_count ? n->inputs[0] : 0, second = n->input_count > 1 ? n->inputs[1] : 0;
        const dn_node *in = &N.graph->nodes[a];
        is_active(p, i, mask);
        if (n->op == DN_OP_BATCHNORM) ref_norm(n, images, w[i], b[i], t[a], t[i]);
        for (size_t m = 0; m < images; m++) {
            const double *x = t[a] + m * size_of(a), *z = t[second] + m * size_of(second);
            double *y = t[i] + m * size;
            switch (n->op) {
            case DN_OP_INPUT:
                for (size_t k = 0; k < size; k++) y[k] = (double)input[m * size + k];
                break;
            case DN_OP_CONV2D:
            case DN_OP_LINEAR: ref_conv(n, in, w[i], b[i], x, y); break;
            case DN_OP_BATCHNORM: break;
            case DN_OP_RELU:
            case DN_OP_RELU6:
            case DN_OP_LEAKY_RELU:
            case DN_OP_HARDSWISH:
            case DN_OP_SIGMOID:
            case DN_OP_HARDSIGMOID:
                for (size_t k = 0; k < size; k++) y[k] = act(n->op, x[k], (double)n->value);
                break;
            case DN_OP_ADD:
                for (size_t k = 0; k < size; k++) y[k] = x[k] + z[k];
                break;
            case DN_OP_MUL:
                for (size_t k = 0; k < size; k++) y[k] = x[k] * z[size_of(second) == size ? k : k % (size_t)n->channels];
                break;
            case DN_OP_CONCAT:
                for (size_t pixel = 0, k = 0; pixel < size / (size_t)n->channels; pixel++)
                    for (int j = 0; j < n->input_count; j++) {
                        size_t c = (size_t)N.graph->nodes[n->inputs[j]].channels;
                        for (size_t q = 0; q < c; q++) y[k++] = t[n->inputs[j]][m * size_of(n->inputs[j]) + pixel * c + q];
                    }
                break;
            case DN_OP_MAX_POOL:
            case DN_OP_AVG_POOL:
            case DN_OP_GLOBAL_AVG_POOL:
            case DN_OP_ADAPTIVE_AVG_POOL: ref_pool(n, in, x, y); break;
            case DN_OP_SHORTCUT:
                for (int oy = 0; oy < n->height; oy++)
                    for (int ox = 0; ox < n->width; ox++)
                        for (int c = 0; c < n->channels; c++) AT(y, n, oy, ox, c) = n->map[c] < 0 ? 0 : AT(x, in, oy * n->stride_h, ox * n->stride_w, n->map[c]);
                break;
            case DN_OP_PAD:
                for (int oy = 0; oy < in->height; oy++)
                    for (int ox = 0; ox < in->width; ox++)
                        for (int c = 0; c < n->channels; c++) AT(y, n, oy + n->pad_top, ox + n->pad_left, c) = AT(x, in, oy, ox, c);
                break;
            case DN_OP_DROPOUT: ref_dropout(n, i, p, m, mask, x, y); break;
            case DN_OP_FLATTEN:
            case DN_OP_IDENTITY: memcpy(y, x, size * sizeof(double)); break;
            }
            for (size_t k = 0; k < size; k++)
                if (!mask[k % (size_t)n->channels]) y[k] = 0;
        }
    }
    double *out = t[N.count - 1];
    for (int i = 0; i + 1 < N.count; i++) {
        if (ref_keep) ref_keep[i] = t[i];
        else free(t[i]);
    }
    return out;
}

#endif
