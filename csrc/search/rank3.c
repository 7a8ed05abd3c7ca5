/* rank3.c - non-dominated ranking for three objectives by staircases.
 *
 * Rows are taken in lexicographic order, so that only the second and third objective decide whether an earlier row dominates a later one. What a front dominates in that
 * plane is bounded by a staircase: kept sorted, one binary search tells whether a front dominates a row, and a second one, over the fronts, finds the first that does not.
 * About n log^2 n steps, where bit sets take n^2 / 64 (the sweep of Jensen, IEEE TEC 7(5), 2003, with staircases instead of single values). */
#include "search/rank.h"

#include "base/size.h"
#include "base/status.h"

enum { LANES = 6 };

/* A stair has a power of two of room. It begins with a step that dominates nothing and is filled up with steps that no row reaches; no value has these keys. */
static const dn_step BEGIN = {0, UINT64_MAX}, REST = {UINT64_MAX, UINT64_MAX};

/* Last step with y' <= y. A mask instead of a branch, which would be mispredicted half the time. */
static size_t last_step(const dn_step *steps, size_t room, uint64_t y) {
    size_t at = 0;
    for (size_t half = room / 2; half > 0; half /= 2) at += half & ((size_t)(y < steps[at + half].y) - 1);
    return at;
}

static size_t dominates(const dn_ranker *r, size_t front, dn_step row) {
    const dn_step *steps = r->steps + r->stairs[front].offset;
    return steps[last_step(steps, r->stairs[front].room, row.y)].z <= row.z; /* that step has the smallest z of those at or before y */
}

/* For each row the first front that does not dominate it, fronts if all do. The rows hide one another's latency. */
static void find_fronts(const dn_ranker *r, const dn_step rows[LANES], size_t fronts, size_t first[LANES]) {
    size_t end[LANES]; /* it lies in end - left .. end */
    for (int lane = 0; lane < LANES; lane++) end[lane] = fronts;
    for (size_t left = fronts, half; left > 0; left -= half) {
        half = left - left / 2;
        for (int lane = 0; lane < LANES; lane++) end[lane] -= half & (dominates(r, end[lane] - half, rows[lane]) - 1);
        if (left == 1) break;
    }
    for (int lane = 0; lane < LANES; lane++) first[lane] = end[lane];
}

/* Gives a stair twice the room, at the end of the pool; its old place stays unused, which at most doubles the pool. */
static dn_status make_room(dn_ranker *r, dn_stair *stair, size_t *used, dn_error *err) {
    size_t wanted = stair->room ? 2 * (size_t)stair->room : 4;
    while (*used + wanted > r->step_capacity) DN_TRY(dn_ranker_grow((void **)&r->steps, &r->step_capacity, *used, sizeof *r->steps, err));
    dn_step *steps = r->steps + *used;
    memcpy(steps, r->steps + stair->offset, stair->count * sizeof *steps);
    if (stair->count == 0) steps[stair->count++] = BEGIN;
    for (size_t i = stair->count; i < wanted; i++) steps[i] = REST;
    stair->offset = *used;
    stair->room = (uint32_t)wanted;
    *used += wanted;
    return DN_OK;
}

/* Puts a row that the stair does not dominate on it, in place of the steps that the row covers. */
static dn_status add_step(dn_ranker *r, dn_stair *stair, dn_step row, size_t *used, dn_error *err) {
    if (stair->count == stair->room) DN_TRY(make_room(r, stair, used, err));
    dn_step *steps = r->steps + stair->offset;
    size_t first = last_step(steps, stair->room, row.y), last = first + 1, count = stair->count;
    if (steps[first].y != row.y) first++;
    while (last < count && steps[last].z >= row.z) last++;
    memmove(steps + first + 1, steps + last, (count - last) * sizeof *steps);
    steps[first] = row;
    stair->count = (uint32_t)(count + 1 - (last - first));
    for (size_t i = stair->count; i < count; i++) steps[i] = REST;
    return DN_OK;
}

/* level: where the row can be at best. */
static dn_status place(dn_ranker *r, dn_step row, size_t *fronts, size_t *used, size_t *level, dn_error *err) {
    while (*level < *fronts && dominates(r, *level, row)) ++*level;
    if (*level == *fronts) {
        if (*fronts == r->stair_capacity) DN_TRY(dn_ranker_grow((void **)&r->stairs, &r->stair_capacity, *fronts, sizeof *r->stairs, err));
        r->stairs[(*fronts)++] = (dn_stair){0};
    }
    return add_step(r, &r->stairs[*level], row, used, err);
}

/* As with two objectives, LANES rows are searched for ahead; placing a row can only move later ones of the batch to later fronts. */
dn_status dn_rank_three(dn_ranker *r, const double *f, size_t n, int32_t *rank, size_t *fronts, dn_error *err) {
    size_t used = 0, level = 0;
    uint64_t last_x = 0;
    dn_step last = {0};
    *fronts = 0;
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, f, n, 3, 3);
    for (size_t start = 0; start < n; start += LANES) {
        dn_step rows[LANES] = {{0}};
        uint64_t x[LANES];
        size_t first[LANES], lanes = dn_size_min(LANES, n - start);
        for (size_t i = 0; i < lanes; i++) {
            const double *values = f + 3 * (r->sorted[start + i] & mask);
            x[i] = dn_sort_key(values[0]);
            rows[i] = (dn_step){dn_sort_key(values[1]), dn_sort_key(values[2])};
        }
        find_fronts(r, rows, *fronts, first);
        for (size_t i = 0; i < lanes; i++) {
            if (x[i] != last_x || rows[i].y != last.y || rows[i].z != last.z) {
                level = first[i];
                DN_TRY(place(r, rows[i], fronts, &used, &level, err));
            }
            last_x = x[i];
            last = rows[i];
            rank[r->sorted[start + i] & mask] = (int32_t)level;
        }
    }
    return DN_OK;
}
