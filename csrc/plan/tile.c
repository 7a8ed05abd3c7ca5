/* tile.c - which kernel variants a convolution uses: an estimate in cycles from the shape, per ISA. */
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"
#include "plan/widen.h"

/* Cycles of one step (4 channels in int8, 1 in float) of an mr x nr tile: per product of a pixel and a panel, per pixel and per panel loaded; and per product stored by the
 * epilogue. Fitted to benchmarks of the kernels; only their order matters. */
typedef struct cost {
    const char *isa;
    float product, pixel, panel, store;
} cost;
static const cost costs_s8[] = {{"avx512", 0.5f, 0.1f, 0.25f, 3}, {"avxvnni", 1.1f, 0.3f, 0.4f, 5}, {"avx2", 2.5f, 0.6f, 1.0f, 8},
                                 {"neondot", 2.0f, 0.5f, 2.0f, 8}, {"neon", 8.0f, 1.0f, 4.0f, 8}, {"ref", 60, 0, 0, 60}};
static const cost costs_f32[] = {{"avx512", 0.5f, 0.1f, 0.25f, 2}, {"avx2", 1.0f, 0.02f, 0.1f, 4}, {"neon", 2.0f, 0.5f, 0.5f, 4}, {"ref", 16, 0, 0, 16}};

static const cost *cost_of(const dn_plan *plan, bool int8) {
    const cost *list = int8 ? costs_s8 : costs_f32;
    const char *isa = int8 ? plan->kernels.conv_s8->isa : plan->kernels.conv_f32->isa;
    for (size_t i = 0;; i++)
        if (strcmp(list[i].isa, isa) == 0 || strcmp(list[i].isa, "ref") == 0) return &list[i];
}

typedef struct tile {
    int32_t mr, nr, steps, form, in_step;
} tile;

static size_t tile_count(const dn_plan *plan, bool int8) { return int8 ? plan->kernels.conv_s8->variant_count : plan->kernels.conv_f32->variant_count; }

static tile tile_at(const dn_plan *plan, bool int8, size_t i) {
    if (int8) {
        const dn_conv_s8_variant *v = &plan->kernels.conv_s8->variants[i];
        return (tile){v->mr, v->nr, v->steps, v->form, v->in_step};
    }
    const dn_conv_f32_variant *v = &plan->kernels.conv_f32->variants[i];
    return (tile){v->mr, v->nr, 1, v->form, 0};
}

static bool fits(const tile *t, const dn_conv_shape *s) {
    if (t->form == DN_FORM_ROW && s->width < t->mr) return false;
    if ((t->in_step && t->in_step != s->in_step) || (s->one_pixel && t->mr > 1)) return false;
    return s->chunk % t->steps == 0;
}

static float estimate(const tile *t, const dn_conv_shape *s, const cost *c) {
    float tiles = t->form == DN_FORM_ROW ? (float)s->height * (float)((s->width + t->mr - 1) / t->mr) : (float)((s->height * s->width + t->mr - 1) / t->mr);
    float step = c->product * (float)(t->mr * t->nr) + c->pixel * (float)t->mr + c->panel * (float)t->nr;
    step += 2.0f / (float)t->steps; /* the list's own loop */
    if (t->in_step) step *= 0.9f;   /* addresses known at compile time */
    if (t->form == DN_FORM_POINTER) step *= 1.05f;
    return tiles * (s->steps * step + c->store * (float)(t->mr * t->nr) + 12);
}

