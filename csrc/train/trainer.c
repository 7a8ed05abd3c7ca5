/* trainer.c - makes and frees trainers; copies of parameters, gradients, moments and statistics. */
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/pool.h"
#include "base/size.h"
#include "base/status.h"
#include "train/train.h"

enum { POLL_NS = 4000000 }; /* an image's step comes between two looks at the clock: stay well below 10 ms */

dn_status dn_trainer_own(dn_trainer *trainer, void **out, size_t count, size_t size, dn_error *err) {
    *out = NULL;
    if (trainer->owned_count == trainer->owned_capacity) return dn_fail(err, DN_ENOMEM, "a trainer owns more than %zu blocks", trainer->owned_capacity);
    DN_TRY(dn_alloc(out, count, size, err));
    trainer->owned[trainer->owned_count++] = *out;
    return DN_OK;
}

/* size floats for every image, and what vectors may read beyond. */
static dn_status own_batch(dn_trainer *trainer, float **out, size_t size, dn_error *err) {
    size_t count;
    if (!dn_size_mul((size_t)trainer->batch, size, &count) || !dn_size_add(count, 16, &count)) return dn_fail(err, DN_ENOMEM, "%d images of %zu numbers do not fit in memory", trainer->batch, size);
    return DN_OWN(trainer, out, count, err);
}

void dn_trainer_free(dn_trainer *trainer) {
    if (!trainer) return;
    for (size_t i = 0; i < trainer->owned_count; i++) dn_free(trainer->owned[i]);
    dn_free(trainer->owned);
    dn_free(trainer);
}

size_t dn_trainer_outputs(const dn_trainer *trainer) { return trainer->values[trainer->graph->output].full_size; }

/* ---- construction ---- */

static dn_status check_options(const dn_trainer_options *options, dn_error *err) {
    if (options->batch < 1 || options->batch > 65536) return dn_fail(err, DN_EINVAL, "batch must be 1..65536, got %d", options->batch);
    if (options->threads < 1 || options->threads > DN_MAX_THREADS) return dn_fail(err, DN_EINVAL, "threads must be 1..%d, got %d", DN_MAX_THREADS, options->threads);
    if (options->stat_slots < 0 || options->stat_slots > 65536) return dn_fail(err, DN_EINVAL, "stat_slots must be 0..65536, got %d", options->stat_slots);
    if (!(options->stat_momentum >= 0 && options->stat_momentum <= 1)) return dn_fail(err, DN_EINVAL, "stat_momentum must be in [0, 1], got %g", (double)options->stat_momentum);
    if (options->tap_count < 0 || (options->tap_count && !options->taps)) return dn_fail(err, DN_EINVAL, "tap_count is %d, without nodes", options->tap_count);
    if (options->bf16 && options->coded) return dn_fail(err, DN_EUNSUPPORTED, "bfloat16 training of coded tensors: they are float32 between their codes");
    if (!dn_isa_available(options->isa)) return dn_fail(err, DN_EUNSUPPORTED, "this CPU has no %s", dn_isa_name(options->isa));
    return DN_OK;
}

/* Offsets inside one image and one panel are 32-bit numbers. */
static dn_status check_sizes(const dn_graph *graph, int32_t index, dn_error *err) {
    const dn_node *node = &graph->nodes[index], *input = &graph->nodes[node->inputs[0]];
    double taps = (double)node->kernel_h * node->kernel_w, widest = input->channels > node->channels ? input->channels : node->channels;
    double padded = ((double)input->height + node->pad_top + node->pad_bottom + 2.0 * node->dilation_h * node->kernel_h) *
                    ((double)input->width + node->pad_left + node->pad_right + 2.0 * node->dilation_w * node->kernel_w) * widest;
    if (taps * widest * 16 < 0x1p31 && padded < 0x1p31) return DN_OK;
    return dn_fail(err, DN_EUNSUPPORTED, "%s %d (%s): too large to train", dn_op_name(node->op), index, node->name);
}

/* One parameter per set, in one block of each kind. */
static dn_status new_affine(dn_trainer *trainer, dn_param **out, const float *values, size_t count, bool frozen, dn_error *err) {
    const size_t sets = (size_t)trainer->affine_sets;
    dn_param all = {.count = count, .frozen = frozen};
    size_t floats;
    if (!dn_size_mul(sets, count, &floats)) return dn_fail(err, DN_ENOMEM, "%zu sets of batch-norm parameters do not fit in memory", sets);
    DN_TRY(DN_OWN(trainer, out, sets, err));
    DN_TRY(DN_OWN(trainer, &all.value, floats, err));
    DN_TRY(DN_OWN(trainer, &all.gradient, floats, err));
    DN_TRY(DN_OWN(trainer, &all.moment1, floats, err));
    DN_TRY(DN_OWN(trainer, &all.moment2, floats, err));
    for (size_t s = 0; s < sets; s++) {
        (*out)[s] = all;
        memcpy(all.value, values, count * sizeof(float));
        all.value += count, all.gradient += count, all.moment1 += count, all.moment2 += count;
    }
    return DN_OK;
}

