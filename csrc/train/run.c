/* run.c - walks the phases of a program over the pool; the public forward and backward. */
#include <string.h>

#include "base/clock.h"
#include "base/fpenv.h"
#include "base/pool.h"
#include "base/size.h"
#include "base/status.h"
#include "train/train.h"

enum { RUNS = 32 };

bool dn_trainer_stop(dn_trainer *trainer, int worker) {
    if (atomic_load_explicit(&trainer->cancelled, memory_order_relaxed)) return true;
    if (worker || !trainer->poll) return false;
    int64_t now = dn_clock_ns();
    if (now < trainer->next_poll) return false;
    if (trainer->poll->ask(trainer->poll->context)) {
        atomic_store_explicit(&trainer->cancelled, true, memory_order_relaxed);
        return true;
    }
    trainer->next_poll = dn_clock_ns() + trainer->poll_ns;
    return false;
}

static void read_input(const dn_trainer *trainer, size_t image) {
    const dn_value *v = &trainer->values[0];
    float *out = dn_made(v, image);
    if (trainer->dtype == DN_F32) {
        memcpy(out, (const float *)trainer->x + image * v->size, v->size * sizeof(float));
        return;
    }
    const uint8_t *in = (const uint8_t *)trainer->x + image * v->size;
    const size_t channels = (size_t)v->channels;
    for (size_t i = 0; i < v->size; i += channels)
        for (size_t c = 0; c < channels; c++) out[i + c] = trainer->table[c * 256 + in[i + c]];
}

static void make_unit(dn_trainer *trainer, int32_t tensor, size_t image, dn_scratch *scratch) {
    const dn_unit *unit = &trainer->units[tensor];
    switch (unit->kind) {
    case DN_UNIT_NONE: return;
    case DN_UNIT_INPUT: read_input(trainer, image); break;
    case DN_UNIT_LAYER: dn_layer_forward(trainer, unit, image, scratch); break;
    case DN_UNIT_BLEND: dn_blend_forward(trainer, unit, image, dn_made(&trainer->values[tensor], image), 1, 0); return; /* it rounds what it makes */
    case DN_UNIT_OP: dn_op_forward(trainer, unit, image); break;
    }
    dn_round_value(trainer, tensor, image);
}

static void run_unit(dn_trainer *trainer, int32_t tensor, size_t image, dn_scratch *scratch) {
    make_unit(trainer, tensor, image, scratch);
    if (trainer->values[tensor].made) dn_code_forward(trainer, &trainer->values[tensor], image);
}

static void run_hook(const dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image) {
    const dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
    const dn_value *y = &trainer->values[step->tensor];
    dn_hook_call call = {unit->node, (int32_t)image, dn_slot(trainer, step->from, image), y->height, y->width, y->channels};
    layer->hooks.gradient(layer->hooks.context, &call);
}

/* One step on one image, before its result is rounded. */
static void do_step(dn_trainer *trainer, const dn_step *step, size_t image, size_t split, dn_scratch *scratch) {
    const dn_unit *unit = &trainer->units[step->tensor];
    const dn_value *v = &trainer->values[step->tensor];
    switch (step->kind) {
    case DN_STEP_UNIT: run_unit(trainer, step->tensor, image, scratch); return;
    case DN_STEP_SUMS:
        trainer->kernels.train_f32->sums(dn_image(v, image), v->size / (size_t)v->channels, (size_t)v->channels,
                                         trainer->norms[trainer->norm_of[step->node]].partial + image * 3 * (size_t)v->channels);
        return;
    case DN_STEP_SEED: memcpy(dn_slot(trainer, step->to, image), trainer->d_logits + image * v->size, v->size * sizeof(float)); return;
    case DN_STEP_INJECT: dn_inject(trainer, step, image); return;
    case DN_STEP_ACT: dn_blend_actgrad(trainer, step, image, scratch); return;
    case DN_STEP_APPLY: dn_blend_normgrad(trainer, unit, dn_slot(trainer, step->from, image), image, dn_slot(trainer, step->to, image), 1, 0); return;
    case DN_STEP_ADD: trainer->kernels.train_f32->add(dn_slot(trainer, step->to, image), step->from == DN_SCRATCH ? scratch->back : dn_slot(trainer, step->from, image), v->size); return;
    case DN_STEP_COPY: memcpy(dn_slot(trainer, step->to, image), dn_slot(trainer, step->from, image), v->size * sizeof(float)); return;
    case DN_STEP_HOOK: run_hook(trainer, unit, step, image); return;
    case DN_STEP_CODE: dn_code_backward(trainer, &trainer->values[step->tensor], image, dn_slot(trainer, step->from, image)); return;
    case DN_STEP_LAYER: dn_layer_backward(trainer, unit, step, image, split, scratch); return;
    case DN_STEP_OP: dn_op_backward(trainer, unit, step, image); return;
    case DN_STEP_LINEAR:
    case DN_STEP_WEIGHTS: return; /* phases of their own */
    }
}

