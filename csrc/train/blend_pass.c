/* blend_pass.c - batch norm, residual and activation in one pass forward and two backward; batch statistics and their gradients. */
#include <math.h>
#include <string.h>

#include "train/train.h"

static dn_norm *norm_of(const dn_trainer *trainer, const dn_unit *unit) { return unit->norm < 0 ? NULL : &trainer->norms[trainer->norm_of[unit->norm]]; }

/* rows 1, out_row 0: a dense image. Otherwise rows are out_row apart. */
void dn_blend_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, float *out, size_t rows, ptrdiff_t out_row) {
    const dn_norm *norm = norm_of(trainer, unit);
    const dn_value *z = &trainer->values[unit->z];
    dn_norm_job job = {
        .z = dn_image(z, image),
        .residual = unit->residual < 0 ? NULL : dn_image(&trainer->values[unit->residual], image),
        .out = out,
        .rows = rows,
        .columns = (size_t)z->height * (size_t)z->width / rows,
        .channels = (size_t)z->channels,
        .out_row = out_row,
        .mean = norm ? norm->mean : trainer->zeros,
        .scale = norm ? norm->scale : trainer->ones,
        .shift = norm ? norm->shift : trainer->zeros,
        .act = unit->act,
        .slope = unit->slope,
    };
    trainer->kernels.train_f32->norm(&job);
    dn_round_rows(trainer, out, rows, out_row, job.columns * job.channels);
}

/* Where the activation's own value tells on which side of its kinks it was. */
static bool value_tells(const dn_unit *unit) {
    return unit->act == DN_ACT_RELU || unit->act == DN_ACT_RELU6 || (unit->act == DN_ACT_LEAKY && unit->slope > 0);
}

void dn_blend_actgrad(dn_trainer *trainer, const dn_step *step, size_t image, dn_scratch *scratch) {
    const dn_unit *unit = &trainer->units[step->tensor];
    const dn_value *y = &trainer->values[step->tensor];
    const dn_norm *norm = norm_of(trainer, unit);
    dn_actgrad_job job = {
        .first = step->from == DN_SCRATCH ? scratch->back : dn_slot(trainer, step->from, image),
        .second = step->second < 0 ? NULL : dn_slot(trainer, step->second, image),
        .g = dn_slot(trainer, step->to, image),
        .pixels = (size_t)y->height * (size_t)y->width,
        .channels = (size_t)y->channels,
        .act = unit->act,
        .slope = unit->slope,
    };
    if (unit->kind == DN_UNIT_LAYER) {
        dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
        job.y = job.z = dn_made(y, image);
        if (layer->bias.count && !layer->bias.frozen) job.sums = layer->partial + image * 2 * job.channels;
    } else {
        job.z = dn_image(&trainer->values[unit->z], image);
        job.residual = unit->residual < 0 ? NULL : dn_image(&trainer->values[unit->residual], image);
        if (!unit->transient && value_tells(unit)) job.y = dn_made(y, image);
        job.mean = norm ? norm->mean : trainer->zeros;
        job.scale = norm ? norm->scale : trainer->ones;
        job.shift = norm ? norm->shift : trainer->zeros;
        if (norm) job.sums = norm->partial + image * 3 * job.channels;
    }
    trainer->kernels.train_f32->actgrad(&job);
}

void dn_blend_normgrad(dn_trainer *trainer, const dn_unit *unit, const float *g, size_t image, float *out, size_t rows, ptrdiff_t out_row) {
    const dn_norm *norm = norm_of(trainer, unit);
    const dn_value *z = &trainer->values[unit->z];
    dn_normgrad_job job = {
        .g = g,
        .z = dn_image(z, image),
        .out = out,
        .rows = rows,
        .columns = (size_t)z->height * (size_t)z->width / rows,
        .channels = (size_t)z->channels,
        .out_row = out_row,
        .mean = norm->mean,
        .a = norm->a,
        .b = norm->b,
        .c = norm->c,
    };
    trainer->kernels.train_f32->normgrad(&job);
    dn_round_rows(trainer, out, rows, out_row, job.columns * job.channels);
}

