/* train_f32_template.h - one train_f32 record: define ISA, ISA_NAME, TARGET (function attributes) and WIDE (lanes of a vector), then include. */
#include <math.h>
#include <stdint.h>

#include "base/bf16.h"
#include "kernels/kernels.h"

#define KERNEL TARGET static

#define LANES WIDE
#include "kernels/train_f32_block.h"
#undef LANES
#define LANES 1
#include "kernels/train_f32_block.h"
#undef LANES

#define W(n) PASTE(n, WIDE)

/* Runs BLOCK(name, K) for four, two, one wide vectors and then single channels, until all channels are done; c is the first channel. */
#define FOR_CHANNELS(n, BLOCK)                                   \
    do {                                                         \
        size_t c = 0;                                            \
        for (; c + 4 * WIDE <= (n); c += 4 * WIDE) BLOCK(W, 4);  \
        if (c + 2 * WIDE <= (n)) {                               \
            BLOCK(W, 2);                                         \
            c += 2 * WIDE;                                       \
        }                                                        \
        if (c + WIDE <= (n)) {                                   \
            BLOCK(W, 1);                                         \
            c += WIDE;                                           \
        }                                                        \
        for (; c < (n); c++) BLOCK(ONE, 1);                      \
    } while (0)
#define ONE(n) PASTE(n, 1)

