/* tap.c - nodes whose values are read and whose gradients are added to from outside the trainer: hints of a teacher's features. */
#include <string.h>

#include "base/fpenv.h"
#include "base/status.h"
#include "train/train.h"

/* A tapped tensor is stored and is the end of its unit, so that it has a value and a gradient of its own. */
dn_status dn_trainer_new_taps(dn_trainer *trainer, const int32_t *taps, int32_t count, dn_error *err) {
    const dn_graph *graph = trainer->graph;
    DN_TRY(DN_OWN(trainer, &trainer->taps, (size_t)count, err));
    DN_TRY(DN_OWN(trainer, &trainer->injected, (size_t)count, err));
    trainer->tap_count = count;
    for (int32_t k = 0; k < count; k++) {
        int32_t node = taps[k];
        if (node < 1 || node >= graph->count) return dn_fail(err, DN_EINVAL, "tap %d is node %d: it must be one of 1..%d", k, node, graph->count - 1);
        while (graph->nodes[node].op == DN_OP_FLATTEN || graph->nodes[node].op == DN_OP_IDENTITY) node = graph->nodes[node].inputs[0];
        trainer->taps[k] = node;
        trainer->values[node].pinned = trainer->values[node].tapped = true;
    }
    return DN_OK;
}

void dn_trainer_forget_taps(dn_trainer *trainer) {
    for (int32_t k = 0; k < trainer->tap_count; k++) trainer->injected[k] = NULL;
}

/* The tensor of a tap in the last pass, or NULL. A block that is left out gives no value of its own. */
static const dn_value *value_of(const dn_trainer *trainer, int32_t tap) {
    if (tap < 0 || tap >= trainer->tap_count || !trainer->ready) return NULL;
    const dn_value *v = &trainer->values[trainer->taps[tap]];
    return v->live && v->root == trainer->taps[tap] ? v : NULL;
}

void dn_trainer_tap_shape(const dn_trainer *trainer, int32_t tap, int32_t shape[3]) {
    const dn_value *v = value_of(trainer, tap);
    shape[0] = v ? v->height : 0;
    shape[1] = v ? v->width : 0;
    shape[2] = v ? v->channels : 0;
}

dn_status dn_trainer_tap_read(const dn_trainer *trainer, int32_t tap, float *out, dn_error *err) {
    const dn_value *v = value_of(trainer, tap);
    if (!v || !out) return dn_fail(err, DN_EINVAL, "tap %d has no value: there are %d, and one is made by a forward pass that reaches it", tap, trainer->tap_count);
    memcpy(out, v->data, trainer->n * v->size * sizeof(float));
    return DN_OK;
}

dn_status dn_trainer_tap_add(dn_trainer *trainer, int32_t tap, const float *gradient, dn_error *err) {
    if (!value_of(trainer, tap)) return dn_fail(err, DN_EINVAL, "tap %d takes no gradient: there are %d, and one waits for its gradient after a forward pass that reaches it", tap, trainer->tap_count);
    trainer->injected[tap] = gradient;
    return DN_OK;
}

void dn_inject(const dn_trainer *trainer, const dn_step *step, size_t image) {
    const size_t size = trainer->values[step->tensor].size;
    for (int32_t k = 0; k < trainer->tap_count; k++)
        if (trainer->taps[k] == step->tensor && trainer->injected[k]) trainer->kernels.train_f32->add(dn_slot(trainer, step->to, image), trainer->injected[k] + image * size, size);
}