static void run_step(dn_trainer *trainer, const dn_step *step, size_t image, size_t split, dn_scratch *scratch) {
    do_step(trainer, step, image, split, scratch);
    if (step->kind > DN_STEP_SEED) dn_round_gradient(trainer, step, image, scratch);
}

/* ---- images that one step does together ---- */

static const dn_layer *winograd_layer(const dn_trainer *trainer, const dn_step *step) {
    const dn_unit *unit = &trainer->units[step->tensor];
    const bool wanted = (step->kind == DN_STEP_UNIT && unit->kind == DN_UNIT_LAYER) || (step->kind == DN_STEP_LAYER && step->to >= 0);
    const dn_layer *layer = wanted ? &trainer->layers[trainer->layer_of[unit->node]] : NULL;
    return layer && layer->wino_images > 1 && dn_winograd_pays(layer) ? layer : NULL;
}

/* How many images go through the phase's steps side by side; one where a step leaves something in the scratch of the worker. */
static size_t together(const dn_trainer *trainer) {
    size_t most = 1;
    for (int32_t s = trainer->phase->first; s < trainer->phase->last; s++) {
        const dn_step *step = &trainer->phase_steps[s];
        const dn_layer *layer = winograd_layer(trainer, step);
        if (step->kind > DN_STEP_SEED && (step->from == DN_SCRATCH || step->to == DN_SCRATCH)) return 1;
        if (layer) most = dn_size_max(most, (size_t)layer->wino_images);
    }
    return most;
}

static void run_together(dn_trainer *trainer, const dn_step *step, size_t image, size_t count, size_t split, dn_scratch *scratch) {
    const dn_unit *unit = &trainer->units[step->tensor];
    if (count == 1 || !winograd_layer(trainer, step)) {
        for (size_t i = image; i < image + count; i++) run_step(trainer, step, i, split, scratch);
        return;
    }
    if (step->kind == DN_STEP_UNIT) dn_winograd_forward(trainer, unit, image, count, scratch);
    else dn_layer_backward_together(trainer, unit, step, image, count, scratch);
    for (size_t i = image; i < image + count; i++) {
        if (step->kind == DN_STEP_UNIT) dn_round_value(trainer, step->tensor, i);
        else dn_round_gradient(trainer, step, i, scratch);
        if (step->kind == DN_STEP_UNIT && trainer->values[step->tensor].made) dn_code_forward(trainer, &trainer->values[step->tensor], i);
    }
}

/* ---- what the next image of this worker will touch ---- */

static void add_stream(dn_ahead *ahead, const float *begin, size_t floats) {
    const char *at = (const char *)begin;
    for (int32_t k = 0; k < ahead->count; k++)
        if (ahead->streams[k].at == at) return;
    if (!begin || ahead->count == DN_STREAMS) return;
    ahead->streams[ahead->count].at = at;
    ahead->streams[ahead->count++].end = at + floats * sizeof(float);
}

static void add_value(const dn_trainer *trainer, dn_ahead *ahead, int32_t tensor, size_t image) {
    if (tensor >= 0 && trainer->values[tensor].data && !trainer->units[tensor].transient) add_stream(ahead, dn_image(&trainer->values[tensor], image), trainer->values[tensor].size);
}

