/* op_pass.c - operations without weights on one image, forward and backward: pools, concat, mul, shortcut, pad, dropout, sigmoids. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "train/train.h"

typedef struct images {
    const dn_value *x, *y;
    const float *in;
    float *out;
} images;

/* Output position -> the part of its window that lies inside the input. */
typedef struct span {
    int32_t begin, end;
} span;
static span clip(int32_t begin, int32_t length, int32_t limit) {
    int32_t end = begin + length;
    return (span){begin < 0 ? 0 : begin, end > limit ? limit : end};
}
static span window_y(const dn_node *node, const dn_value *x, int32_t y) {
    if (node->op == DN_OP_ADAPTIVE_AVG_POOL) return (span){(int32_t)((int64_t)y * x->height / node->height), (int32_t)(((int64_t)(y + 1) * x->height + node->height - 1) / node->height)};
    return clip(y * node->stride_h - node->pad_top, node->kernel_h, x->height);
}
static span window_x(const dn_node *node, const dn_value *x, int32_t column) {
    if (node->op == DN_OP_ADAPTIVE_AVG_POOL)
        return (span){(int32_t)((int64_t)column * x->width / node->width), (int32_t)(((int64_t)(column + 1) * x->width + node->width - 1) / node->width)};
    return clip(column * node->stride_w - node->pad_left, node->kernel_w, x->width);
}

static void average_window(const float *in, const dn_value *x, span rows, span columns, float *out) {
    const int32_t channels = x->channels;
    const float factor = 1.0f / (float)((rows.end - rows.begin) * (columns.end - columns.begin));
    memset(out, 0, (size_t)channels * sizeof(float));
    for (int32_t h = rows.begin; h < rows.end; h++)
        for (int32_t w = columns.begin; w < columns.end; w++) {
            const float *p = in + ((ptrdiff_t)h * x->width + w) * channels;
            for (int32_t c = 0; c < channels; c++) out[c] += p[c];
        }
    for (int32_t c = 0; c < channels; c++) out[c] *= factor;
}

static void spread_window(float *dx, const dn_value *x, span rows, span columns, const float *dy) {
    const int32_t channels = x->channels;
    const float factor = 1.0f / (float)((rows.end - rows.begin) * (columns.end - columns.begin));
    for (int32_t h = rows.begin; h < rows.end; h++)
        for (int32_t w = columns.begin; w < columns.end; w++) {
            float *p = dx + ((ptrdiff_t)h * x->width + w) * channels;
            for (int32_t c = 0; c < channels; c++) p[c] += dy[c] * factor;
        }
}

static void pool_forward(const dn_trainer *trainer, const dn_node *node, const images *i) {
    float *out = i->out;
    const ptrdiff_t channels = i->x->channels, row = i->x->width * channels;
    for (int32_t y = 0; y < node->height; y++)
        for (int32_t x = 0; x < node->width; x++, out += channels) {
            span rows = window_y(node, i->x, y), columns = window_x(node, i->x, x);
            if (node->op != DN_OP_MAX_POOL) average_window(i->in, i->x, rows, columns, out);
            else
                trainer->kernels.train_f32->max(i->in + rows.begin * row + columns.begin * channels, row, channels, (size_t)(rows.end - rows.begin), (size_t)(columns.end - columns.begin),
                                                (size_t)channels, out);
        }
}

static void pool_backward(const dn_trainer *trainer, const dn_node *node, const dn_value *x, const dn_value *y, const float *in, const float *out, const float *dy, float *dx) {
    const ptrdiff_t channels = x->channels, row = x->width * channels;
    (void)y;
    for (int32_t h = 0; h < node->height; h++)
        for (int32_t w = 0; w < node->width; w++, dy += channels, out += channels) {
            span rows = window_y(node, x, h), columns = window_x(node, x, w);
            if (node->op != DN_OP_MAX_POOL) spread_window(dx, x, rows, columns, dy);
            else {
                ptrdiff_t o = rows.begin * row + columns.begin * channels;
                trainer->kernels.train_f32->max_gradient(in + o, dx + o, row, channels, (size_t)(rows.end - rows.begin), (size_t)(columns.end - columns.begin), (size_t)channels, out, dy);
            }
        }
}

/* ---- dropout: element e of an image is kept if word e of the stream (seed, step, node and image) is at least rate * 2^32 ---- */

static void dropout(const dn_trainer *trainer, int32_t node_index, size_t image, const float *in, float *out, size_t count, bool add) {
    const dn_node *node = &trainer->graph->nodes[node_index];
    const dn_rng rng = {trainer->seed, DN_STREAM_DROPOUT, (uint32_t)trainer->step};
    const uint64_t key = (uint64_t)node_index << 48 ^ (trainer->step >> 32) << 32 ^ (uint64_t)image;
    const double threshold = (double)node->value * 0x1p32;
    const float gain = 1.0f / (1.0f - node->value);
    for (size_t e = 0; e < count; e += 4) {
        uint32_t r[4];
        dn_rng_block(&rng, key, (uint32_t)(e / 4), r);
        for (size_t k = 0; k < 4 && e + k < count; k++) {
            float v = (double)r[k] >= threshold ? in[e + k] * gain : 0;
            out[e + k] = add ? out[e + k] + v : v;
        }
    }
}

