/* program_back.c - the backward pass of a program: which gradient lives in which slot, in which order it is made.
 *
 * A slot is one buffer for the whole batch, counted by users: a residual connection hands its gradient on without a copy, and whoever wants to change a shared slot
 * copies it first. Units are taken in reverse; a gradient that a convolution completes goes through its activation while the image is still in cache. */
#include "base/status.h"
#include "train/train.h"

typedef struct builder {
    dn_trainer *t;
    bool full; /* ran out of slots */
} builder;

static int32_t take_slot(builder *b) {
    dn_trainer *t = b->t;
    int32_t limit = t->sizing ? t->slot_capacity : t->slot_count;
    for (int32_t s = 0; s < limit; s++) {
        if (t->slot_users[s]) continue;
        t->slot_users[s] = 1;
        if (t->sizing && s >= t->slot_count) t->slot_count = s + 1;
        return s;
    }
    b->full = true;
    return 0;
}

static void drop_slot(builder *b, int32_t slot) { b->t->slot_users[slot]--; }

static void emit(builder *b, dn_step step) { b->t->backward_steps[b->t->backward_step_count++] = step; }

/* Makes the slot of tensor `owner` safe to write to. */
static int32_t own_slot(builder *b, int32_t owner) {
    dn_value *v = &b->t->values[owner];
    if (b->t->slot_users[v->slot] == 1) return v->slot;
    int32_t fresh = take_slot(b);
    emit(b, (dn_step){.kind = DN_STEP_COPY, .tensor = owner, .from = v->slot, .to = fresh});
    drop_slot(b, v->slot);
    return v->slot = fresh;
}

static dn_layer *layer_of(const dn_trainer *t, const dn_unit *unit) { return &t->layers[t->layer_of[unit->node]]; }

/* ---- which gradients are wanted ---- */

static bool trains(const dn_trainer *t, const dn_unit *unit) {
    if (unit->kind == DN_UNIT_LAYER) return !layer_of(t, unit)->weight.frozen;
    if (unit->kind == DN_UNIT_BLEND && unit->norm >= 0) return !t->norms[t->norm_of[unit->norm]].gamma->frozen;
    return false;
}

static void find_needs(dn_trainer *t) {
    for (int32_t i = 0; i < t->graph->count; i++) {
        const dn_unit *unit = &t->units[i];
        const dn_node *node = &t->graph->nodes[unit->node];
        bool needs = trains(t, unit);
        switch (unit->kind) {
        case DN_UNIT_NONE:
        case DN_UNIT_INPUT: continue;
        case DN_UNIT_LAYER:
            needs = needs || t->values[unit->z].needs;
            t->values[unit->z].remaining++;
            break;
        case DN_UNIT_BLEND:
            needs = needs || t->values[unit->z].needs || (unit->residual >= 0 && t->values[unit->residual].needs);
            t->values[unit->z].remaining++;
            if (unit->residual >= 0) t->values[unit->residual].remaining++;
            break;
        case DN_UNIT_OP:
            for (int32_t k = 0; k < node->input_count; k++) {
                dn_value *x = &t->values[t->values[node->inputs[k]].root];
                needs = needs || x->needs;
                x->remaining++;
            }
            break;
        }
        t->values[i].needs = needs;
    }
    t->values[t->values[t->graph->output].root].remaining++;
    for (int32_t i = 0; i < t->graph->count; i++) t->values[i].remaining += t->values[i].tapped; /* so that its activation waits for what is added */
}

/* ---- contributions ---- */

static bool wants_act(const dn_trainer *t, int32_t tensor) {
    const dn_unit *unit = &t->units[tensor];
    if (unit->kind == DN_UNIT_LAYER) return unit->act != DN_ACT_NONE;
    return unit->kind == DN_UNIT_BLEND && (unit->act != DN_ACT_NONE || unit->norm >= 0);
}

/* Gradient in slot s reaches tensor x as well as its present owner. */
static void share(builder *b, int32_t x, int32_t s) {
    dn_value *v = &b->t->values[x];
    v->remaining--;
    if (v->slot < 0) {
        v->slot = s;
        b->t->slot_users[s]++;
        return;
    }
    int32_t to = own_slot(b, x);
    emit(b, (dn_step){.kind = DN_STEP_ADD, .tensor = x, .from = s, .to = to});
}

static void hand_over(builder *b, int32_t x, int32_t s) {
    share(b, x, s);
    drop_slot(b, s);
}

/* ---- units ---- */

/* The gradient before the activation, in place where the slot is its own. */
static void emit_act(builder *b, int32_t tensor) {
    dn_value *v = &b->t->values[tensor];
    const dn_unit *unit = &b->t->units[tensor];
    int32_t from = v->slot, to = from;
    v->acted = true;
    if (unit->act != DN_ACT_NONE && b->t->slot_users[from] > 1) {
        to = take_slot(b);
        drop_slot(b, from);
    }
    emit(b, (dn_step){.kind = DN_STEP_ACT, .tensor = tensor, .from = from, .second = DN_NOWHERE, .to = to});
    v->slot = to;
}