static int32_t gcd(int32_t a, int32_t b) {
    while (b) {
        int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The cheapest variant that is nr panels wide, -1 if there is none. */
static int8_t cheapest(const dn_plan *plan, bool int8, const dn_conv_shape *s, int32_t nr, float *cycles) {
    int8_t best = -1;
    const cost *c = cost_of(plan, int8);
    for (size_t i = 0; i < tile_count(plan, int8); i++) {
        tile t = tile_at(plan, int8, i);
        if (t.nr != nr || !fits(&t, s)) continue;
        float e = estimate(&t, s, c);
        if (best < 0 || e < *cycles) best = (int8_t)i, *cycles = e;
    }
    return best;
}

static dn_conv_shape shape_of(const dn_binding *b, const dn_step *step) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    const dn_node *node = &b->plan->graph->nodes[op->node], *input = &b->plan->graph->nodes[b->root[node->inputs[0]]];
    int32_t channels = op->pack_groups > 1 ? op->group_out : step->out.channels, width;
    dn_conv_shape s = {.height = node->height, .width = node->width, .panels = (channels + 15) / 16, .in_step = node->stride_w * step->in.pixel, .one_pixel = op->partial};
    int32_t lanes = op->group_in ? (int32_t)dn_round_up((size_t)op->group_in, 4) : step->in.pixel;
    for (int32_t k = 0; k < input->segment_count; k++) s.chunk = gcd(s.chunk, (int32_t)dn_round_up((size_t)b->subnet->active[input->segments[k].space], 4) / 4);
    if (op->group_in) s.chunk = lanes / 4;
    if (op->partial && dn_channel_groups(b, b->root[node->inputs[0]], &width) >= 1) s.chunk = (int32_t)dn_round_up((size_t)width, 4) / 4;
    if (dn_conv_rows_join(op, node, step, lanes)) s.chunk *= node->kernel_w;
    s.steps = (float)(node->kernel_h * node->kernel_w) * (float)(op->int8 ? lanes / 4 : lanes);
    return s;
}

/* The cheapest variant for what blocks of nr panels leave over, if anything is; false if none can do it. */
static bool rest_of(const dn_plan *plan, bool int8, const dn_conv_shape *s, int32_t nr, int8_t *rest, float *cycles) {
    *rest = -1;
    *cycles = 0;
    if (s->panels % nr) *rest = cheapest(plan, int8, s, s->panels % nr, cycles);
    return *rest >= 0 || s->panels % nr == 0;
}

static void choose(const dn_plan *plan, dn_step *step) {
    const dn_conv_shape *s = &step->shape;
    bool int8 = plan->ops[step->op].int8;
    float best = 0;
    for (int32_t nr = 1; nr <= 8 && nr <= s->panels; nr++) {
        float main_cost = 0, rest_cost = 0;
        int8_t most = cheapest(plan, int8, s, nr, &main_cost), rest;
        if (most < 0 || !rest_of(plan, int8, s, nr, &rest, &rest_cost)) continue;
        float total = main_cost * (float)(s->panels / nr) + rest_cost;
        if (step->tile[0] >= 0 && total >= best) continue;
        best = total;
        step->tile[0] = most;
        step->tile[1] = rest;
    }
}

/* ---- other choices than the estimate's ---- */

/* The i-th variant as a tile of this shape, with the rest that goes with it. */
static bool alternative(const dn_plan *plan, bool int8, const dn_conv_shape *s, size_t i, dn_tile *found) {
    tile t = tile_at(plan, int8, i);
    float unused;
    found->most = (int8_t)i;
    return t.nr <= s->panels && fits(&t, s) && rest_of(plan, int8, s, t.nr, &found->rest, &unused);
}

static dn_status take(const dn_plan *plan, dn_step *step, dn_tile wanted, dn_error *err) {
    bool int8 = plan->ops[step->op].int8;
    dn_tile found;
    bool known = wanted.most >= 0 && (size_t)wanted.most < tile_count(plan, int8) && alternative(plan, int8, &step->shape, (size_t)wanted.most, &found);
    if (!known || found.rest != wanted.rest)
        return dn_fail(err, DN_EINVAL, "%s: there is no tile of variants %d and %d for its shape", plan->graph->nodes[plan->ops[step->op].node].name, wanted.most, wanted.rest);
    step->tile[0] = wanted.most;
    step->tile[1] = wanted.rest;
    return DN_OK;
}

static bool has_choice(const dn_plan *plan, const dn_step *step) { return plan->ops[step->op].kind == DN_DO_CONV && step->tile[0] >= 0; }

int dn_point_tile(const dn_point *point, int32_t number, int32_t index, dn_tile *out, char name[32]) {
    const dn_plan *plan = point->plan;
    const dn_step *step = &point->steps[number];
    if (!has_choice(plan, step)) return 0;
    bool int8 = plan->ops[step->op].int8, found = index == 0;
    *out = (dn_tile){step->tile[0], step->tile[1]};
    for (size_t i = 0; !found && i < tile_count(plan, int8); i++)
        found = (int8_t)i != step->tile[0] && alternative(plan, int8, &step->shape, i, out) && --index == 0;
    int length = 0;
    for (int k = 0; found && k < (out->rest < 0 ? 1 : 2); k++) {
        tile t = tile_at(plan, int8, (size_t)(k ? out->rest : out->most));
        length += snprintf(name + length, 32 - (size_t)length, "%s%dx%d%s%s/%d", k ? "+" : "", t.mr, 16 * t.nr, t.form == DN_FORM_POINTER ? "p" : "", t.in_step ? "c" : "", t.steps);
    }
    return found;
}

void dn_point_shape_name(const dn_point *point, int32_t number, char name[96]) {
    const dn_plan *plan = point->plan;
    const dn_step *step = &point->steps[number];
    const dn_conv_shape *s = &step->shape;
    name[0] = 0;
    if (!has_choice(plan, step)) return;
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_node *node = &plan->graph->nodes[op->node];
    (void)snprintf(name, 96, "%s %s %dx%d k%dx%d panels %dx%d steps %g chunk %d step %d%s%s%s", op->int8 ? "s8" : plan->bf16 ? "bf16" : "f32",
                   op->int8 ? plan->kernels.conv_s8->isa : plan->kernels.conv_f32->isa, s->height, s->width, node->kernel_h, node->kernel_w, step->groups, s->panels, (double)s->steps,
                   s->chunk, s->in_step, s->one_pixel ? " sums" : "", step->bits == 8 ? "" : " view", step->has_second ? " add" : "");
}

dn_status dn_conv_choose(dn_binding *b, dn_step *step, dn_error *err) {
    const dn_plan_op *op = &b->plan->ops[step->op];
    const dn_node *node = &b->plan->graph->nodes[op->node];
    step->tile[0] = step->tile[1] = -1;
    size_t taps = (size_t)(node->kernel_h * node->kernel_w), runs = taps * (size_t)b->plan->graph->nodes[b->root[node->inputs[0]]].segment_count;
    if (op->planes) {
        b->point->scratch_bytes = dn_size_max(b->point->scratch_bytes, dn_round_up(runs * sizeof(dn_run), 64));
        return DN_OK;
    }
    if (step->winograd) {
        int32_t lanes = op->group_in ? (int32_t)dn_round_up((size_t)op->group_in, 4) : step->in.pixel;
        b->point->scratch_bytes = dn_size_max(b->point->scratch_bytes, dn_round_up(dn_wino_scratch(step->winograd, dn_wino_block(step->winograd, lanes, step->packed), lanes, step->packed), 64));
        return DN_OK;
    }
    step->shape = shape_of(b, step);
    dn_tile wanted = b->tiles ? b->tiles[op->node] : (dn_tile){-1, -1};
    if (wanted.most < 0 && wanted.rest < 0) choose(b->plan, step);
    else DN_TRY(take(b->plan, step, wanted, err));
    size_t bytes = op->int8 ? taps * ((size_t)step->in.pixel / 4) * sizeof(dn_tap) : runs * sizeof(dn_run);
    b->point->scratch_bytes = dn_size_max(b->point->scratch_bytes, dn_round_up(dn_widen_plan(b->plan, step, bytes), 64));
    return DN_OK;
}

void dn_conv_tile_name(const dn_plan *plan, const dn_step *step, char *text, size_t size) {
    bool int8 = plan->ops[step->op].int8;
    int length = 0;
    if (plan->ops[step->op].planes) (void)snprintf(text, size, " planes");
    if (step->winograd) (void)snprintf(text, size, " winograd%dx%d%s", step->winograd, step->winograd, step->packed ? "p" : "");
    for (int k = 0; k < 2; k++) {
        if (step->tile[k] < 0) continue;
        tile t = tile_at(plan, int8, (size_t)step->tile[k]);
        length += snprintf(text + length, size - (size_t)length, "%s%dx%d%s%s", k ? "+" : " ", t.mr, 16 * t.nr, t.form == DN_FORM_POINTER ? "p" : "", t.in_step ? "c" : "");
    }
}
