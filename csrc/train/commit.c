/* commit.c - the end of a step: all parameters and statistics change, or none do. */
#include <math.h>
#include <string.h>

#include "base/fpenv.h"
#include "base/status.h"
#include "train/train.h"

/* Calls body for every parameter that is not frozen, in node order, with `param` and the node's index `node`; a batch norm may have several sets. */
#define FOR_EACH_PARAM(trainer, ...)                                                                                                            \
    do {                                                                                                                                        \
        for (int32_t node = 0; node < (trainer)->graph->count; node++) {                                                                        \
            dn_layer *layer_here = (trainer)->layer_of[node] < 0 ? NULL : &(trainer)->layers[(trainer)->layer_of[node]];                        \
            dn_norm *norm_here = (trainer)->norm_of[node] < 0 ? NULL : &(trainer)->norms[(trainer)->norm_of[node]];                             \
            if (!layer_here && !norm_here) continue;                                                                                            \
            const int32_t sets_here = layer_here ? 1 : (trainer)->affine_sets;                                                                  \
            for (int32_t k = 0; k < 2 * sets_here; k++) {                                                                                       \
                const int which = k % 2;                                                                                                        \
                dn_param *param = layer_here ? (which ? &layer_here->bias : &layer_here->weight)                                                \
                                             : (which ? norm_here->beta : norm_here->gamma) + k / 2;                                            \
                (void)which;                                                                                                                    \
                if (!param->count || param->frozen) continue;                                                                                   \
                __VA_ARGS__;                                                                                                                    \
            }                                                                                                                                   \
        }                                                                                                                                       \
    } while (0)

static dn_status check_update(const dn_update *u, dn_error *err) {
    if (u->optimizer != DN_SGD && u->optimizer != DN_ADAMW) return dn_fail(err, DN_EINVAL, "the optimizer must be SGD or AdamW");
    if (!(u->lr >= 0) || isinf(u->lr)) return dn_fail(err, DN_EINVAL, "the learning rate must be finite and not negative, got %g", (double)u->lr);
    if (!(u->weight_decay >= 0) || isinf(u->weight_decay)) return dn_fail(err, DN_EINVAL, "weight decay must be finite and not negative, got %g", (double)u->weight_decay);
    if (isnan(u->clip_norm)) return dn_fail(err, DN_EINVAL, "clip_norm is NaN");
    if (u->optimizer == DN_SGD && !(u->momentum >= 0 && u->momentum < 1)) return dn_fail(err, DN_EINVAL, "momentum must be in [0, 1), got %g", (double)u->momentum);
    if (u->optimizer == DN_ADAMW && !(u->beta1 >= 0 && u->beta1 < 1 && u->beta2 >= 0 && u->beta2 < 1))
        return dn_fail(err, DN_EINVAL, "beta1 and beta2 must be in [0, 1), got %g and %g", (double)u->beta1, (double)u->beta2);
    if (u->optimizer == DN_ADAMW && !(u->epsilon > 0)) return dn_fail(err, DN_EINVAL, "epsilon must be positive, got %g", (double)u->epsilon);
    return DN_OK;
}

static dn_status check_statistics(const dn_trainer *trainer, dn_error *err) {
    const size_t floats = 2 * (size_t)trainer->graph->norm_channels;
    for (int32_t s = 0; s < trainer->slots_stat; s++)
        for (size_t i = 0; trainer->is_staged[s] && i < floats; i++)
            if (!isfinite(trainer->staged[(size_t)s * floats + i])) return dn_fail(err, DN_ENONFINITE, "batch-norm statistics of slot %d are not finite", s);
    return DN_OK;
}

/* Squares of floats cannot overflow in double: the norm is finite if and only if every gradient is. */
static dn_status gradient_norm(dn_trainer *trainer, double *norm, dn_error *err) {
    double total = 0;
    FOR_EACH_PARAM(trainer, {
        double squares = trainer->kernels.train_f32->sum_squares(param->gradient, param->count);
        if (!isfinite(squares))
            return dn_fail(err, DN_ENONFINITE, "%s %d (%s): the gradient of its %s is not finite", dn_op_name(trainer->graph->nodes[node].op), node, trainer->graph->nodes[node].name,
                           which ? "bias" : "weight");
        total += squares;
    });
    *norm = sqrt(total);
    return DN_OK;
}