/* ---- forward ---- */

static void sigmoid(const dn_trainer *trainer, const float *in, float *out, size_t count) {
    size_t body = count & ~(size_t)3;
    if (body) trainer->kernels.pointwise_f32->sigmoid(in, (ptrdiff_t)body, out, (ptrdiff_t)body, 1, (int32_t)body);
    float rest[4] = {0}, result[4];
    memcpy(rest, in + body, (count - body) * sizeof(float));
    trainer->kernels.pointwise_f32->sigmoid(rest, 4, result, 4, 1, 4);
    memcpy(out + body, result, (count - body) * sizeof(float));
}

static void hardsigmoid(const float *in, float *out, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float t = fmaf(in[i], 1.0f / 6, 0.5f);
        out[i] = t < 0 ? 0 : t > 1 ? 1 : t;
    }
}

static void mul_forward(const dn_trainer *trainer, const dn_node *node, const dn_value *y, size_t image) {
    const dn_value *a = &trainer->values[trainer->values[node->inputs[0]].root], *b = &trainer->values[trainer->values[node->inputs[1]].root];
    const float *p = dn_image(a, image), *q = dn_image(b, image);
    float *out = dn_made(y, image);
    const size_t channels = (size_t)a->channels, step = b->size == a->size ? channels : 0;
    for (size_t pixel = 0; pixel < a->size / channels; pixel++, p += channels, q += step, out += channels)
        for (size_t c = 0; c < channels; c++) out[c] = p[c] * q[c];
}

static void concat_forward(const dn_trainer *trainer, const dn_node *node, const dn_value *y, size_t image) {
    size_t offset = 0, pixels = (size_t)y->height * (size_t)y->width, channels = (size_t)y->channels;
    for (int32_t k = 0; k < node->input_count; k++) {
        const dn_value *x = &trainer->values[trainer->values[node->inputs[k]].root];
        const float *in = dn_image(x, image);
        float *out = dn_made(y, image) + offset;
        for (size_t p = 0; p < pixels; p++) memcpy(out + p * channels, in + p * (size_t)x->channels, (size_t)x->channels * sizeof(float));
        offset += (size_t)x->channels;
    }
}

static void shortcut_forward(const dn_node *node, const images *i) {
    float *out = i->out;
    for (int32_t y = 0; y < node->height; y++)
        for (int32_t x = 0; x < node->width; x++, out += i->y->channels) {
            const float *in = i->in + ((ptrdiff_t)y * node->stride_h * i->x->width + (ptrdiff_t)x * node->stride_w) * i->x->channels;
            for (int32_t c = 0; c < i->y->channels; c++) out[c] = i->y->index[c] < 0 ? 0 : in[i->y->index[c]];
        }
}

static void pad_forward(const dn_node *node, const images *i) {
    const size_t row = (size_t)i->x->width * (size_t)i->x->channels, out_row = (size_t)i->y->width * (size_t)i->y->channels;
    memset(i->out, 0, i->y->size * sizeof(float));
    for (int32_t y = 0; y < i->x->height; y++)
        memcpy(i->out + (size_t)(y + node->pad_top) * out_row + (size_t)node->pad_left * (size_t)i->x->channels, i->in + (size_t)y * row, row * sizeof(float));
}

void dn_op_forward(dn_trainer *trainer, const dn_unit *unit, size_t image) {
    const dn_node *node = &trainer->graph->nodes[unit->node];
    const dn_value *y = &trainer->values[unit - trainer->units], *x = unit->z < 0 ? y : &trainer->values[unit->z];
    const images i = {x, y, dn_image(x, image), dn_made(y, image)};
    switch (node->op) {
    case DN_OP_MAX_POOL:
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL: pool_forward(trainer, node, &i); return;
    case DN_OP_MUL: mul_forward(trainer, node, y, image); return;
    case DN_OP_CONCAT: concat_forward(trainer, node, y, image); return;
    case DN_OP_SHORTCUT: shortcut_forward(node, &i); return;
    case DN_OP_PAD: pad_forward(node, &i); return;
    case DN_OP_DROPOUT: dropout(trainer, unit->node, image, i.in, i.out, y->size, false); return;
    case DN_OP_SIGMOID: sigmoid(trainer, i.in, i.out, y->size); return;
    case DN_OP_HARDSIGMOID: hardsigmoid(i.in, i.out, y->size); return;
    case DN_OP_INPUT:
    case DN_OP_CONV2D:
    case DN_OP_LINEAR:
    case DN_OP_BATCHNORM:
    case DN_OP_RELU:
    case DN_OP_RELU6:
    case DN_OP_LEAKY_RELU:
    case DN_OP_HARDSWISH:
    case DN_OP_ADD:
    case DN_OP_FLATTEN:
    case DN_OP_IDENTITY: break; /* layers, blends and other names of their input: never units of this kind */
    }
    assert(!"an operation without a unit");
}

