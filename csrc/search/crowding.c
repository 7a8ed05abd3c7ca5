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
    DN_TRY(DN_NEW(&c->sorted, rows, err));
    DN_TRY(DN_NEW(&c->label, rows, err));
    DN_TRY(DN_NEW(&c->scratch, rows, err));
    DN_TRY(DN_NEW(&c->start, rows + 1, err));
    DN_TRY(DN_NEW(&c->next, rows, err));
    DN_TRY(DN_NEW(&c->group, rows, err));
    return DN_NEW(&c->order, rows, err);
}

void dn_crowder_free(dn_crowder *c) {
    void *owned[] = {c->sorted, c->scratch, c->label, c->start, c->next, c->group, c->order};
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
    for (size_t i = 0; i < n; i++) c->label[i] = rank[i];
    uint64_t mask = dn_sort_rows(c->sorted, c->scratch, c->label, n, 1, 1);
    double last = NAN;
    for (size_t i = 0; i < n; i++) {
        size_t row = c->sorted[i] & mask;
        c->group[row] = UINT32_MAX;
        if (has_nan(f + row * m, m)) continue;
        if (c->label[row] != last) c->start[groups++] = (uint32_t)used;
        last = c->label[row];
        c->group[row] = (uint32_t)(groups - 1);
        used++;
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
    size_t groups = make_groups(c, f, rank, n, m);
    for (size_t i = 0; i < n; i++) distance[i] = 0;
    for (size_t k = 0; k < m; k++) {
        uint64_t mask = dn_sort_rows(c->sorted, c->scratch, f + k, n, m, 1);
        memcpy(c->next, c->start, groups * sizeof *c->next);
        for (size_t i = 0; i < n; i++) {
            uint32_t row = (uint32_t)(c->sorted[i] & mask), group = c->group[row];
            if (group != UINT32_MAX) c->order[c->next[group]++] = row;
        }
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