static dn_status new_norm(dn_trainer *trainer, dn_norm *norm, int32_t index, const dn_params *params, bool frozen, dn_error *err) {
    const dn_node *node = &trainer->graph->nodes[index];
    const size_t c = (size_t)node->channels;
    *norm = (dn_norm){.node = node, .index = index, .channels = node->channels};
    if (!params->weight || !params->bias) return dn_fail(err, DN_EINVAL, "batchnorm %d (%s): no gamma or beta given", index, node->name);
    DN_TRY(new_affine(trainer, &norm->gamma, params->weight, c, frozen, err));
    DN_TRY(new_affine(trainer, &norm->beta, params->bias, c, frozen, err));
    float **arrays[] = {&norm->mean, &norm->variance, &norm->scale, &norm->shift, &norm->inverse, &norm->a, &norm->b, &norm->c};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) DN_TRY(DN_OWN(trainer, arrays[k], c, err));
    DN_TRY(DN_OWN(trainer, &norm->sums, 2 * c, err));
    return own_batch(trainer, &norm->partial, 3 * c, err);
}

static dn_status new_layers(dn_trainer *trainer, const dn_params *params, const uint8_t *frozen, dn_error *err) {
    const dn_graph *graph = trainer->graph;
    int32_t layers = 0, norms = 0;
    for (int32_t i = 0; i < graph->count; i++) {
        dn_op op = graph->nodes[i].op;
        trainer->layer_of[i] = op == DN_OP_CONV2D || op == DN_OP_LINEAR ? layers++ : -1;
        trainer->norm_of[i] = op == DN_OP_BATCHNORM ? norms++ : -1;
    }
    DN_TRY(DN_OWN(trainer, &trainer->layers, (size_t)layers, err));
    DN_TRY(DN_OWN(trainer, &trainer->norms, (size_t)norms, err));
    for (int32_t i = 0; i < graph->count; i++) {
        bool still = frozen && frozen[i];
        if (trainer->layer_of[i] >= 0) {
            DN_TRY(check_sizes(graph, i, err));
            DN_TRY(dn_layer_new(trainer, &trainer->layers[trainer->layer_count++], i, &params[i], still, err));
        }
        if (trainer->norm_of[i] >= 0) DN_TRY(new_norm(trainer, &trainer->norms[trainer->norm_count++], i, &params[i], still, err));
    }
    return DN_OK;
}

static dn_status new_values(dn_trainer *trainer, dn_error *err) {
    const dn_graph *graph = trainer->graph;
    for (int32_t i = 0; i < graph->count; i++) {
        const dn_node *node = &graph->nodes[i];
        dn_value *v = &trainer->values[i];
        v->height = node->height;
        v->width = node->width;
        v->full_size = (size_t)node->height * (size_t)node->width * (size_t)node->channels;
        v->range_count = node->segment_count;
        v->coded = trainer->coded && trainer->coded[i];
        DN_TRY(DN_OWN(trainer, &v->ranges, (size_t)node->segment_count, err));
        if (node->op == DN_OP_SHORTCUT) DN_TRY(DN_OWN(trainer, &v->index, (size_t)node->channels, err));
    }
    for (int32_t s = 0; s < graph->stage_count; s++)
        for (int32_t b = 0; b < graph->stages[s].count; b++) {
            if (!graph->stages[s].blocks[b].droppable) continue;
            int32_t t = graph->stages[s].blocks[b].input;
            trainer->values[t].pinned = true;
            while (graph->nodes[t].op == DN_OP_FLATTEN || graph->nodes[t].op == DN_OP_IDENTITY) trainer->values[t = graph->nodes[t].inputs[0]].pinned = true;
        }
    return DN_OK;
}