/* ---- backward: adds to dx, which holds zero where nothing was there before ---- */

static void mul_backward(const dn_trainer *trainer, const dn_node *node, int32_t input, size_t image, const float *dy, float *dx) {
    const dn_value *a = &trainer->values[trainer->values[node->inputs[0]].root], *b = &trainer->values[trainer->values[node->inputs[1]].root];
    const float *other = dn_image(input ? a : b, image);
    const size_t channels = (size_t)a->channels, small = b->size == a->size ? channels : 0, dx_step = input ? small : channels, other_step = input ? channels : small;
    for (size_t pixel = 0; pixel < a->size / channels; pixel++, dy += channels, dx += dx_step, other += other_step)
        for (size_t c = 0; c < channels; c++) dx[c] += dy[c] * other[c];
}

static void concat_backward(const dn_trainer *trainer, const dn_node *node, int32_t input, const dn_value *x, const dn_value *y, const float *dy, float *dx) {
    size_t offset = 0, pixels = (size_t)y->height * (size_t)y->width, channels = (size_t)x->channels;
    for (int32_t k = 0; k < input; k++) offset += (size_t)trainer->values[trainer->values[node->inputs[k]].root].channels;
    for (size_t p = 0; p < pixels; p++)
        for (size_t c = 0; c < channels; c++) dx[p * channels + c] += dy[p * (size_t)y->channels + offset + c];
}

static void shortcut_backward(const dn_node *node, const dn_value *x, const dn_value *y, const float *dy, float *dx) {
    for (int32_t h = 0; h < node->height; h++)
        for (int32_t w = 0; w < node->width; w++, dy += y->channels) {
            float *p = dx + ((ptrdiff_t)h * node->stride_h * x->width + (ptrdiff_t)w * node->stride_w) * x->channels;
            for (int32_t c = 0; c < y->channels; c++)
                if (y->index[c] >= 0) p[y->index[c]] += dy[c];
        }
}

static void pad_backward(const dn_node *node, const dn_value *x, const dn_value *y, const float *dy, float *dx) {
    const size_t row = (size_t)x->width * (size_t)x->channels, out_row = (size_t)y->width * (size_t)y->channels;
    for (int32_t h = 0; h < x->height; h++) {
        const float *p = dy + (size_t)(h + node->pad_top) * out_row + (size_t)node->pad_left * (size_t)x->channels;
        for (size_t c = 0; c < row; c++) dx[(size_t)h * row + c] += p[c];
    }
}

void dn_op_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image) {
    const dn_node *node = &trainer->graph->nodes[unit->node];
    const dn_value *y = &trainer->values[unit - trainer->units], *x = &trainer->values[trainer->values[node->inputs[step->input]].root];
    const float *in = dn_image(x, image), *out = dn_made(y, image), *dy = dn_slot(trainer, step->from, image);
    float *dx = dn_slot(trainer, step->to, image);
    if (!step->accumulate) memset(dx, 0, x->size * sizeof(float));
    switch (node->op) {
    case DN_OP_MAX_POOL:
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL: pool_backward(trainer, node, x, y, in, out, dy, dx); return;
    case DN_OP_MUL: mul_backward(trainer, node, step->input, image, dy, dx); return;
    case DN_OP_CONCAT: concat_backward(trainer, node, step->input, x, y, dy, dx); return;
    case DN_OP_SHORTCUT: shortcut_backward(node, x, y, dy, dx); return;
    case DN_OP_PAD: pad_backward(node, x, y, dy, dx); return;
    case DN_OP_DROPOUT: dropout(trainer, unit->node, image, dy, dx, y->size, true); return;
    case DN_OP_SIGMOID:
        for (size_t i = 0; i < y->size; i++) dx[i] += dy[i] * out[i] * (1 - out[i]);
        return;
    case DN_OP_HARDSIGMOID:
        for (size_t i = 0; i < y->size; i++) dx[i] += in[i] > -3 && in[i] < 3 ? dy[i] * (1.0f / 6) : 0;
        return;
    case DN_OP_INPUT:
    case DN_OP_CONV2D:
    case DN_OP_LINEAR:
    case DN_OP_BATCHNORM:
    case DN_OP_RELU:
    case DN_OP_RELU6:
    case DN_OP_LEAKY_RELU:
    case DN_OP_HARDSWISH:
    case DN_OP_ADD:
    case DN_OP_FLATTEN:
    case DN_OP_IDENTITY: break;
    }
    assert(!"an operation without a unit");
}