static void add_slot(const dn_trainer *trainer, dn_ahead *ahead, int32_t slot, size_t image, size_t floats) {
    if (slot >= 0) add_stream(ahead, dn_slot(trainer, slot, image), floats);
}

static void add_sources(const dn_trainer *trainer, dn_ahead *ahead, const dn_unit *unit, size_t image) {
    if (unit->z >= 0 && trainer->units[unit->z].transient) unit = &trainer->units[unit->z];
    add_value(trainer, ahead, unit->z, image);
    add_value(trainer, ahead, unit->residual, image);
}

static void look_ahead(const dn_trainer *trainer, size_t image, size_t end, dn_ahead *ahead) {
    ahead->count = 0;
    for (int32_t s = trainer->phase->last - 1; s >= trainer->phase->first && image + 1 < end; s--) { /* the list is worked off from its end */
        const dn_step *step = &trainer->phase_steps[s];
        const dn_unit *unit = &trainer->units[step->tensor];
        size_t floats = trainer->values[step->tensor].size;
        add_value(trainer, ahead, step->tensor, image + 1);
        if (step->kind >= DN_STEP_SEED) {
            if (step->kind != DN_STEP_LAYER && step->kind != DN_STEP_OP) add_slot(trainer, ahead, step->to, image + 1, floats);
            add_slot(trainer, ahead, step->from, image + 1, floats);
            if (step->kind == DN_STEP_ACT) add_slot(trainer, ahead, step->second, image + 1, floats);
        }
        if (step->kind != DN_STEP_SUMS) add_sources(trainer, ahead, unit, image + 1);
    }
}

static void run_images(dn_trainer *trainer, size_t begin, size_t end, size_t split, int worker) {
    dn_scratch *scratch = &trainer->scratch[worker];
    for (size_t i = begin; i < end; i += trainer->phase_images) {
        size_t count = dn_size_min(trainer->phase_images, end - i);
        look_ahead(trainer, i + count - 1, end, &scratch->ahead);
        for (int32_t s = trainer->phase->first; s < trainer->phase->last; s++) {
            if (dn_trainer_stop(trainer, worker)) return;
            run_together(trainer, &trainer->phase_steps[s], i, count, split, scratch);
        }
    }
}

/* Images are handed out in runs, so that a worker knows which one comes next. */
static void image_task(void *context, size_t item, int worker) {
    dn_trainer *trainer = context;
    run_images(trainer, item * trainer->n / trainer->phase_items, (item + 1) * trainer->n / trainer->phase_items, 0, worker);
}

static void block_task(void *context, size_t item, int worker) {
    dn_trainer *trainer = context;
    size_t first = item * DN_BLOCK, count = dn_size_min(DN_BLOCK, trainer->n - first);
    for (int32_t s = trainer->phase->first; s < trainer->phase->last && !dn_trainer_stop(trainer, worker); s++) {
        const dn_step *step = &trainer->phase_steps[s];
        const dn_value *v = &trainer->values[step->tensor];
        if (step->kind == DN_STEP_LINEAR) dn_linear_backward(trainer, &trainer->units[step->tensor], step, first, count);
        else dn_linear_forward(trainer, &trainer->units[step->tensor], first, count);
        for (size_t i = first; i < first + count; i++) {
            if (step->kind == DN_STEP_LINEAR) dn_round_gradient(trainer, step, i, &trainer->scratch[worker]);
            else dn_round_value(trainer, step->tensor, i);
            if (step->kind != DN_STEP_LINEAR && v->made) dn_code_forward(trainer, v, i);
        }
    }
}

static dn_layer *gradient_layer(const dn_trainer *trainer, const dn_step *step) {
    const dn_unit *unit = &trainer->units[step->tensor];
    return (step->kind == DN_STEP_LAYER || step->kind == DN_STEP_WEIGHTS || step->kind == DN_STEP_ACT) && unit->kind == DN_UNIT_LAYER ? &trainer->layers[trainer->layer_of[unit->node]] : NULL;
}

