/* kept.c - what an engine keeps of its last run, so that a larger point of the same groups can go on from there: the point, the images, their partial sums.
 *
 * Activations are not kept. Groups meet nowhere before the last layer, which adds one partial sum per group in group order to what it has; its output after the first
 * groups is all that the next ones need. The images are kept whole, not as a hash: a copy costs less time than hashing, and equality is then certain. */
#include <string.h>

#include "base/alloc.h"
#include "base/size.h"
#include "base/status.h"
#include "plan/plan.h"

void dn_kept_forget(dn_kept *kept) {
    dn_point_free(kept->point);
    kept->point = NULL;
}

void dn_kept_free(dn_kept *kept) {
    dn_kept_forget(kept);
    dn_free(kept->input);
    dn_free(kept->output);
}

size_t dn_kept_bytes(const dn_kept *kept) { return kept->input_room + kept->output_room; }

static dn_status make_room(void **memory, size_t *room, size_t bytes, dn_error *err) {
    if (bytes <= *room) return DN_OK;
    void *made;
    DN_TRY(dn_alloc(&made, bytes, 1, err));
    dn_free(*memory);
    *memory = made;
    *room = bytes;
    return DN_OK;
}

/* After the last group nothing can follow, so nothing but the point is kept. */
static bool can_grow(const dn_point *point) { return point->groups < point->plan->graph->groups; }

dn_status dn_kept_reserve(dn_kept *kept, const dn_point *point, size_t input_bytes, size_t output_bytes, dn_error *err) {
    dn_kept_forget(kept);
    if (!can_grow(point)) return DN_OK;
    DN_TRY(make_room((void **)&kept->input, &kept->input_room, input_bytes, err));
    return make_room((void **)&kept->output, &kept->output_room, output_bytes, err);
}

void dn_kept_store(dn_kept *kept, const dn_point *point, const dn_images *images, const float *output, size_t output_bytes) {
    dn_point *held = dn_point_hold(point);
    dn_kept_forget(kept);
    kept->point = held;
    kept->images = *images;
    if (!can_grow(point)) return;
    if (images->data != kept->input) memcpy(kept->input, images->data, images->bytes);
    kept->images.data = kept->input;
    memcpy(kept->output, output, output_bytes);
}

/* ---- whether a run can go on ---- */

static const char *name_of(const dn_plan *plan, int32_t node) { return plan->graph->nodes[node].name; }

static dn_status check_groups(const dn_kept *kept, const dn_point *point, dn_error *err) {
    const dn_plan *plan = point->plan;
    int32_t groups = plan->graph->groups;
    if (plan->mixes >= 0 && groups == 1)
        return dn_fail(err, DN_EUNSUPPORTED, "%s reads all channels of its input: only a network made with groups= can be extended", name_of(plan, plan->mixes));
    if (plan->mixes >= 0) return dn_fail(err, DN_EUNSUPPORTED, "%s mixes channel groups: the network cannot be extended group by group", name_of(plan, plan->mixes));
    if (!kept->point) return dn_fail(err, DN_EINVAL, "nothing has been run that could be extended: call the engine at a smaller point first");
    if (point->groups > kept->point->groups) return DN_OK;
    if (point->groups == kept->point->groups) return dn_fail(err, DN_EPOINT, "the point has %d of %d channel groups, and so had the last run: there is none to add", point->groups, groups);
    return dn_fail(err, DN_EPOINT, "the point has %d of %d channel groups, the last run had %d: extending only adds groups", point->groups, groups, kept->point->groups);
}

static dn_status check_images(const dn_kept *kept, const dn_images *images, dn_error *err) {
    const dn_images *last = &kept->images;
    const char *hint = "an engine goes on from its own last run; give every thread its clone()";
    if (images->dtype != last->dtype)
        return dn_fail(err, DN_EINVAL, "x is %s, the last run's was %s: %s", images->dtype == DN_U8 ? "uint8" : "float32", last->dtype == DN_U8 ? "uint8" : "float32", hint);
    if (images->n != last->n) return dn_fail(err, DN_EINVAL, "x holds %zu images, the last run's held %zu: %s", images->n, last->n, hint);
    if (memcmp(images->data, last->data, images->bytes)) return dn_fail(err, DN_EINVAL, "x is not what the engine ran last: %s", hint);
    return DN_OK;
}

/* Entries of a record's table that belong to the groups of the smaller point. Beyond the channels of the last of its groups stand lanes nobody reads. */
static size_t entries_of(const dn_record *record, const dn_plan_op *op) {
    return (size_t)(op->grouped && record->table_channels ? record->channels : record->table_channels);
}

static bool same_tables(const dn_point *a, const dn_record *x, const dn_point *b, const dn_record *y) {
    const dn_plan *plan = a->plan;
    const dn_scales *left = (const dn_scales *)(const void *)(a->tables + x->table), *right = (const dn_scales *)(const void *)(b->tables + y->table);
    const int32_t sets = dn_scale_sets(plan, x);
    const float *left_scale = (const float *)(const void *)(left + sets), *right_scale = (const float *)(const void *)(right + dn_scale_sets(plan, y));
    const size_t bytes = entries_of(x, &plan->ops[x->op]) * sizeof(float);
    return memcmp(left, right, (size_t)sets * sizeof *left) == 0 && memcmp(left_scale, right_scale, bytes) == 0 &&
           memcmp(left_scale + x->table_channels, right_scale + y->table_channels, bytes) == 0;
}

/* The smaller point's steps compute what the larger one's compute for the same groups, bit for bit. Lookup tables, limits, and how an input of a concatenation is rescaled follow from the
 * scales. */
static dn_status check_tables(const dn_point *from, const dn_point *to, dn_error *err) {
    if (from->step_count != to->step_count) return dn_fail(err, DN_EPOINT, "the point keeps other blocks than the last run's");
    for (int32_t k = 0; k < from->step_count; k++) {
        const dn_record *x = &from->records[k], *y = &to->records[k];
        const dn_plan_op *op = &from->plan->ops[x->op];
        const char *name = name_of(from->plan, op->norm >= 0 ? op->norm : op->node);
        if (x->op != y->op) return dn_fail(err, DN_EPOINT, "the point keeps other blocks than the last run's: %s", name);
        if (x->bits != y->bits) return dn_fail(err, DN_EPOINT, "%s: %d bits at the point, %d in the last run", name_of(from->plan, op->node), y->bits, x->bits);
        if (same_tables(from, x, to, y)) continue;
        return dn_fail(err, DN_EPOINT,
                       "%s: its first %d groups have other statistics or scales at the point than in the last run, so their sums differ; recalibrate all points on the same images", name,
                       from->groups);
    }
    return DN_OK;
}

dn_status dn_kept_check(const dn_kept *kept, const dn_point *point, const dn_images *images, dn_error *err) {
    DN_TRY(check_groups(kept, point, err));
    DN_TRY(check_images(kept, images, err));
    return check_tables(kept->point, point, err);
}
