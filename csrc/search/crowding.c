/* crowding.c - crowding distance (Deb et al., IEEE TEC 6(2), 2002).
 *
 * Each objective is sorted once over all rows and the sorted rows are dealt to their groups, instead of sorting every front by itself. Equal values are ordered by row. */
#include "search/crowding.h"

#include <math.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/status.h"

dn_status dn_crowder_init(dn_crowder *c, size_t rows, dn_error *err) {
    *c = (dn_crowder){0};
    if (rows > INT32_MAX) return dn_fail(err, DN_EINVAL, "%zu rows, the most is %d", rows, INT32_MAX);
    DN_TRY(DN_NEW(&c->items, rows, err));
    DN_TRY(DN_NEW(&c->scratch, rows, err));
    DN_TRY(DN_NEW(&c->start, rows + 1, err));
    DN_TRY(DN_NEW(&c->next, rows, err));
    DN_TRY(DN_NEW(&c->group, rows, err));
    return DN_NEW(&c->order, rows, err);
}

void dn_crowder_free(dn_crowder *c) {
    void *owned[] = {c->items, c->scratch, c->start, c->next, c->group, c->order};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) dn_free(owned[i]);
    *c = (dn_crowder){0};
}

static int has_nan(const double *row, size_t m) {
    for (size_t k = 0; k < m; k++) {
        if (row[k] != row[k]) return 1;
    }
    return 0;
}

/* Numbers the ranks 0, 1, ... without gaps (they may be any integers); returns the number of groups. Rows with NaN get group UINT32_MAX. */
static size_t make_groups(dn_crowder *c, const double *f, const int32_t *rank, size_t n, size_t m) {
    size_t used = 0, groups = 0;
    for (size_t i = 0; i < n; i++) {
        c->group[i] = UINT32_MAX;
        if (has_nan(f + i * m, m)) continue;
        c->items[used++] = (dn_sort_item){.key = (uint32_t)rank[i] ^ 0x80000000u, .index = (uint32_t)i};
    }
    dn_sort(c->items, c->scratch, used);
    for (size_t i = 0; i < used; i++) {
        if (i == 0 || c->items[i].key != c->items[i - 1].key) c->start[groups++] = (uint32_t)i;
        c->group[c->items[i].index] = (uint32_t)(groups - 1);
    }
    c->start[groups] = (uint32_t)used;
    return groups;
}

/* Adds one objective's share. Halves keep the range finite for every finite value; an infinite or empty range adds nothing. */
static void add_gaps(const uint32_t *order, size_t size, const double *f, size_t m, double *distance) {
    double low = f[order[0] * m] * .5, high = f[order[size - 1] * m] * .5, range = high - low, here = f[order[size > 1 ? 1 : 0] * m] * .5, before = low;
    distance[order[0]] = distance[order[size - 1]] = INFINITY;
    if (!(range > 0) || isinf(range)) return;
    for (size_t i = 1; i + 1 < size; i++) {
        double after = f[order[i + 1] * m] * .5;
        distance[order[i]] += (after - before) / range;
        before = here;
        here = after;
    }
}

void dn_crowder_run(dn_crowder *c, const double *f, const int32_t *rank, size_t n, size_t m, double *distance) {
    size_t groups = make_groups(c, f, rank, n, m), used = c->start[groups];
    for (size_t i = 0; i < n; i++) distance[i] = 0;
    for (size_t k = 0; k < m; k++) {
        size_t filled = 0;
        for (size_t i = 0; i < n; i++) {
            if (c->group[i] != UINT32_MAX) c->items[filled++] = (dn_sort_item){.key = dn_sort_key(f[i * m + k]), .index = (uint32_t)i, .group = c->group[i]};
        }
        dn_sort(c->items, c->scratch, used);
        memcpy(c->next, c->start, groups * sizeof *c->next);
        for (size_t i = 0; i < used; i++) c->order[c->next[c->items[i].group]++] = c->items[i].index;
        for (size_t g = 0; g < groups; g++) add_gaps(c->order + c->start[g], c->start[g + 1] - c->start[g], f + k, m, distance);
    }
}

dn_status dn_crowding_distance(const double *f, const int32_t *rank, size_t n, size_t m, double *distance, dn_error *err) {
    if (m < 1) return dn_fail(err, DN_EINVAL, "f has no objectives (shape (%zu, 0)); at least 1", n);
    size_t i = dn_first_nan(f, n * m);
    if (i < n * m) return dn_fail(err, DN_EINVAL, "f: row %zu, objective %zu is NaN; pass only rows that were evaluated", i / m, i % m);
    dn_fpenv env = dn_fpenv_enter();
    dn_crowder crowder;
    dn_status status = dn_crowder_init(&crowder, n, err);
    if (status == DN_OK) dn_crowder_run(&crowder, f, rank, n, m, distance);
    dn_crowder_free(&crowder);
    dn_fpenv_leave(env);
    return status;
}