static dn_status new_program(dn_trainer *trainer, dn_error *err) {
    const size_t nodes = (size_t)trainer->graph->count;
    size_t edges = 0;
    for (size_t i = 0; i < nodes; i++) edges += (size_t)trainer->graph->nodes[i].input_count;
    const size_t steps = 12 * nodes + 2 * edges + 16;
    trainer->slot_capacity = (int32_t)nodes + 4;
    DN_TRY(DN_OWN(trainer, &trainer->units, nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->forward_steps, 3 * nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->forward_phases, 3 * nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->backward_steps, steps, err));
    DN_TRY(DN_OWN(trainer, &trainer->backward_phases, steps, err));
    DN_TRY(DN_OWN(trainer, &trainer->slots, nodes + 4, err));
    DN_TRY(DN_OWN(trainer, &trainer->slot_users, nodes + 4, err));
    DN_TRY(DN_OWN(trainer, &trainer->alias, nodes, err));
    return DN_OWN(trainer, &trainer->skip, nodes, err);
}

/* Builds the program at full width, deepest and shallowest, to learn which tensors are stored and how many gradients live at once. */
static dn_status size_program(dn_trainer *trainer, dn_error *err) {
    const dn_graph *graph = trainer->graph;
    dn_status status;
    int32_t *active = NULL, *depth = NULL;
    DN_GO(DN_NEW(&active, (size_t)graph->space_count, err));
    DN_GO(DN_NEW(&depth, (size_t)graph->stage_count, err));
    for (int32_t s = 0; s < graph->space_count; s++) active[s] = graph->spaces[s].full;
    for (int32_t s = 0; s < graph->stage_count; s++) depth[s] = graph->stages[s].must_keep;
    dn_subnet whole = {active, NULL, NULL}, shallow = {active, NULL, depth};
    trainer->sizing = trainer->deciding = true;
    DN_GO(dn_program_build(trainer, &whole, err));
    trainer->deciding = false;
    DN_GO(dn_program_build(trainer, &shallow, err));
    trainer->sizing = false;
    trainer->slot_count++;
done:
    dn_free(active);
    dn_free(depth);
    return status;
}

static dn_status new_buffers(dn_trainer *trainer, dn_error *err) {
    const dn_graph *graph = trainer->graph;
    size_t padded = 16, gradient = 16, input = 16, largest = 16, widest = 16;
    for (int32_t i = 0; i < graph->count; i++) {
        dn_value *v = &trainer->values[i];
        if (v->stored) DN_TRY(own_batch(trainer, &v->data, v->full_size, err));
        if (v->stored && v->coded) {
            DN_TRY(own_batch(trainer, &v->made, v->full_size, err));
            DN_TRY(DN_OWN(trainer, &v->peaks, (size_t)trainer->batch, err));
            DN_TRY(DN_OWN(trainer, &v->slopes, (size_t)trainer->batch, err));
        }
        if (i) largest = dn_size_max(largest, v->full_size);
        widest = dn_size_max(widest, (size_t)graph->nodes[i].channels);
    }
    for (int32_t k = 0; k < trainer->layer_count; k++) {
        const dn_layer *layer = &trainer->layers[k];
        const dn_node *node = layer->node, *x = &graph->nodes[layer->source_node];
        if (layer->kind == DN_LAYER_LINEAR) continue;
        size_t in = (size_t)(x->height + node->pad_top + node->pad_bottom) * (size_t)(x->width + node->pad_left + node->pad_right) * (size_t)x->channels;
        size_t out = (size_t)(node->height + layer->top + layer->bottom) * (size_t)(node->width + layer->left + layer->right) * (size_t)node->channels;
        padded = dn_size_max(padded, in);
        gradient = dn_size_max(gradient, out);
        input = dn_size_max(input, trainer->values[layer->source_node].full_size);
    }
    trainer->slot_stride = dn_round_up(largest, 16) + 80; /* not a power of two: the same place of all images would fall into the same few cache sets */
    for (int32_t s = 0; s < trainer->slot_count; s++) DN_TRY(own_batch(trainer, &trainer->slots[s], trainer->slot_stride, err));
    for (int32_t w = 0; w < trainer->threads; w++) {
        dn_scratch *scratch = &trainer->scratch[w];
        DN_TRY(DN_OWN(trainer, &scratch->padded, padded + 16, err));
        DN_TRY(DN_OWN(trainer, &scratch->gradient, gradient + 16, err));
        DN_TRY(DN_OWN(trainer, &scratch->input, input + 16, err));
        DN_TRY(DN_OWN(trainer, &scratch->back, input + 16, err));
    }
    DN_TRY(dn_winograd_scratch(trainer, err));
    DN_TRY(DN_OWN(trainer, &trainer->splits, DN_SPLITS * trainer->split_floats, err));
    DN_TRY(DN_OWN(trainer, &trainer->ones, widest + 32, err));
    DN_TRY(DN_OWN(trainer, &trainer->zeros, widest + 32, err));
    for (size_t i = 0; i < widest + 32; i++) trainer->ones[i] = 1;
    return DN_OK;
}