static void apply(dn_trainer *trainer, const dn_update *u, float gain) {
    const double t = (double)trainer->steps + 1;
    const dn_train_f32 *kernels = trainer->kernels.train_f32;
    FOR_EACH_PARAM(trainer, {
        float decay = param->decays ? u->weight_decay : 0;
        if (u->optimizer == DN_SGD) {
            dn_sgd_step step = {gain, u->lr, u->momentum, decay, u->nesterov};
            kernels->sgd(param->value, param->gradient, param->moment1, param->count, &step);
        } else {
            dn_adamw_step step = {.gain = gain,
                                  .lr = u->lr,
                                  .beta1 = u->beta1,
                                  .beta2 = u->beta2,
                                  .epsilon = u->epsilon,
                                  .shrink = (float)(1 - (double)u->lr * (double)decay),
                                  .correction1 = (float)(1 - pow((double)u->beta1, t)),
                                  .correction2 = (float)sqrt(1 - pow((double)u->beta2, t))};
            kernels->adamw(param->value, param->gradient, param->moment1, param->moment2, param->count, &step);
        }
        if (layer_here) layer_here->stale = true;
    });
}

static void clear(dn_trainer *trainer) {
    FOR_EACH_PARAM(trainer, memset(param->gradient, 0, param->count * sizeof(float)));
    for (int32_t s = 0; s < trainer->slots_stat; s++) trainer->is_staged[s] = false;
    trainer->ready = trainer->broken = false;
}

dn_status dn_trainer_commit(dn_trainer *trainer, const dn_update *update, double *norm, dn_error *err) {
    DN_TRY(check_update(update, err));
    if (trainer->broken) return dn_fail(err, DN_EINVAL, "the last backward pass was interrupted: discard it first");
    dn_fpenv env = dn_fpenv_enter();
    double length = 0;
    dn_status status = gradient_norm(trainer, &length, err);
    if (status == DN_OK) status = check_statistics(trainer, err);
    if (status == DN_OK) {
        const size_t floats = 2 * (size_t)trainer->graph->norm_channels;
        float clip = update->clip_norm;
        apply(trainer, update, clip > 0 && length > (double)clip ? (float)((double)clip / (length + 1e-6)) : 1);
        for (int32_t s = 0; s < trainer->slots_stat; s++)
            if (trainer->is_staged[s]) memcpy(trainer->running + (size_t)s * floats, trainer->staged + (size_t)s * floats, floats * sizeof(float));
        trainer->steps++;
        clear(trainer);
        if (norm) *norm = length;
    }
    dn_fpenv_leave(env);
    return status;
}

void dn_trainer_discard(dn_trainer *trainer) { clear(trainer); }

static bool all_finite(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!isfinite(x[i])) return false;
    return true;
}

dn_status dn_trainer_diagnose(const dn_trainer *trainer, dn_error *err) {
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        const dn_value *v = &trainer->values[i];
        const dn_node *node = &trainer->graph->nodes[i];
        if (!v->data || !v->live || trainer->units[i].kind == DN_UNIT_NONE || trainer->units[i].transient) continue;
        if (!all_finite(v->data, trainer->n * v->size)) return dn_fail(err, DN_ENONFINITE, "%s %d (%s): its output is not finite", dn_op_name(node->op), i, node->name);
    }
    for (int32_t i = trainer->graph->count - 1; i >= 0; i--) {
        const dn_node *node = &trainer->graph->nodes[i];
        const dn_layer *layer = trainer->layer_of[i] < 0 ? NULL : &trainer->layers[trainer->layer_of[i]];
        const dn_norm *norm = trainer->norm_of[i] < 0 ? NULL : &trainer->norms[trainer->norm_of[i]];
        const dn_param *weight = layer ? &layer->weight : norm ? &norm->gamma[trainer->affine] : NULL, *bias = layer ? &layer->bias : norm ? &norm->beta[trainer->affine] : NULL;
        if (weight && !(all_finite(weight->gradient, weight->count) && all_finite(bias->gradient, bias->count)))
            return dn_fail(err, DN_ENONFINITE, "%s %d (%s): its gradient is not finite", dn_op_name(node->op), i, node->name);
    }
    return DN_OK;
}