/* dx of a convolution, in scratch memory, is the last contribution to tensor x: on to its activation at once. */
static void emit_act_from_scratch(builder *b, int32_t x) {
    dn_value *v = &b->t->values[x];
    int32_t second = v->slot, to = second >= 0 && b->t->slot_users[second] == 1 ? second : take_slot(b);
    emit(b, (dn_step){.kind = DN_STEP_ACT, .tensor = x, .from = DN_SCRATCH, .second = second, .to = to});
    if (second >= 0 && to != second) drop_slot(b, second);
    v->slot = to;
    v->acted = true;
}

static void emit_input_gradient(builder *b, const dn_unit *unit, int32_t tensor, int32_t s) {
    dn_trainer *t = b->t;
    dn_value *x = &t->values[unit->z];
    dn_step step = {.kind = DN_STEP_LAYER, .tensor = tensor, .from = s, .to = DN_SCRATCH};
    x->remaining--;
    if (x->remaining == 0 && wants_act(t, unit->z) && !x->coded) {
        emit(b, step);
        drop_slot(b, s); /* from here on the image's part of s is free for what follows in this phase */
        emit_act_from_scratch(b, unit->z);
    } else if (x->slot < 0) {
        step.to = x->slot = take_slot(b);
        emit(b, step);
        drop_slot(b, s);
    } else {
        emit(b, step);
        drop_slot(b, s);
        int32_t to = own_slot(b, unit->z);
        emit(b, (dn_step){.kind = DN_STEP_ADD, .tensor = unit->z, .from = DN_SCRATCH, .to = to});
    }
}

static void emit_linear_gradient(builder *b, const dn_unit *unit, int32_t tensor, int32_t s) {
    dn_value *x = &b->t->values[unit->z];
    int32_t to = take_slot(b);
    emit(b, (dn_step){.kind = DN_STEP_LINEAR, .tensor = tensor, .from = s, .to = to});
    drop_slot(b, s);
    hand_over(b, unit->z, to);
    (void)x;
}

static void emit_layer(builder *b, int32_t tensor) {
    dn_trainer *t = b->t;
    dn_unit *unit = &t->units[tensor];
    dn_value *v = &t->values[tensor];
    dn_layer *layer = layer_of(t, unit);
    if (unit->act != DN_ACT_NONE && !v->acted) emit_act(b, tensor);
    if (layer->hooks.gradient) emit(b, (dn_step){.kind = DN_STEP_HOOK, .tensor = tensor, .from = own_slot(b, tensor)});
    int32_t s = v->slot;
    bool dx = t->values[unit->z].needs, whole = layer->heavy || layer->kind == DN_LAYER_LINEAR;
    if (whole && !layer->weight.frozen) emit(b, (dn_step){.kind = DN_STEP_WEIGHTS, .tensor = tensor, .from = s});
    if (dx && layer->kind == DN_LAYER_LINEAR) {
        emit_linear_gradient(b, unit, tensor, s);
    } else if (dx) {
        emit_input_gradient(b, unit, tensor, s);
    } else {
        if (layer->kind != DN_LAYER_LINEAR) emit(b, (dn_step){.kind = DN_STEP_LAYER, .tensor = tensor, .from = s, .to = DN_NOWHERE});
        drop_slot(b, s);
    }
}

/* Can the convolution behind a batch norm make its own output gradient, image by image? */
static bool makes_gradient(const dn_trainer *t, int32_t z) {
    const dn_unit *unit = &t->units[z];
    if (unit->kind != DN_UNIT_LAYER || t->values[z].users != 1 || t->values[z].tapped || t->values[z].coded) return false;
    const dn_layer *layer = layer_of(t, unit);
    return layer->kind != DN_LAYER_LINEAR && !layer->heavy && !layer->hooks.gradient;
}

static void emit_blend(builder *b, int32_t tensor) {
    dn_trainer *t = b->t;
    const dn_unit *unit = &t->units[tensor];
    dn_value *v = &t->values[tensor];
    if (wants_act(t, tensor) && !v->acted) emit_act(b, tensor);
    int32_t s = v->slot;
    if (unit->residual >= 0 && t->values[unit->residual].needs) share(b, unit->residual, s);
    if (!t->values[unit->z].needs) {
        drop_slot(b, s);
    } else if (unit->norm < 0) {
        hand_over(b, unit->z, s);
    } else if (makes_gradient(t, unit->z)) {
        t->units[unit->z].from_norm = true;
        t->units[unit->z].blend = tensor;
        t->values[unit->z].slot = s;
        t->values[unit->z].remaining--;
    } else {
        int32_t to = t->slot_users[s] == 1 ? s : take_slot(b);
        emit(b, (dn_step){.kind = DN_STEP_APPLY, .tensor = tensor, .from = s, .to = to});
        if (to != s) drop_slot(b, s);
        hand_over(b, unit->z, to);
    }
}

