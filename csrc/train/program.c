/* program.c - turns (graph, subnet) into what a forward pass does: which tensors are merged into one unit, in which phases images go through. */
#include "train/train.h"

static dn_act act_of(dn_op op) {
    switch (op) {
    case DN_OP_RELU: return DN_ACT_RELU;
    case DN_OP_RELU6: return DN_ACT_RELU6;
    case DN_OP_LEAKY_RELU: return DN_ACT_LEAKY;
    case DN_OP_HARDSWISH: return DN_ACT_HARDSWISH;
    case DN_OP_INPUT:
    case DN_OP_CONV2D:
    case DN_OP_LINEAR:
    case DN_OP_BATCHNORM:
    case DN_OP_SIGMOID:
    case DN_OP_HARDSIGMOID:
    case DN_OP_ADD:
    case DN_OP_MUL:
    case DN_OP_CONCAT:
    case DN_OP_MAX_POOL:
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL:
    case DN_OP_SHORTCUT:
    case DN_OP_PAD:
    case DN_OP_FLATTEN:
    case DN_OP_DROPOUT:
    case DN_OP_IDENTITY: return DN_ACT_NONE;
    }
    return DN_ACT_NONE;
}

/* ---- tensors ---- */

static int32_t root_of(const dn_trainer *trainer, int32_t node, int32_t input) { return trainer->values[trainer->graph->nodes[node].inputs[input]].root; }

static void bind_values(dn_trainer *trainer, const int32_t *active) {
    const dn_graph *graph = trainer->graph;
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        dn_value *v = &trainer->values[i];
        bool alias = trainer->alias[i] != i, same = node->op == DN_OP_FLATTEN || node->op == DN_OP_IDENTITY;
        v->root = alias ? trainer->values[trainer->alias[i]].root : same ? trainer->values[node->inputs[0]].root : i;
        v->channels = dn_graph_channels(graph, active, i, v->ranges);
        v->size = (size_t)node->height * (size_t)node->width * (size_t)v->channels;
        v->live = v->needs = v->acted = false;
        v->users = v->remaining = 0;
        v->slot = v->only_user = -1;
        trainer->units[i] = (dn_unit){.node = i, .z = -1, .norm = -1, .residual = -1, .blend = -1};
    }
}

static void find_live(dn_trainer *trainer) {
    const dn_graph *graph = trainer->graph;
    dn_value *out = &trainer->values[trainer->values[graph->output].root];
    out->live = true;
    out->users = 1;
    for (int32_t i = graph->count - 1; i >= 0; i--) {
        if (!trainer->values[i].live) continue;
        for (int32_t k = 0; k < graph->nodes[i].input_count; k++) {
            dn_value *source = &trainer->values[root_of(trainer, i, k)];
            source->live = true;
            source->users++;
            source->only_user = i;
        }
    }
}

/* ---- units ---- */

/* May tensor t become a part of its only reader's unit? Decided at full depth; a sub-net with fewer blocks keeps to it, so that it never wants memory that is not there. */
static bool can_absorb(dn_trainer *trainer, int32_t t) {
    dn_value *v = &trainer->values[t];
    return v->users == 1 && v->only_user >= 0 && !v->coded && (trainer->deciding ? !v->pinned : v->absorbed);
}

static bool taken(const dn_trainer *trainer, int32_t node) { return trainer->units[node].inner || trainer->units[node].kind != DN_UNIT_NONE; }

/* Grows a blend that so far ends at tensor *end by its reader, if that is an addition or an activation. */
static void grow_blend(dn_trainer *trainer, dn_unit *unit, int32_t *end) {
    const dn_graph *graph = trainer->graph;
    if (!can_absorb(trainer, *end)) return;
    int32_t reader = trainer->values[*end].only_user;
    const dn_node *node = &graph->nodes[reader];
    if (node->op == DN_OP_ADD && unit->residual < 0 && unit->norm >= 0 && !taken(trainer, reader)) {
        int32_t a = root_of(trainer, reader, 0), b = root_of(trainer, reader, 1);
        if (a == b) return;
        unit->residual = a == *end ? b : a;
    } else if (act_of(node->op) != DN_ACT_NONE) {
        unit->act = act_of(node->op);
        unit->slope = node->value;
    } else {
        return;
    }
    trainer->values[*end].absorbed = true;
    *end = reader;
    trainer->units[reader].inner = true;
    if (unit->act == DN_ACT_NONE) grow_blend(trainer, unit, end);
}