static void split_task(void *context, size_t item, int worker) {
    dn_trainer *trainer = context;
    for (int32_t s = trainer->phase->first; s < trainer->phase->last; s++) {
        const dn_layer *layer = trainer->phase_steps[s].kind == DN_STEP_LAYER ? gradient_layer(trainer, &trainer->phase_steps[s]) : NULL;
        if (layer && !layer->weight.frozen) memset(trainer->splits + item * trainer->split_floats + layer->split_offset, 0, layer->split_size * sizeof(float));
    }
    run_images(trainer, item * trainer->n / DN_SPLITS, (item + 1) * trainer->n / DN_SPLITS, item, worker);
}

static void weights_task(void *context, size_t item, int worker) {
    dn_trainer *trainer = context;
    const dn_step *step = &trainer->phase_steps[trainer->phase->first];
    if (!dn_trainer_stop(trainer, worker)) dn_weights_item(trainer, &trainer->units[step->tensor], step, item, worker);
}

/* What had to wait for every image: statistics, and sums of gradients. */
static void finish_step(dn_trainer *trainer, const dn_step *step) {
    const dn_unit *unit = &trainer->units[step->tensor];
    dn_layer *layer = gradient_layer(trainer, step);
    if (step->kind == DN_STEP_SUMS) dn_norm_finish_forward(trainer, &trainer->norms[trainer->norm_of[step->node]], &trainer->values[step->tensor]);
    if (step->kind == DN_STEP_ACT && unit->kind == DN_UNIT_BLEND && unit->norm >= 0)
        dn_norm_finish_backward(trainer, &trainer->norms[trainer->norm_of[unit->norm]], &trainer->values[unit->z]);
    if (!layer || layer->weight.frozen) return;
    if (step->kind == DN_STEP_LAYER && layer->split_size) dn_layer_finish_splits(trainer, layer);
    if (!layer->bias.count) return;
    if (step->kind == DN_STEP_ACT || (step->kind == DN_STEP_LAYER && unit->act == DN_ACT_NONE)) dn_layer_finish_bias(trainer, layer);
    if (step->kind == DN_STEP_WEIGHTS && layer->kind == DN_LAYER_LINEAR && unit->act == DN_ACT_NONE) dn_linear_finish_bias(trainer, layer, step->from);
}

dn_status dn_trainer_run_phases(dn_trainer *trainer, const dn_phase *phases, int32_t count, const dn_step *steps) {
    atomic_store(&trainer->cancelled, false);
    trainer->next_poll = dn_clock_ns() + trainer->poll_ns;
    trainer->phase_steps = steps;
    for (int32_t p = 0; p < count; p++) {
        trainer->phase = &phases[p];
        trainer->phase_images = together(trainer);
        const dn_step *first = &steps[phases[p].first];
        switch (phases[p].mode) {
        case DN_PHASE_IMAGES:
            trainer->phase_items = dn_size_min(dn_ceil_div(trainer->n, trainer->phase_images), RUNS);
            (void)dn_pool_run(trainer->threads, trainer->phase_items, image_task, trainer, NULL);
            break;
        case DN_PHASE_BLOCKS: (void)dn_pool_run(trainer->threads, dn_ceil_div(trainer->n, DN_BLOCK), block_task, trainer, NULL); break;
        case DN_PHASE_SPLITS: (void)dn_pool_run(trainer->threads, DN_SPLITS, split_task, trainer, NULL); break;
        case DN_PHASE_WEIGHTS:
            (void)dn_pool_run(trainer->threads, dn_weights_items(trainer, &trainer->layers[trainer->layer_of[trainer->units[first->tensor].node]]), weights_task, trainer, NULL);
            break;
        }
        if (dn_trainer_stop(trainer, 0)) return DN_EINTERRUPTED;
        for (int32_t s = phases[p].first; s < phases[p].last; s++) finish_step(trainer, &steps[s]);
    }
    return DN_OK;
}

