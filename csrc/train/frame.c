/* frame.c - the input of a convolution, and the gradient of its output, as the kernels read them: with a halo of zeros, made afresh where they are not stored. */
#include <string.h>

#include "train/train.h"

/* ---- halos ---- */

typedef struct frame {
    int32_t height, width, top, bottom, left, right;
    size_t channels;
} frame;

static size_t frame_row(const frame *f) { return (size_t)(f->width + f->left + f->right) * f->channels; }
static bool has_halo(const frame *f) { return f->top || f->bottom || f->left || f->right; }
static size_t inner(const frame *f) { return (size_t)f->top * frame_row(f) + (size_t)f->left * f->channels; }

static void clear_halo(const frame *f, float *image) {
    size_t row = frame_row(f), left = (size_t)f->left * f->channels, right = (size_t)f->right * f->channels;
    memset(image, 0, (size_t)f->top * row * sizeof(float));
    float *p = image + (size_t)f->top * row;
    for (int32_t y = 0; y < f->height; y++, p += row) {
        if (left) memset(p, 0, left * sizeof(float));
        if (right) memset(p + row - right, 0, right * sizeof(float));
    }
    memset(p, 0, (size_t)f->bottom * row * sizeof(float));
}

static void copy_inside(const frame *f, const float *source, float *image) {
    size_t row = frame_row(f), body = (size_t)f->width * f->channels;
    float *p = image + inner(f);
    for (int32_t y = 0; y < f->height; y++, p += row, source += body) memcpy(p, source, body * sizeof(float));
}

static frame input_frame(const dn_layer *layer, const dn_value *x) {
    const dn_node *n = layer->node;
    return (frame){x->height, x->width, n->pad_top, n->pad_bottom, n->pad_left, n->pad_right, (size_t)x->channels};
}

static frame output_frame(const dn_layer *layer, const dn_value *y) {
    return (frame){y->height, y->width, layer->top, layer->bottom, layer->left, layer->right, (size_t)y->channels};
}

/* ---- where a layer's input comes from ---- */

void dn_layer_run_hook(dn_hook *hook, const dn_layer *layer, const dn_value *value, size_t image, float *values) {
    dn_hook_call call = {layer->index, (int32_t)image, values, value->height, value->width, value->channels};
    hook(layer->hooks.context, &call);
}

const float *dn_layer_hook_input(dn_trainer *trainer, const dn_unit *unit, dn_layer *layer, size_t image) {
    const dn_value *x = &trainer->values[unit->z];
    float *hooked = layer->hooked_input + image * x->size;
    if (trainer->units[unit->z].transient) dn_blend_forward(trainer, &trainer->units[unit->z], image, hooked, 1, 0);
    else memcpy(hooked, dn_image(x, image), x->size * sizeof(float));
    dn_layer_run_hook(layer->hooks.input, layer, x, image, hooked);
    return hooked;
}

const float *dn_layer_padded(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch) {
    dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *x = &trainer->values[unit->z];
    const frame f = input_frame(layer, x);
    const float *source = NULL;
    if (layer->hooks.input) source = dn_layer_hook_input(trainer, unit, layer, image);
    else if (!trainer->units[unit->z].transient) source = dn_image(x, image);
    if (source && !has_halo(&f)) return source;
    if (has_halo(&f)) clear_halo(&f, scratch->padded);
    if (source) copy_inside(&f, source, scratch->padded);
    else dn_blend_forward(trainer, &trainer->units[unit->z], image, scratch->padded + inner(&f), (size_t)x->height, (ptrdiff_t)frame_row(&f));
    return scratch->padded;
}

const float *dn_layer_dense(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *x = &trainer->values[unit->z];
    if (layer->hooks.input) return layer->hooked_input + image * x->size;
    if (!trainer->units[unit->z].transient) return dn_image(x, image);
    dn_blend_forward(trainer, &trainer->units[unit->z], image, scratch->input, 1, 0);
    return scratch->input;
}

/* ---- the gradient of its output ---- */

dn_framed dn_layer_framed(dn_trainer *trainer, const dn_unit *unit, const float *dense, size_t image, bool halo, dn_scratch *scratch) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *y = &trainer->values[unit - trainer->units];
    const frame f = output_frame(layer, y);
    if (!unit->from_norm && !(halo && has_halo(&f))) return (dn_framed){dense, dense, (ptrdiff_t)y->width * y->channels};
    float *inside = scratch->gradient + inner(&f);
    clear_halo(&f, scratch->gradient);
    if (unit->from_norm) dn_blend_normgrad(trainer, &trainer->units[unit->blend], dense, image, inside, (size_t)y->height, (ptrdiff_t)frame_row(&f));
    else copy_inside(&f, dense, scratch->gradient);
    return (dn_framed){scratch->gradient, inside, (ptrdiff_t)frame_row(&f)};
}

const float *dn_layer_padded_channels(const dn_layer *layer, const dn_value *x, const float *dense, int32_t first, int32_t count, float *image) {
    frame f = input_frame(layer, x);
    f.channels = (size_t)count;
    clear_halo(&f, image);
    float *p = image + inner(&f);
    dense += first;
    for (int32_t y = 0; y < f.height; y++, p += frame_row(&f))
        for (int32_t c = 0; c < f.width; c++, dense += x->channels) memcpy(p + (size_t)c * f.channels, dense, f.channels * sizeof(float));
    return image;
}
