/* code_pass.c - fake quantisation: tensors and weights take the values that the integer engine would have, gradients go straight through.
 *
 * A coded tensor has two buffers: `made`, what its unit wrote, and `data`, what others read. The unit's own gradient (which side of a kink a value was on) comes from the first; the second is
 * that one, rounded to codes and back. Without a scale they are equal. */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "train/train.h"

/* Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to even, in the rounding mode that every entry sets. */
#define ROUNDER 12582912.0f

typedef struct codes {
    float scale, inverse, lo, hi; /* scale 0: as it is */
} codes;

static codes codes_of(const dn_trainer *trainer, const dn_value *v) {
    const dn_node *node = &trainer->graph->nodes[v - trainer->values];
    float scale = trainer->coding ? trainer->scales[v - trainer->values] : 0;
    return (codes){scale, scale > 0 ? 1 / scale : 0, node->is_signed ? -128 : 0, node->is_signed ? 127 : 255};
}

/* Comparisons that let NaN pass. */
static inline float clip(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }

void dn_code_forward(const dn_trainer *trainer, const dn_value *v, size_t image) {
    const codes c = codes_of(trainer, v);
    const float *in = dn_made(v, image);
    float *out = dn_image(v, image), peak[8] = {0}, most = 0;
    size_t i = 0;
    for (; i + 8 <= v->size; i += 8)
        for (int k = 0; k < 8; k++) {
            float a = fabsf(in[i + (size_t)k]);
            peak[k] = a > peak[k] ? a : peak[k];
        }
    for (; i < v->size; i++) most = fabsf(in[i]) > most ? fabsf(in[i]) : most;
    for (int k = 0; k < 8; k++) most = peak[k] > most ? peak[k] : most;
    v->peaks[image] = most;
    if (!(c.scale > 0)) {
        memcpy(out, in, v->size * sizeof(float));
        return;
    }
    for (i = 0; i < v->size; i++) out[i] = (clip(in[i] * c.inverse, c.lo, c.hi) + ROUNDER - ROUNDER) * c.scale;
}

/* The gradient passes where the value was in range; outside, it belongs to the scale (Esser et al. 2020): d code(x) / d scale = round(x / scale) - x / scale inside, the limit outside. */
void dn_code_backward(const dn_trainer *trainer, const dn_value *v, size_t image, float *g) {
    const codes c = codes_of(trainer, v);
    const float *in = dn_made(v, image);
    double slope = 0;
    if (c.scale > 0 && trainer->learns_scales)
        for (size_t i = 0; i < v->size; i++) {
            float x = in[i] * c.inverse, q = clip(x, c.lo, c.hi);
            slope += (double)(g[i] * (q + ROUNDER - ROUNDER - (x == q ? x : 0)));
        }
    v->slopes[image] = slope;
    for (size_t i = 0; c.scale > 0 && i < v->size; i++) {
        float x = in[i] * c.inverse;
        g[i] = x < c.lo || x > c.hi ? 0 : g[i];
    }
}

/* ---- weights ---- */

void dn_layer_encode(const dn_layer *layer, float *working) {
    const float *value = layer->weight.value;
    for (int32_t o = 0; o < layer->node->channels; o++) {
        const double scale = (double)layer->code_scale[o];
        for (int32_t t = 0; t < layer->taps; t++)
            for (int32_t i = 0; i < layer->group_in; i++) {
                size_t at = dn_layer_weight_index(layer, o, t, i);
                double q = rint((double)value[at] / scale);
                if (q != q) working[at] = value[at];
                else working[at] = (float)dn_view_code(q < -127 ? -127 : q > layer->code_top ? layer->code_top : (int32_t)q, layer->code_bits) * layer->code_scale[o];
            }
    }
}

/* The bits of every layer for the coming pass. */
void dn_code_begin(dn_trainer *trainer, const dn_subnet *subnet) {
    trainer->coding = subnet->bits != NULL;
    for (int32_t k = 0; k < trainer->layer_count; k++) {
        dn_layer *layer = &trainer->layers[k];
        int32_t bits = layer->code_scale && subnet->bits ? subnet->bits[layer->index] : 0;
        layer->stale = layer->stale || bits != layer->code_bits;
        layer->code_bits = bits;
    }
}

