/* rank_many.c - non-dominated ranking for four and more objectives by bit sets.
 *
 * Rows are sorted lexicographically and equal rows merged, so only an earlier position can dominate a later one. The dominators of a position are then the intersection, over
 * the other objectives, of the sets of positions not above it (the bit-set idea of BOS and Merge Non-dominated Sorting: Roy et al. 2016, Moreno et al. 2020), and its
 * front is the first that holds none of them. Every front holds a dominator of what lies in the next, so that search is binary.
 *
 * These sets are kept for every 1 << `shift` places of an objective only, and the next larger one stands in for those between. The intersection therefore holds a few
 * positions too many, and what it shares with a front is compared before it counts. So no set is ever corrected or stored per position, and all that is read stays near. */
#include "base/alloc.h"
#include "base/cpu.h"
#include "base/size.h"
#include "base/status.h"
#include "search/rank.h"

/* Kept sets: about so many bytes, but no fewer than so many per objective and no closer than 1 << LEAST_SHIFT places. Measured: 200 to 10^5 rows of 4 to 10 objectives. */
static const size_t KEPT_BYTES = 1u << 20;
enum { FEWEST = 64, LEAST_SHIFT = 4 };

static size_t words_for(size_t n) { return dn_round_up(n, 64 * DN_LINE) / 64; }

static void set_bit(uint64_t *set, size_t p) { set[p >> 6] |= (uint64_t)1 << (p & 63); }

/* ---- bit sets, plain C ---- */

static void intersect_ref(uint64_t *set, const uint64_t *const *with, size_t count, size_t lines) {
    for (size_t w = 0; w < lines * DN_LINE; w++) {
        uint64_t all = with[0][w];
        for (size_t k = 1; k < count; k++) all &= with[k][w];
        set[w] = all;
    }
}

static size_t meets_ref(const uint64_t *a, const uint64_t *b, size_t lines) {
    for (; lines > 0; lines--) {
        for (size_t w = (lines - 1) * DN_LINE; w < lines * DN_LINE; w++)
            if (a[w] & b[w]) return dn_common_bit(a, b, w) + 1;
    }
    return 0;
}

const dn_bitset_ops dn_bitset_ref = {intersect_ref, meets_ref};

static const dn_bitset_ops *choose_ops(dn_isa isa) {
    unsigned features = dn_cpu_detect() & dn_isa_features(isa);
#if defined(__x86_64__)
    if (features & DN_CPU_AVX512) return &dn_bitset_avx512;
    if (features & DN_CPU_AVX2) return &dn_bitset_avx2;
#endif
    (void)features;
    return &dn_bitset_ref;
}

/* ---- memory ---- */

dn_status dn_rank_many_init(dn_ranker *r, dn_isa isa, dn_error *err) {
    size_t others = r->objectives - 1, cells, sets, bytes;
    r->words = words_for(r->rows);
    r->ops = choose_ops(isa);
    bytes = r->words * sizeof *r->set;
    if (!dn_size_mul(r->rows, others, &cells)) return dn_fail(err, DN_ENOMEM, "%zu rows of %zu objectives do not fit in memory", r->rows, r->objectives);
    sets = dn_size_max(FEWEST, KEPT_BYTES / dn_size_max(1, bytes) / others);
    r->shift = LEAST_SHIFT;
    while (r->rows >> r->shift > sets) r->shift++;
    r->blocks = (r->rows >> r->shift) + 1;
    DN_TRY(DN_NEW(&r->column, r->rows, err));
    DN_TRY(DN_NEW(&r->first, r->rows, err));
    DN_TRY(DN_NEW(&r->position, r->rows, err));
    DN_TRY(DN_NEW(&r->level, r->rows, err));
    DN_TRY(DN_NEW(&r->place, cells, err));
    DN_TRY(DN_NEW(&r->with, others, err));
    DN_TRY(DN_NEW(&r->set, r->words, err));
    return dn_alloc((void **)&r->prefixes, others * r->blocks, bytes, err);
}

/* ---- orders ---- */

/* Gives equal rows one position; returns the number of positions. */
static size_t merge_equal(dn_ranker *r, const double *f, size_t n) {
    size_t m = r->objectives, distinct = 0;
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, f, n, m, m);
    for (size_t i = 0; i < n; i++) {
        size_t row = r->sorted[i] & mask;
        int equal = i > 0;
        for (size_t k = 0; k < m && equal; k++) equal = f[row * m + k] == f[(r->sorted[i - 1] & mask) * m + k];
        if (!equal) r->first[distinct++] = (uint32_t)row;
        r->position[row] = (uint32_t)(distinct - 1);
    }
    return distinct;
}