static void make_blend(dn_trainer *trainer, int32_t i) {
    const dn_node *node = &trainer->graph->nodes[i];
    dn_unit unit = {.kind = DN_UNIT_BLEND, .node = i, .z = root_of(trainer, i, 0), .norm = -1, .residual = -1, .blend = -1};
    int32_t end = i;
    if (node->op == DN_OP_BATCHNORM) unit.norm = i;
    else if (node->op == DN_OP_ADD) unit.residual = root_of(trainer, i, 1);
    else unit.act = act_of(node->op), unit.slope = node->value;
    if (unit.act == DN_ACT_NONE) grow_blend(trainer, &unit, &end);
    trainer->units[end] = unit;
}

/* A layer may apply a ReLU that is its only reader on the way out: the activation's value tells its gradient. */
static void make_layer(dn_trainer *trainer, int32_t i) {
    dn_unit unit = {.kind = DN_UNIT_LAYER, .node = i, .z = root_of(trainer, i, 0), .norm = -1, .residual = -1, .blend = -1};
    int32_t end = i;
    if (can_absorb(trainer, i)) {
        int32_t reader = trainer->values[i].only_user;
        dn_op op = trainer->graph->nodes[reader].op;
        if (op == DN_OP_RELU || op == DN_OP_RELU6) {
            unit.act = act_of(op);
            trainer->values[i].absorbed = true;
            end = reader;
        }
    }
    trainer->units[end] = unit;
}

static void make_unit(dn_trainer *trainer, int32_t i) {
    if (taken(trainer, i)) return;
    switch (trainer->graph->nodes[i].op) {
    case DN_OP_INPUT: trainer->units[i].kind = DN_UNIT_INPUT; return;
    case DN_OP_CONV2D:
    case DN_OP_LINEAR: make_layer(trainer, i); return;
    case DN_OP_BATCHNORM:
    case DN_OP_ADD:
    case DN_OP_RELU:
    case DN_OP_RELU6:
    case DN_OP_LEAKY_RELU:
    case DN_OP_HARDSWISH: make_blend(trainer, i); return;
    case DN_OP_SIGMOID:
    case DN_OP_HARDSIGMOID:
    case DN_OP_MUL:
    case DN_OP_CONCAT:
    case DN_OP_MAX_POOL:
    case DN_OP_AVG_POOL:
    case DN_OP_GLOBAL_AVG_POOL:
    case DN_OP_ADAPTIVE_AVG_POOL:
    case DN_OP_SHORTCUT:
    case DN_OP_PAD:
    case DN_OP_DROPOUT:
        trainer->units[i].kind = DN_UNIT_OP;
        trainer->units[i].z = root_of(trainer, i, 0);
        return;
    case DN_OP_FLATTEN:
    case DN_OP_IDENTITY: return;
    }
}

/* A blend that only a light convolution reads is made there, in scratch memory, instead of being stored and read back twice. */
static void mark_transient(dn_trainer *trainer) {
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        dn_unit *unit = &trainer->units[i];
        dn_value *v = &trainer->values[i];
        if (unit->kind != DN_UNIT_BLEND) continue;
        int32_t reader = v->only_user;
        bool light = v->users == 1 && reader >= 0 && trainer->layer_of[reader] >= 0 && trainer->layers[trainer->layer_of[reader]].kind != DN_LAYER_LINEAR &&
                     !trainer->layers[trainer->layer_of[reader]].heavy;
        if (trainer->deciding) v->transient = light && !v->pinned && !v->coded;
        unit->transient = v->transient && light;
    }
}

/* dense source channel per active channel of a shortcut */
static void bind_shortcut(dn_trainer *trainer, int32_t i) {
    const dn_node *node = &trainer->graph->nodes[i];
    const dn_value *x = &trainer->values[root_of(trainer, i, 0)];
    dn_value *y = &trainer->values[i];
    int32_t dense = 0;
    for (int32_t r = 0; r < y->range_count; r++)
        for (int32_t c = 0; c < y->ranges[r].count; c++, dense++) {
            int32_t source = node->map[y->ranges[r].begin + c], position = 0;
            y->index[dense] = -1;
            for (int32_t s = 0; source >= 0 && s < x->range_count; s++) {
                int32_t within = source - x->ranges[s].begin;
                if (within >= 0 && within < x->ranges[s].count) y->index[dense] = position + within;
                position += x->ranges[s].count;
            }
        }
}