dn_status dn_trainer_set_code_scale(dn_trainer *trainer, int32_t node, const float *scale, int32_t top, dn_error *err) {
    if (node < 0 || node >= trainer->graph->count || trainer->layer_of[node] < 0) return dn_fail(err, DN_EINVAL, "node %d is neither a convolution nor linear", node);
    dn_layer *layer = &trainer->layers[trainer->layer_of[node]];
    const size_t channels = (size_t)layer->node->channels;
    if (top < 1 || top > 127) return dn_fail(err, DN_EINVAL, "the largest code must be 1 to 127, got %d", top);
    for (size_t c = 0; c < channels; c++)
        if (!(scale[c] > 0) || isinf(scale[c])) return dn_fail(err, DN_EINVAL, "%s: the scale of channel %zu is %g: it must be above 0 and finite", layer->node->name, c, (double)scale[c]);
    if (!layer->hooked_weight) DN_TRY(DN_OWN(trainer, &layer->hooked_weight, layer->weight.count, err));
    if (!layer->code_scale) DN_TRY(DN_OWN(trainer, &layer->code_scale, channels, err));
    memcpy(layer->code_scale, scale, channels * sizeof(float));
    layer->code_top = top;
    layer->stale = true;
    trainer->ready = false;
    return DN_OK;
}

/* ---- what a pass saw ---- */

dn_status dn_trainer_set_scales(dn_trainer *trainer, const float *scale, dn_error *err) {
    for (int32_t i = 0; i < trainer->graph->count; i++)
        if (trainer->values[i].coded && (!(scale[i] >= 0) || isinf(scale[i])))
            return dn_fail(err, DN_EINVAL, "%s: its scale is %g: it must be finite and not negative", trainer->graph->nodes[i].name, (double)scale[i]);
    memcpy(trainer->scales, scale, (size_t)trainer->graph->count * sizeof(float));
    trainer->ready = false;
    return DN_OK;
}

void dn_trainer_get_peaks(const dn_trainer *trainer, float *peak) {
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        const dn_value *v = &trainer->values[i];
        peak[i] = 0;
        for (size_t k = 0; v->coded && v->live && v->made && k < trainer->n; k++) peak[i] = v->peaks[k] > peak[i] ? v->peaks[k] : peak[i];
    }
}

void dn_trainer_get_slopes(const dn_trainer *trainer, double *slope) {
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        const dn_value *v = &trainer->values[i];
        slope[i] = 0;
        for (size_t k = 0; v->coded && v->live && v->made && v->needs && k < trainer->n; k++) slope[i] += v->slopes[k];
    }
}

void dn_trainer_get_batch_stats(const dn_trainer *trainer, float *mean, float *variance) {
    for (int32_t i = 0; i < trainer->graph->norm_channels; i++) mean[i] = 0, variance[i] = 1;
    for (int32_t k = 0; k < trainer->norm_count; k++) {
        const dn_norm *norm = &trainer->norms[k];
        const dn_value *v = &trainer->values[norm->index];
        if (!v->live) continue;
        size_t dense = 0;
        for (int32_t r = 0; r < v->range_count; r++)
            for (int32_t c = 0; c < v->ranges[r].count; c++, dense++) {
                mean[norm->node->norm_offset + v->ranges[r].begin + c] = norm->mean[dense];
                variance[norm->node->norm_offset + v->ranges[r].begin + c] = norm->variance[dense];
            }
    }
}

const float *dn_trainer_tensor(const dn_trainer *trainer, int32_t node, size_t *floats) {
    if (node < 0 || node >= trainer->graph->count) return NULL;
    const dn_value *v = &trainer->values[trainer->values[node].root];
    *floats = v->size;
    return trainer->n && v->live && v->data && trainer->units[v - trainer->values].kind != DN_UNIT_NONE && !trainer->units[v - trainer->values].transient ? v->data : NULL;
}