static dn_status check_forward(const dn_trainer *trainer, const dn_subnet *subnet, const void *input, dn_dtype dtype, size_t n, int32_t stat_slot, const float *logits, dn_error *err) {
    if (!subnet || !subnet->active || !input || !logits) return dn_fail(err, DN_EINVAL, "a training step needs a sub-net, images and room for logits");
    if (n < 1 || n > (size_t)trainer->batch) return dn_fail(err, DN_EINVAL, "%zu images: this trainer takes 1 to %d", n, trainer->batch);
    if (dtype != DN_F32 && dtype != DN_U8) return dn_fail(err, DN_EINVAL, "images must be uint8 or float32");
    if (dtype == DN_U8 && !trainer->table) return dn_fail(err, DN_EINVAL, "uint8 images need an input table");
    if (stat_slot < -1 || stat_slot >= trainer->slots_stat) return dn_fail(err, DN_EINVAL, "statistics slot %d: there are %d", stat_slot, trainer->slots_stat);
    return dn_graph_check_subnet(trainer->graph, subnet, err);
}

static void stage_statistics(dn_trainer *trainer, int32_t slot) {
    size_t floats = 2 * (size_t)trainer->graph->norm_channels;
    if (slot < 0 || floats == 0) return;
    if (!trainer->is_staged[slot]) memcpy(trainer->staged + (size_t)slot * floats, trainer->running + (size_t)slot * floats, floats * sizeof(float));
    trainer->is_staged[slot] = true;
    for (int32_t k = 0; k < trainer->norm_count; k++) {
        const dn_norm *norm = &trainer->norms[k];
        if (trainer->values[norm->index].live) dn_norm_stage(trainer, norm, &trainer->values[norm->index], slot);
    }
}

dn_status dn_trainer_forward(dn_trainer *trainer, const dn_subnet *subnet, const void *input, dn_dtype dtype, size_t n, int32_t stat_slot, uint64_t step, float *logits,
                             const dn_poll *poll, dn_error *err) {
    DN_TRY(check_forward(trainer, subnet, input, dtype, n, stat_slot, logits, err));
    dn_fpenv env = dn_fpenv_enter();
    trainer->ready = false;
    dn_trainer_forget_taps(trainer);
    trainer->n = n;
    trainer->step = step;
    trainer->x = input;
    trainer->dtype = dtype;
    trainer->poll = poll;
    dn_code_begin(trainer, subnet);
    trainer->affine = trainer->affine_sets > 1 && stat_slot > 0 ? stat_slot : 0;
    dn_status status = dn_program_build(trainer, subnet, err);
    if (status == DN_OK) status = dn_trainer_run_phases(trainer, trainer->forward_phases, trainer->forward_phase_count, trainer->forward_steps);
    if (status == DN_EINTERRUPTED) (void)dn_fail(err, status, "the forward pass was interrupted");
    if (status == DN_OK) {
        const dn_value *out = &trainer->values[trainer->values[trainer->graph->output].root];
        memcpy(logits, out->data, n * out->size * sizeof(float));
        stage_statistics(trainer, stat_slot);
        trainer->ready = true;
    }
    dn_fpenv_leave(env);
    return status;
}

dn_status dn_trainer_backward(dn_trainer *trainer, const float *d_logits, const dn_poll *poll, dn_error *err) {
    if (!d_logits) return dn_fail(err, DN_EINVAL, "backward needs the gradient of the logits");
    if (!trainer->ready) return dn_fail(err, DN_EINVAL, "backward needs a forward pass before it");
    if (trainer->broken) return dn_fail(err, DN_EINVAL, "the last backward pass was interrupted: discard it first");
    dn_fpenv env = dn_fpenv_enter();
    trainer->ready = false;
    trainer->poll = poll;
    trainer->d_logits = d_logits;
    dn_status status = dn_trainer_run_phases(trainer, trainer->backward_phases, trainer->backward_phase_count, trainer->backward_steps);
    if (status != DN_OK) {
        trainer->broken = true;
        (void)dn_fail(err, status, "the backward pass was interrupted");
    }
    dn_trainer_forget_taps(trainer);
    dn_fpenv_leave(env);
    return status;
}
