/* tile.c - which kernel variants a convolution uses: an estimate in cycles from the shape, per ISA. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"
#include "plan/widen.h"

/* Cycles of one step (4 channels in int8, 1 in float) of an mr x nr tile: per product of a pixel and a panel, per pixel and per panel loaded; and per product stored by the
 * epilogue. Fitted to benchmarks of the kernels; only their order matters. load: per load, where a step may take no less than its loads do; the pointer form loads the places of
 * pixels after the eighth too. loop: per entry of the list, a step of the float kernels. */
typedef struct cost {
    const char *isa;
    float product, pixel, panel, store, load, loop;
} cost;
static const cost costs_s8[] = {{"avx512", 0.5f, 0.1f, 0.25f, 2, 0.5f, 2}, {"avxvnni", 1.1f, 0.3f, 0.4f, 5, 0, 2}, {"avx2", 2.5f, 0.6f, 1.0f, 8, 0, 2},
                                 {"neondot", 2.0f, 0.5f, 2.0f, 8, 0, 2}, {"neon", 8.0f, 1.0f, 4.0f, 8, 0, 2}, {"ref", 60, 0, 0, 60, 0, 2}};
static const cost costs_f32[] = {{"avx512bf16", 0.25f, 0.05f, 0.12f, 2.5f, 0.25f, 0.25f}, {"avx512", 0.5f, 0.1f, 0.25f, 2, 0, 2}, {"avx2", 1.0f, 0.02f, 0.1f, 4, 0, 2},
                                  {"neon", 2.0f, 0.5f, 0.5f, 4, 0, 2}, {"ref", 16, 0, 0, 16, 0, 2}};

static const cost *cost_of(const dn_plan *plan, bool int8) {
    const cost *list = int8 ? costs_s8 : costs_f32;
    const char *isa = int8 ? plan->kernels.conv_s8->isa : plan->kernels.conv_f32->isa;
    for (size_t i = 0;; i++)
        if (strcmp(list[i].isa, isa) == 0 || strcmp(list[i].isa, "ref") == 0) return &list[i];
}

/* What the time of a convolution's tiles depends on. */
typedef struct shape {
    int32_t height, width, panels;
    float steps;       /* per output */
    int32_t chunk;     /* greatest number of steps that divides every run of input channels (int8) */
    int32_t in_step;   /* elements between neighbouring outputs' inputs */
    bool one_pixel;    /* sums are added to the output, so no pixel may be computed twice */
} shape;

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

static bool fits(const tile *t, const shape *s) {
    if (t->form == DN_FORM_ROW && s->width < t->mr) return false;
    if ((t->in_step && t->in_step != s->in_step) || (s->one_pixel && t->mr > 1)) return false;
    return s->chunk % t->steps == 0;
}