static dn_status new_statistics(dn_trainer *trainer, dn_error *err) {
    size_t channels = (size_t)trainer->graph->norm_channels, slots = (size_t)trainer->slots_stat, floats;
    if (!dn_size_mul(2 * slots, channels, &floats)) return dn_fail(err, DN_ENOMEM, "%zu sets of statistics do not fit in memory", slots);
    DN_TRY(DN_OWN(trainer, &trainer->running, floats, err));
    DN_TRY(DN_OWN(trainer, &trainer->staged, floats, err));
    DN_TRY(DN_OWN(trainer, &trainer->is_staged, slots, err));
    for (size_t s = 0; s < slots; s++)
        for (size_t c = 0; c < channels; c++) trainer->running[(2 * s + 1) * channels + c] = 1;
    return DN_OK;
}

static dn_status build(dn_trainer *trainer, const dn_params *params, const uint8_t *frozen, const float *table, const dn_trainer_options *options, dn_error *err) {
    const size_t nodes = (size_t)trainer->graph->count;
    trainer->owned_capacity = 64 + 32 * nodes + 4 * (size_t)trainer->threads;
    DN_TRY(DN_NEW(&trainer->owned, trainer->owned_capacity, err));
    DN_TRY(DN_OWN(trainer, &trainer->layer_of, nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->norm_of, nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->values, nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->scales, nodes, err));
    DN_TRY(DN_OWN(trainer, &trainer->scratch, (size_t)trainer->threads, err));
    if (table) {
        size_t entries = 256 * (size_t)trainer->graph->nodes[0].channels;
        DN_TRY(DN_OWN(trainer, &trainer->table, entries, err));
        memcpy(trainer->table, table, entries * sizeof(float));
    }
    DN_TRY(new_layers(trainer, params, frozen, err));
    DN_TRY(new_values(trainer, err));
    DN_TRY(dn_trainer_new_taps(trainer, options->taps, options->tap_count, err));
    DN_TRY(new_program(trainer, err));
    trainer->split_floats = DN_LIGHT_WEIGHTS;
    for (int32_t k = 0; k < trainer->layer_count; k++) trainer->split_floats = dn_size_max(trainer->split_floats, dn_round_up(trainer->layers[k].split_size, 16));
    DN_TRY(size_program(trainer, err));
    DN_TRY(new_buffers(trainer, err));
    return new_statistics(trainer, err);
}

dn_status dn_trainer_new(dn_trainer **out, const dn_graph *graph, const dn_params *params, const uint8_t *frozen, const float *input_table, const dn_trainer_options *options,
                         dn_error *err) {
    *out = NULL;
    if (!graph || !params || !options) return dn_fail(err, DN_EINVAL, "a trainer needs a graph, parameters and options");
    DN_TRY(check_options(options, err));
    dn_trainer *trainer;
    DN_TRY(DN_NEW(&trainer, 1, err));
    trainer->graph = graph;
    trainer->batch = options->batch;
    trainer->threads = options->threads;
    trainer->slots_stat = options->stat_slots;
    trainer->affine_sets = options->private_affine && options->stat_slots > 1 ? options->stat_slots : 1;
    trainer->stat_momentum = options->stat_momentum;
    trainer->seed = options->seed;
    trainer->bf16 = options->bf16 != 0;
    trainer->coded = options->coded;
    trainer->learns_scales = options->learns_scales != 0;
    trainer->poll_ns = POLL_NS;
    dn_kernels_select(&trainer->kernels, dn_cpu_detect() & dn_isa_features(options->isa));
    dn_fpenv env = dn_fpenv_enter();
    dn_status status = build(trainer, params, frozen, input_table, options, err);
    dn_fpenv_leave(env);
    trainer->coded = NULL;
    if (status != DN_OK) {
        dn_trainer_free(trainer);
        return status;
    }
    *out = trainer;
    return DN_OK;
}

/* ---- copies of the state ---- */

typedef enum part { PART_VALUE, PART_GRADIENT, PART_MOMENT1, PART_MOMENT2 } part;

static float *part_of(const dn_param *param, part which) {
    switch (which) {
    case PART_VALUE: return param->value;
    case PART_GRADIENT: return param->gradient;
    case PART_MOMENT1: return param->moment1;
    case PART_MOMENT2: return param->moment2;
    }
    return NULL;
}