/* Calls body with the dense channel d and the full-width channel f of every active channel. */
#define FOR_EACH_CHANNEL(value, ...)                                                      \
    do {                                                                                  \
        size_t d = 0;                                                                     \
        for (int32_t r = 0; r < (value)->range_count; r++)                                \
            for (int32_t k = 0; k < (value)->ranges[r].count; k++, d++) {                 \
                size_t f = (size_t)((value)->ranges[r].begin + k);                        \
                __VA_ARGS__;                                                              \
            }                                                                             \
    } while (0)

/* Images are joined in order by the pairwise update of Chan, Golub and LeVeque (1979): no difference of large numbers, whatever the mean. */
void dn_norm_finish_forward(dn_trainer *trainer, dn_norm *norm, const dn_value *z) {
    const size_t channels = (size_t)z->channels;
    const double pixels = (double)z->height * (double)z->width;
    double *mean = norm->sums, *square = norm->sums + channels, seen = 0;
    memset(norm->sums, 0, 2 * channels * sizeof(double));
    norm->active = z->channels;
    const float *gamma = norm->gamma[trainer->affine].value, *beta = norm->beta[trainer->affine].value;
    for (size_t i = 0; i < trainer->n; i++) {
        const float *first = norm->partial + i * 3 * channels, *sum = first + channels, *squares = sum + channels;
        const double all = seen + pixels, share = pixels / all, weight = seen * share;
        for (size_t c = 0; c < channels; c++) {
            double s = (double)sum[c], average = (double)first[c] + s / pixels, delta = average - mean[c];
            square[c] += (double)squares[c] - s * s / pixels + delta * delta * weight;
            mean[c] += delta * share;
        }
        seen = all;
    }
    FOR_EACH_CHANNEL(z, {
        double variance = square[d] > 0 || square[d] != square[d] ? square[d] / seen : 0, inverse = 1 / sqrt(variance + (double)norm->node->value);
        norm->mean[d] = (float)mean[d];
        norm->variance[d] = (float)variance;
        norm->inverse[d] = (float)inverse;
        norm->scale[d] = (float)((double)gamma[f] * inverse);
        norm->shift[d] = beta[f];
    });
}

/* dz = gamma / sigma * (g - mean(g) - xhat * mean(g * xhat)), spelled as a * g + b * (z - mean) + c. */
void dn_norm_finish_backward(dn_trainer *trainer, dn_norm *norm, const dn_value *z) {
    const size_t channels = (size_t)z->channels;
    const double count = (double)z->height * (double)z->width * (double)trainer->n;
    double *sum = norm->sums, *dot = norm->sums + channels;
    memset(norm->sums, 0, 2 * channels * sizeof(double));
    for (size_t i = 0; i < trainer->n; i++) {
        const float *partial = norm->partial + i * 3 * channels;
        for (size_t c = 0; c < channels; c++) {
            sum[c] += (double)partial[c];
            dot[c] += (double)partial[channels + c];
        }
    }
    const dn_param *gamma = &norm->gamma[trainer->affine], *beta = &norm->beta[trainer->affine];
    FOR_EACH_CHANNEL(z, {
        double inverse = (double)norm->inverse[d], a = (double)gamma->value[f] * inverse;
        norm->a[d] = (float)a;
        norm->b[d] = (float)(-a * inverse * inverse * dot[d] / count);
        norm->c[d] = (float)(-a * sum[d] / count);
        if (!gamma->frozen) {
            gamma->gradient[f] += (float)(dot[d] * inverse);
            beta->gradient[f] += (float)sum[d];
        }
    });
}

/* Running statistics keep the biased variance, the one that the forward pass used. */
void dn_norm_stage(dn_trainer *trainer, const dn_norm *norm, const dn_value *z, int32_t slot) {
    size_t channels = (size_t)trainer->graph->norm_channels;
    float *mean = trainer->staged + (size_t)slot * 2 * channels + norm->node->norm_offset, *variance = mean + channels, m = trainer->stat_momentum;
    if (norm->gamma->frozen) return;
    FOR_EACH_CHANNEL(z, {
        mean[f] = (1 - m) * mean[f] + m * norm->mean[d];
        variance[f] = (1 - m) * variance[f] + m * norm->variance[d];
    });
}