/* Finds each position's place in objective k, the last of those with the same value, and the sets of the positions at its first places. */
static void order_objective(dn_ranker *r, const double *f, size_t distinct, size_t k) {
    size_t m = r->objectives, last = 0, words = words_for(distinct);
    for (size_t p = 0; p < distinct; p++) r->column[p] = f[r->first[p] * m + k];
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, r->column, distinct, 1, 1);
    double after = 0;
    for (size_t i = distinct; i-- > 0;) {
        size_t p = r->sorted[i] & mask;
        if (i + 1 == distinct || r->column[p] != after) last = i;
        after = r->column[p];
        r->place[p * (m - 1) + k - 1] = (uint32_t)last;
    }
    uint64_t *set = r->prefixes + (k - 1) * r->blocks * r->words;
    memset(set, 0, words * sizeof *set);
    for (size_t i = 0; i < distinct;) {
        size_t end = dn_size_min(distinct, i + ((size_t)1 << r->shift));
        for (; i < end; i++) set_bit(set, r->sorted[i] & mask);
        if (i < distinct) memcpy(set + r->words, set, words * sizeof *set);
        set += r->words;
    }
}

/* ---- fronts ---- */

static int dominates(const dn_ranker *r, size_t q, size_t p) {
    size_t others = r->objectives - 1;
    const uint32_t *a = r->place + q * others, *b = r->place + p * others;
    int above = 0;
    for (size_t k = 0; k < others; k++) above |= a[k] > b[k];
    return !above;
}

/* Does the front hold a dominator of p? r->set holds all of them, and a few positions more. */
static int list_dominates(const dn_ranker *r, const dn_front *front, size_t p) {
    uint32_t maybe = 0;
    for (uint32_t i = 0; i < front->count; i++) maybe |= (uint32_t)(r->set[front->member[i] >> 6] >> (front->member[i] & 63) & 1) << i;
    for (; maybe; maybe &= maybe - 1)
        if (dominates(r, front->member[dn_lowest_bit(maybe)], p)) return 1;
    return 0;
}

static int line_dominates(const dn_ranker *r, const uint64_t *dense, size_t p, size_t line) {
    for (size_t w = line * DN_LINE; w < (line + 1) * DN_LINE; w++)
        for (uint64_t both = r->set[w] & dense[w]; both; both &= both - 1)
            if (dominates(r, 64 * w + dn_lowest_bit(both), p)) return 1;
    return 0;
}

static int front_dominates(const dn_ranker *r, const dn_front *front, size_t p, size_t lines) {
    if (front->count <= DN_FRONT_LIST) return list_dominates(r, front, p);
    const uint64_t *dense = r->dense + front->dense * r->words;
    for (size_t found; (found = r->ops->meets(r->set, dense, lines)) > 0;) {
        lines = (found - 1) / (64 * DN_LINE);
        if (dominates(r, found - 1, p) || line_dominates(r, dense, p, lines)) return 1;
    }
    return 0;
}

/* Adds position p; the member that no longer fits the list turns it into a bit set. */
static dn_status front_add(dn_ranker *r, dn_front *front, size_t p, size_t *dense_used, dn_error *err) {
    size_t words = r->words;
    if (front->count < DN_FRONT_LIST) {
        front->member[front->count++] = (uint32_t)p;
        return DN_OK;
    }
    if (front->count == DN_FRONT_LIST) {
        if (*dense_used == r->dense_capacity) DN_TRY(dn_ranker_grow((void **)&r->dense, &r->dense_capacity, *dense_used, words * sizeof *r->dense, err));
        front->dense = (uint32_t)(*dense_used)++;
        uint64_t *set = r->dense + front->dense * words;
        memset(set, 0, words * sizeof *set);
        for (size_t i = 0; i < DN_FRONT_LIST; i++) set_bit(set, front->member[i]);
    }
    front->count++;
    set_bit(r->dense + front->dense * words, p);
    return DN_OK;
}

static void find_dominators(dn_ranker *r, size_t p, size_t lines) {
    size_t others = r->objectives - 1;
    const uint32_t *place = r->place + p * others;
    for (size_t k = 0; k < others; k++) r->with[k] = r->prefixes + (k * r->blocks + (place[k] >> r->shift)) * r->words;
    r->ops->intersect(r->set, r->with, others, lines);
}

static dn_status put(dn_ranker *r, size_t p, size_t *fronts, size_t *dense_used, dn_error *err) {
    size_t low = 0, high = *fronts, lines = p / (64 * DN_LINE) + 1;
    find_dominators(r, p, lines);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (front_dominates(r, &r->fronts[middle], p, lines)) low = middle + 1;
        else high = middle;
    }
    if (low == *fronts) {
        if (*fronts == r->front_capacity) DN_TRY(dn_ranker_grow((void **)&r->fronts, &r->front_capacity, *fronts, sizeof *r->fronts, err));
        r->fronts[(*fronts)++] = (dn_front){0};
    }
    r->level[p] = (int32_t)low;
    return front_add(r, &r->fronts[low], p, dense_used, err);
}

dn_status dn_rank_many(dn_ranker *r, const double *f, size_t n, int32_t *rank, size_t *fronts, dn_error *err) {
    size_t distinct = merge_equal(r, f, n), dense_used = 0;
    for (size_t k = 1; k < r->objectives; k++) order_objective(r, f, distinct, k);
    *fronts = 0;
    for (size_t p = 0; p < distinct; p++) DN_TRY(put(r, p, fronts, &dense_used, err));
    for (size_t i = 0; i < n; i++) rank[i] = r->level[r->position[i]];
    return DN_OK;
}