static void get_part(const dn_trainer *trainer, int32_t node, part which, float *weight, float *bias) {
    if (node < 0 || node >= trainer->graph->count) return;
    if (trainer->layer_of[node] >= 0) {
        const dn_layer *layer = &trainer->layers[trainer->layer_of[node]];
        if (weight) dn_layer_get(layer, part_of(&layer->weight, which), weight);
        if (bias && layer->bias.count) memcpy(bias, part_of(&layer->bias, which), layer->bias.count * sizeof(float));
    } else if (trainer->norm_of[node] >= 0) {
        const dn_norm *norm = &trainer->norms[trainer->norm_of[node]];
        const dn_param *gamma = &norm->gamma[trainer->shown], *beta = &norm->beta[trainer->shown];
        if (weight) memcpy(weight, part_of(gamma, which), gamma->count * sizeof(float));
        if (bias) memcpy(bias, part_of(beta, which), beta->count * sizeof(float));
    }
}

static void set_part(dn_trainer *trainer, int32_t node, part which, const float *weight, const float *bias) {
    if (node < 0 || node >= trainer->graph->count) return;
    if (trainer->layer_of[node] >= 0) {
        dn_layer *layer = &trainer->layers[trainer->layer_of[node]];
        if (weight) dn_layer_set(layer, weight, part_of(&layer->weight, which));
        if (bias && layer->bias.count) memcpy(part_of(&layer->bias, which), bias, layer->bias.count * sizeof(float));
        layer->stale = true;
    } else if (trainer->norm_of[node] >= 0) {
        const dn_norm *norm = &trainer->norms[trainer->norm_of[node]];
        const dn_param *gamma = &norm->gamma[trainer->shown], *beta = &norm->beta[trainer->shown];
        if (weight) memcpy(part_of(gamma, which), weight, gamma->count * sizeof(float));
        if (bias) memcpy(part_of(beta, which), bias, beta->count * sizeof(float));
    }
}

void dn_trainer_get_params(const dn_trainer *trainer, int32_t node, float *weight, float *bias) { get_part(trainer, node, PART_VALUE, weight, bias); }
void dn_trainer_get_grads(const dn_trainer *trainer, int32_t node, float *weight, float *bias) { get_part(trainer, node, PART_GRADIENT, weight, bias); }

/* New parameters make the pass that waits for its gradient meaningless. */
void dn_trainer_set_params(dn_trainer *trainer, int32_t node, const float *weight, const float *bias) {
    trainer->ready = false;
    set_part(trainer, node, PART_VALUE, weight, bias);
}

void dn_trainer_get_moments(const dn_trainer *trainer, int32_t node, float *weight1, float *weight2, float *bias1, float *bias2) {
    get_part(trainer, node, PART_MOMENT1, weight1, bias1);
    get_part(trainer, node, PART_MOMENT2, weight2, bias2);
}

void dn_trainer_set_moments(dn_trainer *trainer, int32_t node, const float *weight1, const float *weight2, const float *bias1, const float *bias2) {
    set_part(trainer, node, PART_MOMENT1, weight1, bias1);
    set_part(trainer, node, PART_MOMENT2, weight2, bias2);
}

void dn_trainer_get_stats(const dn_trainer *trainer, int32_t slot, float *mean, float *variance) {
    size_t channels = (size_t)trainer->graph->norm_channels;
    if (slot < 0 || slot >= trainer->slots_stat) return;
    const float *from = trainer->running + (size_t)slot * 2 * channels;
    if (mean) memcpy(mean, from, channels * sizeof(float));
    if (variance) memcpy(variance, from + channels, channels * sizeof(float));
}

void dn_trainer_set_stats(dn_trainer *trainer, int32_t slot, const float *mean, const float *variance) {
    size_t channels = (size_t)trainer->graph->norm_channels;
    if (slot < 0 || slot >= trainer->slots_stat) return;
    float *to = trainer->running + (size_t)slot * 2 * channels;
    if (mean) memcpy(to, mean, channels * sizeof(float));
    if (variance) memcpy(to + channels, variance, channels * sizeof(float));
    trainer->is_staged[slot] = false;
}

void dn_trainer_show_affine(dn_trainer *trainer, int32_t slot) {
    if (slot >= 0 && slot < trainer->affine_sets) trainer->shown = slot;
}

int64_t dn_trainer_steps(const dn_trainer *trainer) { return trainer->steps; }
void dn_trainer_set_steps(dn_trainer *trainer, int64_t steps) { trainer->steps = steps < 0 ? 0 : steps; }
