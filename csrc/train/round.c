/* round.c - training in bfloat16: every tensor, every gradient of one, and the weights that layers read are rounded once made.
 *
 * Products are summed in float32; parameters, their gradients, moments, statistics and the logits stay float32. Values are kept in 4 bytes: this defines the arithmetic on any
 * CPU, it saves no memory. */
#include "train/train.h"

void dn_round_rows(const dn_trainer *trainer, float *x, size_t rows, ptrdiff_t row, size_t count) {
    if (!trainer->bf16) return;
    for (size_t r = 0; r < rows; r++, x += row) trainer->kernels.train_f32->round_bf16(x, count);
}

void dn_round_value(const dn_trainer *trainer, int32_t tensor, size_t image) {
    const dn_value *v = &trainer->values[tensor];
    if (tensor != trainer->values[trainer->graph->output].root) dn_round_rows(trainer, dn_image(v, image), 1, 0, v->size);
}

static int32_t gradient_of(const dn_trainer *trainer, const dn_step *step) {
    const dn_unit *unit = &trainer->units[step->tensor];
    switch (step->kind) {
    case DN_STEP_LAYER:
    case DN_STEP_LINEAR: return unit->z;
    case DN_STEP_OP: return trainer->values[trainer->graph->nodes[unit->node].inputs[step->input]].root;
    case DN_STEP_ACT:
    case DN_STEP_INJECT:
    case DN_STEP_ADD:
    case DN_STEP_APPLY: return step->tensor;
    case DN_STEP_UNIT:
    case DN_STEP_SUMS:
    case DN_STEP_SEED:
    case DN_STEP_COPY:
    case DN_STEP_HOOK:
    case DN_STEP_CODE:
    case DN_STEP_WEIGHTS: return -1;
    }
    return -1;
}

void dn_round_gradient(const dn_trainer *trainer, const dn_step *step, size_t image, dn_scratch *scratch) {
    int32_t tensor = gradient_of(trainer, step);
    if (!trainer->bf16 || tensor < 0 || step->to == DN_NOWHERE) return;
    dn_round_rows(trainer, step->to == DN_SCRATCH ? scratch->back : dn_slot(trainer, step->to, image), 1, 0, trainer->values[tensor].size);
}