static float estimate(const tile *t, const shape *s, const cost *c) {
    float tiles = t->form == DN_FORM_ROW ? (float)s->height * (float)((s->width + t->mr - 1) / t->mr) : (float)((s->height * s->width + t->mr - 1) / t->mr);
    float step = c->product * (float)(t->mr * t->nr) + c->pixel * (float)t->mr + c->panel * (float)t->nr;
    step = fmaxf(step, c->load * (float)(t->mr + t->nr + (t->form == DN_FORM_POINTER && t->mr > 8 ? t->mr - 8 : 0)));
    if (t->mr * t->nr + t->nr > 31) step += c->panel * (float)t->mr; /* the last panel's weights have no register and are loaded for every pixel */
    step += c->loop / (float)t->steps;
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

/* The cheapest variant of every width in panels; -1 where there is none. */
enum { MOST_PANELS = 8 };
typedef struct ranking {
    int8_t variant[MOST_PANELS + 1];
    float cycles[MOST_PANELS + 1];
} ranking;

static ranking rank(const dn_plan *plan, bool int8, const shape *s) {
    ranking r;
    const cost *c = cost_of(plan, int8);
    memset(r.variant, -1, sizeof r.variant);
    for (size_t i = 0; i < tile_count(plan, int8); i++) {
        tile t = tile_at(plan, int8, i);
        if (t.nr > MOST_PANELS || !fits(&t, s)) continue;
        float cycles = estimate(&t, s, c);
        if (r.variant[t.nr] < 0 || cycles < r.cycles[t.nr]) r.variant[t.nr] = (int8_t)i, r.cycles[t.nr] = cycles;
    }
    return r;
}

static shape shape_of(const dn_point *point, const dn_step *step) {
    const dn_plan_op *op = &point->plan->ops[step->op];
    const dn_graph *graph = point->plan->graph;
    const dn_node *node = &graph->nodes[op->node];
    int32_t channels = op->pack_groups > 1 ? op->group_out : step->out.channels, lanes = op->group_in ? (int32_t)dn_round_up((size_t)op->group_in, 4) : step->in.pixel;
    shape s = {.height = node->height, .width = node->width, .panels = (channels + 15) / 16, .in_step = node->stride_w * step->in.pixel, .one_pixel = op->partial};
    for (int32_t k = 0; k < step->parts; k++) s.chunk = gcd(s.chunk, (int32_t)dn_ceil_div((size_t)dn_step_segment(point, step, k), 4));
    if (op->partial) s.chunk = (int32_t)dn_ceil_div((size_t)(graph->nodes[node->inputs[0]].channels / graph->groups), 4);
    if (dn_conv_rows_join(op, node, step, lanes)) s.chunk *= node->kernel_w;
    s.steps = (float)(node->kernel_h * node->kernel_w) * (float)(op->int8 ? lanes / 4 : lanes);
    return s;
}

/* Whether some variant computes what blocks of nr panels leave over, if anything is. */
static bool has_rest(const ranking *r, const shape *s, int32_t nr) {
    int32_t rest = s->panels % nr;
    return !rest || (rest <= MOST_PANELS && r->variant[rest] >= 0);
}
static int8_t rest_of(const ranking *r, const shape *s, int32_t nr) { return s->panels % nr ? r->variant[s->panels % nr] : -1; }

static dn_tile choose(const dn_plan *plan, bool int8, const shape *s) {
    const ranking r = rank(plan, int8, s);
    dn_tile chosen = {-1, -1};
    float best = 0;
    for (int32_t nr = 1; nr <= MOST_PANELS && nr <= s->panels; nr++) {
        if (r.variant[nr] < 0 || !has_rest(&r, s, nr)) continue;
        float total = r.cycles[nr] * (float)(s->panels / nr) + (s->panels % nr ? r.cycles[s->panels % nr] : 0);
        if (chosen.most >= 0 && total >= best) continue;
        best = total;
        chosen = (dn_tile){r.variant[nr], rest_of(&r, s, nr)};
    }
    return chosen;
}

/* ---- other choices than the estimate's ---- */

/* The i-th variant as a tile of this shape, with the rest that goes with it. */
static bool alternative(const dn_plan *plan, bool int8, const shape *s, size_t i, dn_tile *found) {
    const tile t = tile_at(plan, int8, i);
    const ranking r = rank(plan, int8, s);
    if (t.nr > s->panels || !fits(&t, s) || !has_rest(&r, s, t.nr)) return false;
    *found = (dn_tile){(int8_t)i, rest_of(&r, s, t.nr)};
    return true;
}

static dn_status check_tile(const dn_plan *plan, const dn_plan_op *op, const shape *s, dn_tile wanted, dn_error *err) {
    dn_tile found;
    bool known = wanted.most >= 0 && (size_t)wanted.most < tile_count(plan, op->int8) && alternative(plan, op->int8, s, (size_t)wanted.most, &found);
    if (known && found.rest == wanted.rest) return DN_OK;
    return dn_fail(err, DN_EINVAL, "%s: there is no tile of variants %d and %d for its shape", plan->graph->nodes[op->node].name, wanted.most, wanted.rest);
}

static bool has_choice(const dn_plan *plan, const dn_step *step) { return plan->ops[step->op].kind == DN_DO_CONV && step->tile[0] >= 0; }

int dn_point_tile(const dn_point *point, int32_t number, int32_t index, dn_tile *out, char name[32]) {
    const dn_plan *plan = point->plan;
    const dn_step made = dn_step_of(point, number), *step = &made;
    if (!has_choice(plan, step)) return 0;
    const shape s = shape_of(point, step);
    bool int8 = plan->ops[step->op].int8, found = index == 0;
    *out = (dn_tile){step->tile[0], step->tile[1]};
    for (size_t i = 0; !found && i < tile_count(plan, int8); i++)
        found = (int8_t)i != step->tile[0] && alternative(plan, int8, &s, i, out) && --index == 0;
    int length = 0;
    for (int k = 0; found && k < (out->rest < 0 ? 1 : 2); k++) {
        tile t = tile_at(plan, int8, (size_t)(k ? out->rest : out->most));
        length += snprintf(name + length, 32 - (size_t)length, "%s%dx%d%s%s/%d", k ? "+" : "", t.mr, 16 * t.nr, t.form == DN_FORM_POINTER ? "p" : "", t.in_step ? "c" : "", t.steps);
    }
    return found;
}

void dn_point_shape_name(const dn_point *point, int32_t number, char name[96]) {
    const dn_plan *plan = point->plan;
    const dn_step made = dn_step_of(point, number), *step = &made;
    name[0] = 0;
    if (!has_choice(plan, step)) return;
    const shape s = shape_of(point, step);
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_node *node = &plan->graph->nodes[op->node];
    (void)snprintf(name, 96, "%s %s %dx%d k%dx%d panels %dx%d steps %g chunk %d step %d%s%s%s", op->int8 ? "s8" : plan->bf16 ? "bf16" : "f32",
                   op->int8 ? plan->kernels.conv_s8->isa : plan->kernels.conv_f32->isa, s.height, s.width, node->kernel_h, node->kernel_w, step->groups, s.panels, (double)s.steps,
                   s.chunk, s.in_step, s.one_pixel ? " sums" : "", step->bits == 8 ? "" : " view", step->has_second ? " add" : "");
}

size_t dn_conv_scratch(const dn_plan *plan, dn_step *step) {
    const dn_plan_op *op = &plan->ops[step->op];
    const dn_node *node = &plan->graph->nodes[op->node];
    if (step->winograd && !op->int8) return dn_wino_f32_scratch(plan, step);
    if (step->winograd) {
        int32_t lanes = op->group_in ? (int32_t)dn_round_up((size_t)op->group_in, 4) : step->in.pixel;
        return dn_round_up(dn_wino_scratch(step->winograd, dn_wino_block(step->winograd, lanes, step->packed), lanes, step->packed), 64);
    }
    if (op->planes) return dn_round_up((size_t)(node->kernel_h * node->kernel_w * step->parts) * sizeof(dn_run), 64);
    size_t entries = (size_t)(node->kernel_h * node->kernel_w) * (op->int8 ? (size_t)step->in.pixel / 4 : (size_t)step->parts);
    return dn_round_up(dn_widen_plan(plan, step, entries * (op->int8 ? sizeof(dn_tap) : sizeof(dn_run))), 64);
}

dn_status dn_conv_choose(const dn_binding *b, int32_t number, dn_error *err) {
    dn_step *step = &b->steps.steps[number];
    const dn_plan_op *op = &b->plan->ops[step->op];
    if (!step->winograd && !op->planes) {
        const shape s = shape_of(b->point, step);
        dn_tile chosen = b->tiles ? b->tiles[op->node] : (dn_tile){-1, -1};
        if (chosen.most < 0 && chosen.rest < 0) chosen = choose(b->plan, op->int8, &s);
        else DN_TRY(check_tile(b->plan, op, &s, chosen, err));
        step->tile[0] = b->point->records[number].tile[0] = chosen.most;
        step->tile[1] = b->point->records[number].tile[1] = chosen.rest;
    }
    b->point->scratch_bytes = dn_size_max(b->point->scratch_bytes, dn_conv_scratch(b->plan, step));
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