KERNEL void sums(const float *z, size_t pixels, size_t channels, float *out) {
#define BLOCK(N, K) N(sums_block)(K, z + c, pixels, channels, out + c)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

KERNEL void norm(const dn_norm_job *job) {
#define NORM(ACT)                                     \
    case ACT: {                                       \
        FOR_CHANNELS(job->channels, BLOCK_##ACT);     \
        break;                                        \
    }
#define BLOCK_DN_ACT_NONE(N, K) N(norm_block)(K, job, c, DN_ACT_NONE)
#define BLOCK_DN_ACT_RELU(N, K) N(norm_block)(K, job, c, DN_ACT_RELU)
#define BLOCK_DN_ACT_RELU6(N, K) N(norm_block)(K, job, c, DN_ACT_RELU6)
#define BLOCK_DN_ACT_LEAKY(N, K) N(norm_block)(K, job, c, DN_ACT_LEAKY)
#define BLOCK_DN_ACT_HARDSWISH(N, K) N(norm_block)(K, job, c, DN_ACT_HARDSWISH)
    switch (job->act) {
        NORM(DN_ACT_NONE)
        NORM(DN_ACT_RELU)
        NORM(DN_ACT_RELU6)
        NORM(DN_ACT_LEAKY)
        NORM(DN_ACT_HARDSWISH)
    }
}

/* Only the shapes that matter for speed are told apart at compile time. */
#define ACTGRAD(name)                                \
    KERNEL void name(const dn_actgrad_job *job) {    \
        FOR_CHANNELS(job->channels, BLOCK_##name);   \
    }
#define BLOCK_none_sums(N, K) N(actgrad_block)(K, job, c, DN_ACT_NONE, 0, 0, 1)
ACTGRAD(none_sums)
#define BLOCK_relu_sums(N, K) N(actgrad_block)(K, job, c, DN_ACT_RELU, 0, 0, 1)
ACTGRAD(relu_sums)
#define BLOCK_relu_y_sums(N, K) N(actgrad_block)(K, job, c, DN_ACT_RELU, 1, 0, 1)
ACTGRAD(relu_y_sums)
#define BLOCK_relu_y_second_sums(N, K) N(actgrad_block)(K, job, c, DN_ACT_RELU, 1, 1, 1)
ACTGRAD(relu_y_second_sums)
#define BLOCK_relu6_sums(N, K) N(actgrad_block)(K, job, c, DN_ACT_RELU6, 0, 0, 1)
ACTGRAD(relu6_sums)
#define BLOCK_any(N, K) N(actgrad_block)(K, job, c, job->act, job->y != NULL, job->second != NULL, job->sums != NULL)
ACTGRAD(any)

KERNEL void actgrad(const dn_actgrad_job *job) {
    int y = job->y != NULL, second = job->second != NULL, with_sums = job->sums != NULL;
    if (job->act == DN_ACT_NONE && !second && with_sums) none_sums(job);
    else if (job->act == DN_ACT_RELU && !y && !second && with_sums) relu_sums(job);
    else if (job->act == DN_ACT_RELU && y && !second && with_sums) relu_y_sums(job);
    else if (job->act == DN_ACT_RELU && y && second && with_sums) relu_y_second_sums(job);
    else if (job->act == DN_ACT_RELU6 && !y && !second && with_sums) relu6_sums(job);
    else any(job);
}

KERNEL void normgrad(const dn_normgrad_job *job) {
#define BLOCK(N, K) N(normgrad_block)(K, job, c)
    FOR_CHANNELS(job->channels, BLOCK);
#undef BLOCK
}

KERNEL void column_sums(const float *x, ptrdiff_t x_row, size_t rows, size_t columns, size_t channels, float *out) {
#define BLOCK(N, K) N(column_sums_block)(K, x + c, x_row, rows, columns, channels, out + c)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

KERNEL void add(float *out, const float *x, size_t count) {
    size_t i = 0;
    for (; i + WIDE <= count; i += WIDE) W(store)(out + i, W(load)(out + i) + W(load)(x + i));
    for (; i < count; i++) out[i] += x[i];
}

KERNEL void round_bf16(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = dn_bf16_nearest(x[i]);
}

KERNEL void product_sums(const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *y, ptrdiff_t y_row, ptrdiff_t y_step, size_t rows, size_t columns, size_t channels,
                         float *out) {
#define BLOCK(N, K) N(product_sums_block)(K, x + c, x_row, x_step, y + c, y_row, y_step, rows, columns, out + c)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

KERNEL void add_scaled(float *out, ptrdiff_t out_row, ptrdiff_t out_step, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *w, size_t rows, size_t columns,
                       size_t channels) {
#define BLOCK(N, K) N(add_scaled_block)(K, out + c, out_row, out_step, x + c, x_row, x_step, w + c, rows, columns)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

KERNEL void max_gradient(const float *x, float *dx, ptrdiff_t row, ptrdiff_t step, size_t rows, size_t columns, size_t channels, const float *y, const float *dy) {
#define BLOCK(N, K) N(max_gradient_block)(K, x + c, dx + c, row, step, rows, columns, y + c, dy + c)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

KERNEL void max(const float *x, ptrdiff_t row, ptrdiff_t step, size_t rows, size_t columns, size_t channels, float *y) {
#define BLOCK(N, K) N(max_block)(K, x + c, row, step, rows, columns, y + c)
    FOR_CHANNELS(channels, BLOCK);
#undef BLOCK
}

/* Eight sums in double, whatever the vector width. */
KERNEL double sum_squares(const float *x, size_t count) {
    double lane[8] = {0}, total = 0;
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (int k = 0; k < 8; k++) lane[k] += (double)x[i + (size_t)k] * (double)x[i + (size_t)k];
    for (int k = 0; i < count; i++, k++) lane[k] += (double)x[i] * (double)x[i];
    for (int k = 0; k < 8; k++) total += lane[k];
    return total;
}

KERNEL void sgd(float *w, const float *g, float *m, size_t count, const dn_sgd_step *step) {
    size_t i = 0;
    for (; i + WIDE <= count; i += WIDE) W(sgd_block)(w + i, g + i, m + i, step);
    for (; i < count; i++) ONE(sgd_block)(w + i, g + i, m + i, step);
}

KERNEL void adamw(float *w, const float *g, float *m, float *v, size_t count, const dn_adamw_step *s) {
    const float rate = s->lr / s->correction1, rest1 = 1 - s->beta1, rest2 = 1 - s->beta2;
    for (size_t i = 0; i < count; i++) {
        float gradient = g[i] * s->gain;
        m[i] = m[i] * s->beta1 + gradient * rest1;
        v[i] = v[i] * s->beta2 + gradient * gradient * rest2;
        w[i] = w[i] * s->shrink - rate * m[i] / (sqrtf(v[i]) / s->correction2 + s->epsilon);
    }
}

const dn_train_f32 PASTE(dn_train_f32_, ISA) = {
    .isa = ISA_NAME,
    .sums = sums,
    .norm = norm,
    .actgrad = actgrad,
    .normgrad = normgrad,
    .column_sums = column_sums,
    .add = add,
    .round_bf16 = round_bf16,
    .product_sums = product_sums,
    .add_scaled = add_scaled,
    .max_gradient = max_gradient,
    .max = max,
    .sum_squares = sum_squares,
    .sgd = sgd,
    .adamw = adamw,
};