static void emit_op(builder *b, int32_t tensor) {
    dn_trainer *t = b->t;
    const dn_node *node = &t->graph->nodes[t->units[tensor].node];
    int32_t s = t->values[tensor].slot;
    for (int32_t k = 0; k < node->input_count; k++) {
        int32_t x = t->values[node->inputs[k]].root;
        dn_value *v = &t->values[x];
        v->remaining--;
        if (!v->needs) continue;
        bool accumulate = v->slot >= 0;
        if (accumulate) (void)own_slot(b, x);
        else v->slot = take_slot(b);
        emit(b, (dn_step){.kind = DN_STEP_OP, .tensor = tensor, .input = k, .from = s, .to = v->slot, .accumulate = accumulate});
    }
    drop_slot(b, s);
}

/* ---- phases ---- */

static dn_phase_mode mode_of(dn_step_kind kind) { return kind == DN_STEP_WEIGHTS ? DN_PHASE_WEIGHTS : kind == DN_STEP_LINEAR ? DN_PHASE_BLOCKS : DN_PHASE_SPLITS; }

/* The batch norm whose gradient sums must be complete before the step, or -1. */
static int32_t waits_for(const dn_trainer *t, const dn_step *step) {
    const dn_unit *unit = &t->units[step->tensor];
    if (step->kind == DN_STEP_APPLY) return unit->norm;
    if (step->kind == DN_STEP_LAYER && unit->from_norm) return t->units[unit->blend].norm;
    return -1;
}

static bool sums_pending(const dn_trainer *t, const dn_phase *phase, int32_t norm) {
    for (int32_t s = phase->first; norm >= 0 && s < phase->last; s++) {
        const dn_step *step = &t->backward_steps[s];
        if (step->kind == DN_STEP_ACT && t->units[step->tensor].kind == DN_UNIT_BLEND && t->units[step->tensor].norm == norm) return true;
    }
    return false;
}

/* Light weight gradients of one phase share the split buffers, as far as they go. */
static void cut_phases(dn_trainer *t) {
    size_t used = 0;
    t->backward_phase_count = 0;
    for (int32_t s = 0; s < t->backward_step_count; s++) {
        const dn_step *step = &t->backward_steps[s];
        dn_phase *open = t->backward_phase_count ? &t->backward_phases[t->backward_phase_count - 1] : NULL;
        dn_phase_mode mode = mode_of(step->kind);
        dn_layer *layer = step->kind == DN_STEP_LAYER ? layer_of(t, &t->units[step->tensor]) : NULL;
        size_t wanted = layer && !layer->weight.frozen ? layer->split_size : 0;
        if (!open || mode != DN_PHASE_SPLITS || open->mode != mode || used + wanted > t->split_floats || sums_pending(t, open, waits_for(t, step))) {
            t->backward_phases[t->backward_phase_count++] = (dn_phase){s, s, mode};
            open = &t->backward_phases[t->backward_phase_count - 1];
            used = 0;
        }
        if (layer) layer->split_offset = used;
        used += wanted;
        open->last = s + 1;
    }
}

dn_status dn_program_build_backward(dn_trainer *t, dn_error *err) {
    builder b = {.t = t};
    t->backward_step_count = 0;
    for (int32_t s = 0; s < t->slot_capacity; s++) t->slot_users[s] = 0;
    find_needs(t);
    int32_t output = t->values[t->graph->output].root;
    if (t->values[output].needs) {
        t->values[output].slot = take_slot(&b);
        t->values[output].remaining--;
        emit(&b, (dn_step){.kind = DN_STEP_SEED, .tensor = output, .to = t->values[output].slot});
    }
    for (int32_t i = output; i >= 0; i--) {
        if (t->values[i].slot < 0 || !t->values[i].needs) continue;
        if (t->values[i].tapped) emit(&b, (dn_step){.kind = DN_STEP_INJECT, .tensor = i, .from = DN_NOWHERE, .to = own_slot(&b, i)});
        if (t->values[i].coded) {
            const int32_t own = own_slot(&b, i);
            emit(&b, (dn_step){.kind = DN_STEP_CODE, .tensor = i, .from = own, .to = own});
        }
        switch (t->units[i].kind) {
        case DN_UNIT_NONE:
        case DN_UNIT_INPUT: break;
        case DN_UNIT_LAYER: emit_layer(&b, i); break;
        case DN_UNIT_BLEND: emit_blend(&b, i); break;
        case DN_UNIT_OP: emit_op(&b, i); break;
        }
    }
    if (b.full) return dn_fail(err, DN_EUNSUPPORTED, "this sub-net needs more than the %d gradient buffers of its trainer", t->slot_count);
    cut_phases(t);
    return DN_OK;
}
