/* rank.c - non-dominated ranking: two objectives by sort and sweep, four and more by bit sets (three: rank3.c).
 *
 * Rows are sorted lexicographically and equal rows merged, so only an earlier position can dominate a later one. With two objectives a front is then summed up by its
 * smallest second objective and the front of a row found by binary search (the patience sweep of Jensen, IEEE TEC 7(5), 2003). With more, the dominators of a position
 * are the intersection, over the other objectives, of the sets of positions not above it (the bit-set idea of BOS and Merge Non-dominated Sorting: Roy et al. 2016,
 * Moreno et al. 2020), and its front is the first that holds none of them. Every front holds a dominator of what lies in the next, so that search is binary too. */
#include "search/rank.h"

#include "base/alloc.h"
#include "base/cpu.h"
#include "base/fpenv.h"
#include "base/size.h"
#include "base/status.h"

enum { SAME = INT32_MIN }; /* bit 31 of an order entry */
enum { LANES = 8 };

/* Bytes of dominator sets held at a time. More chunks mean more passes over the orders, larger ones leave the caches; 1 to 16 MiB measured, 10^4 rows of 5 objectives. */
static const size_t CHUNK_BYTES = 1u << 22;
enum { CHUNK_LEAST = 256 };

static size_t words_for(size_t n) { return dn_round_up(n, 64 * DN_LINE) / 64; }

/* ---- bit sets, plain C ---- */

static void intersect_ref(uint64_t *set, const uint64_t *with, size_t lines) {
    for (size_t w = 0; w < lines * DN_LINE; w++) set[w] &= with[w];
}

