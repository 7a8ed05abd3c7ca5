/* rank.c - non-dominated ranking: one and two objectives by sort and sweep (three: rank3.c; four and more: rank_many.c).
 *
 * Rows are sorted lexicographically, so only an earlier one can dominate a later one. With two objectives a front is then summed up by its smallest second objective and
 * the front of a row found by binary search (the patience sweep of Jensen, IEEE TEC 7(5), 2003). */
#include "search/rank.h"

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/size.h"
#include "base/status.h"

enum { LANES = 8 };

/* ---- memory ---- */

dn_status dn_ranker_init(dn_ranker *r, size_t rows, size_t objectives, dn_isa isa, dn_error *err) {
    *r = (dn_ranker){.rows = rows, .objectives = objectives};
    if (rows > INT32_MAX) return dn_fail(err, DN_EINVAL, "%zu rows to rank, the most is %d", rows, INT32_MAX);
    DN_TRY(DN_NEW(&r->sorted, rows, err));
    DN_TRY(DN_NEW(&r->scratch, rows, err));
    if (objectives == 2) return DN_NEW(&r->tail, rows, err);
    return objectives > 3 ? dn_rank_many_init(r, isa, err) : DN_OK;
}

void dn_ranker_free(dn_ranker *r) {
    void *owned[] = {r->sorted, r->scratch, r->column, r->tail, r->first, r->position, r->level, r->place, r->prefixes, r->with, r->set, r->fronts, r->dense, r->steps, r->stairs};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) dn_free(owned[i]);
    *r = (dn_ranker){0};
}

dn_status dn_ranker_grow(void **array, size_t *capacity, size_t used, size_t size, dn_error *err) {
    size_t wanted = dn_size_max(16, 2 * *capacity);
    void *larger;
    DN_TRY(dn_alloc(&larger, wanted, size, err));
    if (used) memcpy(larger, *array, used * size);
    dn_free(*array);
    *array = larger;
    *capacity = wanted;
    return DN_OK;
}

/* ---- one and two objectives ---- */

static size_t rank_one(dn_ranker *r, const double *f, size_t n, int32_t *rank) {
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, f, n, 1, 1);
    int32_t level = -1;
    for (size_t i = 0; i < n; i++) {
        size_t row = r->sorted[i] & mask;
        if (i == 0 || f[row] != f[r->sorted[i - 1] & mask]) level++;
        rank[row] = level;
    }
    return (size_t)(level + 1);
}

/* For each y the first of the ascending tail[0 .. n-1] that is above it, n if none; n >= 1. It lies in end - left .. end. Nothing branches on values, which would be
 * mispredicted half the time, and the lanes hide one another's latency. */
static void first_above(const uint64_t *tail, size_t n, const uint64_t y[LANES], size_t first[LANES]) {
    const uint64_t *end[LANES];
    for (int lane = 0; lane < LANES; lane++) end[lane] = tail + n;
    for (size_t left = n; left > 1;) {
        size_t half = left / 2;
        for (int lane = 0; lane < LANES; lane++) {
            const uint64_t *middle = end[lane] - half;
            end[lane] = y[lane] < *middle ? middle : end[lane];
        }
        left -= half;
    }
    for (int lane = 0; lane < LANES; lane++) first[lane] = (size_t)(end[lane] - tail) - (y[lane] < end[lane][-1]);
}

/* Searches LANES rows ahead in the fronts as they are; placing a row lowers one tail, so that a later row of the same batch can only end further up. */
static size_t rank_two(dn_ranker *r, const double *f, size_t n, int32_t *rank) {
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, f, n, 2, 2);
    uint64_t *tail = r->tail, last_y = 0;
    double last_x = 0;
    size_t fronts = 0, level = 0;
    for (size_t start = 0; start < n; start += LANES) {
        uint64_t y[LANES] = {0};
        double x[LANES];
        size_t first[LANES] = {0}, lanes = dn_size_min(LANES, n - start);
        for (size_t i = 0; i < lanes; i++) {
            const double *row = f + 2 * (r->sorted[start + i] & mask);
            x[i] = row[0];
            y[i] = dn_sort_key(row[1]);
        }
        if (fronts) first_above(tail, fronts, y, first);
        for (size_t i = 0; i < lanes; i++) {
            if (x[i] != last_x || y[i] != last_y) {
                for (level = first[i]; level < fronts && tail[level] <= y[i]; level++) continue;
                fronts += level == fronts;
                tail[level] = y[i];
                last_x = x[i];
                last_y = y[i];
            }
            rank[r->sorted[start + i] & mask] = (int32_t)level;
        }
    }
    return fronts;
}

/* ---- entry ---- */

dn_status dn_ranker_run(dn_ranker *r, const double *f, size_t n, int32_t *rank, size_t *count, dn_error *err) {
    size_t fronts = 0;
    if (r->objectives == 1) fronts = rank_one(r, f, n, rank);
    else if (r->objectives == 2) fronts = rank_two(r, f, n, rank);
    else if (r->objectives == 3) DN_TRY(dn_rank_three(r, f, n, rank, &fronts, err));
    else DN_TRY(dn_rank_many(r, f, n, rank, &fronts, err));
    if (count) *count = fronts;
    return DN_OK;
}

dn_status dn_nondominated_rank(const double *f, size_t n, size_t m, dn_isa isa, int32_t *rank, dn_error *err) {
    if (m < 1) return dn_fail(err, DN_EINVAL, "f has no objectives (shape (%zu, 0)); at least 1", n);
    size_t i = dn_first_nan(f, n * m);
    if (i < n * m) return dn_fail(err, DN_EINVAL, "f: row %zu, objective %zu is NaN; rank only rows that were evaluated", i / m, i % m);
    dn_fpenv env = dn_fpenv_enter();
    dn_ranker ranker = {0};
    dn_status status = dn_ranker_init(&ranker, n, m, isa, err);
    if (status == DN_OK) status = dn_ranker_run(&ranker, f, n, rank, NULL, err);
    dn_ranker_free(&ranker);
    dn_fpenv_leave(env);
    return status;
}