static void bind_units(dn_trainer *trainer) {
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        dn_unit *unit = &trainer->units[i];
        dn_value *v = &trainer->values[i];
        if (unit->kind == DN_UNIT_NONE) continue;
        if (trainer->sizing && !unit->transient) v->stored = true;
        if (unit->kind == DN_UNIT_OP && trainer->graph->nodes[i].op == DN_OP_SHORTCUT) bind_shortcut(trainer, i);
        if (unit->kind != DN_UNIT_LAYER || trainer->sizing) continue;
        dn_layer *layer = &trainer->layers[trainer->layer_of[unit->node]];
        if (layer->stale) {
            dn_layer_refresh(trainer, layer, true);
            layer->stale = false;
        }
        dn_layer_bind(trainer, layer, &trainer->values[unit->z], v);
    }
}

/* ---- steps and phases ---- */

static bool is_linear(const dn_trainer *trainer, const dn_unit *unit) {
    return unit->kind == DN_UNIT_LAYER && trainer->layers[trainer->layer_of[unit->node]].kind == DN_LAYER_LINEAR;
}

/* The batch norm whose statistics a unit needs before it can start, or -1. */
static int32_t waits_for(const dn_trainer *trainer, const dn_unit *unit) {
    if (unit->kind == DN_UNIT_BLEND) return unit->norm;
    if (unit->kind == DN_UNIT_LAYER && trainer->units[unit->z].transient) return trainer->units[unit->z].norm;
    return -1;
}

static void push_forward(dn_trainer *trainer, dn_step step, dn_phase_mode mode, bool fresh) {
    int32_t at = trainer->forward_step_count++;
    trainer->forward_steps[at] = step;
    dn_phase *last = trainer->forward_phase_count ? &trainer->forward_phases[trainer->forward_phase_count - 1] : NULL;
    if (!last || fresh || last->mode != mode) {
        trainer->forward_phases[trainer->forward_phase_count++] = (dn_phase){at, at + 1, mode};
        return;
    }
    last->last = at + 1;
}

static void emit_forward(dn_trainer *trainer) {
    trainer->forward_step_count = trainer->forward_phase_count = 0;
    for (int32_t i = 0; i < trainer->graph->count; i++) {
        const dn_unit *unit = &trainer->units[i];
        if (unit->kind == DN_UNIT_NONE || unit->transient) continue;
        int32_t norm = waits_for(trainer, unit);
        bool linear = is_linear(trainer, unit), fresh = linear;
        const dn_phase *open = trainer->forward_phase_count ? &trainer->forward_phases[trainer->forward_phase_count - 1] : NULL;
        for (int32_t s = open && norm >= 0 ? open->first : trainer->forward_step_count; s < trainer->forward_step_count; s++)
            fresh = fresh || (trainer->forward_steps[s].kind == DN_STEP_SUMS && trainer->forward_steps[s].node == norm);
        push_forward(trainer, (dn_step){.kind = DN_STEP_UNIT, .tensor = i}, linear ? DN_PHASE_BLOCKS : DN_PHASE_IMAGES, fresh);
        for (int32_t k = 0; k < trainer->norm_count; k++) {
            int32_t index = trainer->norms[k].index;
            if (trainer->values[index].live && root_of(trainer, index, 0) == i)
                push_forward(trainer, (dn_step){.kind = DN_STEP_SUMS, .tensor = i, .node = index}, DN_PHASE_IMAGES, false);
        }
    }
}

dn_status dn_program_build(dn_trainer *trainer, const dn_subnet *subnet, dn_error *err) {
    dn_graph_resolve(trainer->graph, subnet->depth, trainer->alias, trainer->skip);
    bind_values(trainer, subnet->active);
    find_live(trainer);
    for (int32_t i = 0; i < trainer->graph->count; i++)
        if (trainer->values[i].live) make_unit(trainer, i);
    mark_transient(trainer);
    bind_units(trainer);
    emit_forward(trainer);
    return dn_program_build_backward(trainer, err);
}