static int meets_ref(const uint64_t *a, const uint64_t *b, size_t lines) {
    while (lines-- > 0) {
        const uint64_t *x = a + lines * DN_LINE, *y = b + lines * DN_LINE;
        uint64_t both = 0;
        for (size_t w = 0; w < DN_LINE; w++) both |= x[w] & y[w];
        if (both) return 1;
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

static dn_status many_init(dn_ranker *r, dn_isa isa, dn_error *err) {
    size_t words = words_for(r->rows), bytes = words * sizeof *r->prefix, cells;
    r->words = words;
    r->ops = choose_ops(isa);
    r->chunk = dn_size_min(r->rows, dn_size_max(CHUNK_LEAST, CHUNK_BYTES / dn_size_max(bytes, 1)));
    if (!dn_size_mul(r->rows, r->objectives - 1, &cells)) return dn_fail(err, DN_ENOMEM, "%zu rows of %zu objectives do not fit in memory", r->rows, r->objectives);
    DN_TRY(DN_NEW(&r->column, r->rows, err));
    DN_TRY(DN_NEW(&r->first, r->rows, err));
    DN_TRY(DN_NEW(&r->position, r->rows, err));
    DN_TRY(DN_NEW(&r->level, r->rows, err));
    DN_TRY(DN_NEW(&r->order, cells, err));
    DN_TRY(DN_NEW(&r->places, r->chunk + 1, err));
    DN_TRY(DN_NEW(&r->prefix, words, err));
    return dn_alloc((void **)&r->dominators, r->chunk, bytes, err);
}

dn_status dn_ranker_init(dn_ranker *r, size_t rows, size_t objectives, dn_isa isa, dn_error *err) {
    *r = (dn_ranker){.rows = rows, .objectives = objectives};
    if (rows > INT32_MAX) return dn_fail(err, DN_EINVAL, "%zu rows to rank, the most is %d", rows, INT32_MAX);
    DN_TRY(DN_NEW(&r->sorted, rows, err));
    DN_TRY(DN_NEW(&r->scratch, rows, err));
    if (objectives == 2) return DN_NEW(&r->tail, rows, err);
    return objectives > 3 ? many_init(r, isa, err) : DN_OK;
}

void dn_ranker_free(dn_ranker *r) {
    void *owned[] = {r->sorted, r->scratch, r->column, r->tail, r->first, r->position, r->level, r->order, r->places, r->prefix, r->dominators, r->fronts, r->dense, r->steps, r->stairs};
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

/* For each y the first of the ascending tail[0 .. n-1] that is above it, n if none; n >= 1. It lies in end - left .. end. Masks (compare and subtract with borrow) stand for
 * branches that would be mispredicted half the time, and the lanes hide one another's latency. */
static void first_above(const uint64_t *tail, size_t n, const uint64_t y[LANES], size_t first[LANES]) {
    size_t end[LANES];
    for (int lane = 0; lane < LANES; lane++) end[lane] = n;
    for (size_t left = n; left > 1;) {
        size_t half = left / 2;
        for (int lane = 0; lane < LANES; lane++) end[lane] -= half & ((size_t)0 - (size_t)(y[lane] < tail[end[lane] - half]));
        left -= half;
    }
    for (int lane = 0; lane < LANES; lane++) first[lane] = end[lane] - (y[lane] < tail[end[lane] - 1]);
}

/* Searches LANES rows ahead in the fronts as they are; placing a row lowers one tail, so that a later row of the same batch can only end further up. */
static size_t rank_two(dn_ranker *r, const double *f, size_t n, int32_t *rank) {
    uint64_t mask = dn_sort_rows(r->sorted, r->scratch, f, n, 2, 2);
    uint64_t *tail = r->tail, last_x = 0, last_y = 0;
    size_t fronts = 0, level = 0;
    for (size_t start = 0; start < n; start += LANES) {
        uint64_t x[LANES], y[LANES] = {0};
        size_t first[LANES] = {0}, lanes = dn_size_min(LANES, n - start);
        for (size_t i = 0; i < lanes; i++) {
            const double *row = f + 2 * (r->sorted[start + i] & mask);
            x[i] = dn_sort_key(row[0]);
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

/* ---- four and more ---- */

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

static void sort_objectives(dn_ranker *r, const double *f, size_t distinct) {
    size_t m = r->objectives;
    for (size_t k = 1; k < m; k++) {
        uint32_t *order = r->order + (k - 1) * r->rows;
        for (size_t p = 0; p < distinct; p++) r->column[p] = f[r->first[p] * m + k];
        uint64_t mask = dn_sort_rows(r->sorted, r->scratch, r->column, distinct, 1, 1);
        for (size_t i = 0; i < distinct; i++) {
            uint32_t p = (uint32_t)(r->sorted[i] & mask);
            int same = i + 1 < distinct && r->column[r->sorted[i + 1] & mask] == r->column[p];
            order[i] = p | (same ? (uint32_t)SAME : 0);
        }
    }
}

/* Where the positions start .. end-1 stand in an order; without a branch on what is random. */
static size_t find_places(const uint32_t *order, size_t distinct, size_t start, size_t end, uint32_t *places) {
    size_t found = 0;
    for (size_t i = 0; i < distinct; i++) {
        places[found] = (uint32_t)i;
        found += (order[i] & INT32_MAX) - start < end - start; /* wraps for earlier positions */
    }
    return found;
}

/* Sets of the positions before `end` that dominate each of start .. end-1. A set has words up to its own position's line; bits from its own on are cleared. */
static void find_dominators(dn_ranker *r, size_t distinct, size_t start, size_t end) {
    size_t words = r->words;
    for (size_t k = 1; k < r->objectives; k++) {
        const uint32_t *order = r->order + (k - 1) * r->rows;
        size_t count = find_places(order, distinct, start, end, r->places);
        memset(r->prefix, 0, words * sizeof *r->prefix);
        for (size_t x = 0, next = 0; x < count; x++) {
            size_t place = r->places[x], p = order[place] & INT32_MAX;
            for (; next <= place || (order[next - 1] & (uint32_t)SAME); next++) {
                uint32_t other = order[next] & INT32_MAX;
                r->prefix[other >> 6] |= (uint64_t)1 << (other & 63);
            }
            uint64_t *set = r->dominators + (p - start) * words;
            size_t lines = p / (64 * DN_LINE) + 1;
            if (k == 1) memcpy(set, r->prefix, lines * DN_LINE * sizeof *set);
            else r->ops->intersect(set, r->prefix, lines);
        }
    }
    for (size_t p = start; p < end; p++) {
        uint64_t *set = r->dominators + (p - start) * words;
        size_t word = p >> 6, line_end = dn_round_up(word + 1, DN_LINE);
        set[word] &= ((uint64_t)1 << (p & 63)) - 1;
        for (size_t w = word + 1; w < line_end; w++) set[w] = 0;
    }
}

static int front_meets(const dn_ranker *r, const dn_front *front, const uint64_t *set, size_t lines) {
    if (front->count > DN_FRONT_LIST) return r->ops->meets(set, r->dense + front->dense * r->words, lines);
    uint64_t hit = 0;
    for (uint32_t i = 0; i < front->count; i++) hit |= set[front->member[i] >> 6] >> (front->member[i] & 63);
    return (int)(hit & 1);
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
        for (size_t i = 0; i < DN_FRONT_LIST; i++) set[front->member[i] >> 6] |= (uint64_t)1 << (front->member[i] & 63);
    }
    front->count++;
    r->dense[front->dense * words + (p >> 6)] |= (uint64_t)1 << (p & 63);
    return DN_OK;
}

static dn_status place(dn_ranker *r, size_t p, const uint64_t *set, size_t *fronts, size_t *dense_used, dn_error *err) {
    size_t low = 0, high = *fronts, lines = p / (64 * DN_LINE) + 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (front_meets(r, &r->fronts[middle], set, lines)) low = middle + 1;
        else high = middle;
    }
    if (low == *fronts) {
        if (*fronts == r->front_capacity) DN_TRY(dn_ranker_grow((void **)&r->fronts, &r->front_capacity, *fronts, sizeof *r->fronts, err));
        r->fronts[(*fronts)++] = (dn_front){0};
    }
    r->level[p] = (int32_t)low;
    return front_add(r, &r->fronts[low], p, dense_used, err);
}

static dn_status rank_many(dn_ranker *r, const double *f, size_t n, int32_t *rank, size_t *fronts, dn_error *err) {
    size_t distinct = merge_equal(r, f, n), dense_used = 0;
    sort_objectives(r, f, distinct);
    *fronts = 0;
    for (size_t start = 0; start < distinct; start += r->chunk) {
        size_t end = dn_size_min(start + r->chunk, distinct);
        find_dominators(r, distinct, start, end);
        for (size_t p = start; p < end; p++) DN_TRY(place(r, p, r->dominators + (p - start) * r->words, fronts, &dense_used, err));
    }
    for (size_t i = 0; i < n; i++) rank[i] = r->level[r->position[i]];
    return DN_OK;
}

/* ---- entry ---- */

dn_status dn_ranker_run(dn_ranker *r, const double *f, size_t n, int32_t *rank, size_t *count, dn_error *err) {
    size_t fronts = 0;
    if (r->objectives == 1) fronts = rank_one(r, f, n, rank);
    else if (r->objectives == 2) fronts = rank_two(r, f, n, rank);
    else if (r->objectives == 3) DN_TRY(dn_rank_three(r, f, n, rank, &fronts, err));
    else DN_TRY(rank_many(r, f, n, rank, &fronts, err));
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
