/* check_search.c - the search layer where Python cannot look: every failing allocation, damaged states, equal bits on every instruction set, extreme values. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu.h"
#include "base/rng.h"
#include "search/power.h"
#include "search/rank.h"
#include "search/variation.h"

static int failures;

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            failures++; \
        } \
    } while (0)

static const dn_rng source = {1, DN_STREAM_TEST, 0};

static double uniform(uint64_t index) { return dn_rng_uniform(&source, index, 0); }

/* ---- ranking ---- */

static int dominates(const double *a, const double *b, size_t m) {
    int less = 0;
    for (size_t k = 0; k < m; k++) {
        if (a[k] > b[k]) return 0;
        less |= a[k] < b[k];
    }
    return less;
}

/* Rank by definition: peel one front after the other. */
static void rank_by_peeling(const double *f, size_t n, size_t m, int32_t *rank) {
    for (size_t i = 0; i < n; i++) rank[i] = INT32_MAX;
    for (size_t left = n, level = 0; left > 0; level++) {
        for (size_t i = 0; i < n; i++) {
            int beaten = rank[i] < (int32_t)level;
            for (size_t j = 0; j < n && !beaten; j++) beaten = rank[j] >= (int32_t)level && dominates(f + j * m, f + i * m, m);
            if (beaten) continue;
            rank[i] = (int32_t)level;
            left--;
        }
    }
}

static void fill(double *f, size_t n, size_t m, int kind) {
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < m; k++) {
            double u = uniform(i * m + k + 1000003 * m);
            if (kind == 0) f[i * m + k] = u;
            if (kind == 1) f[i * m + k] = floor(u * 4) - 2;
            if (kind == 2) f[i * m + k] = (double)(n - i);
            if (kind == 3) f[i * m + k] = u < .1 ? INFINITY : u < .2 ? -INFINITY : u < .3 ? -0.0 : u < .4 ? 0.0 : u < .5 ? 1e308 : u < .6 ? 5e-324 : u;
            if (kind == 4) f[i * m + k] = i ? pow(2, -1000 * u) : 1e300; /* one value stretches the range */
        }
    }
}

static void check_ranks(void) {
    static const size_t sizes[] = {0, 1, 2, 3, 63, 64, 65, 300, 511, 512, 513, 700};
    static double f[700 * 6];
    static int32_t expected[700], found[700];
    dn_error err;
    for (size_t m = 1; m <= 6; m++) {
        for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
            for (int kind = 0; kind < 5; kind++) {
                size_t n = sizes[z];
                fill(f, n, m, kind);
                rank_by_peeling(f, n, m, expected);
                for (dn_isa isa = DN_ISA_REF; isa <= DN_ISA_BEST; isa++) {
                    memset(found, 0xff, sizeof found);
                    int ok = dn_nondominated_rank(f, n, m, isa, found, &err) == DN_OK && memcmp(found, expected, n * sizeof *found) == 0;
                    if (!ok) printf("rank: n %zu, m %zu, kind %d, isa %s\n", n, m, kind, dn_isa_name(isa));
                    failures += !ok;
                }
            }
        }
    }
    f[3] = NAN;
    CHECK(dn_nondominated_rank(f, 10, 2, DN_ISA_BEST, found, &err) == DN_EINVAL);
    CHECK(dn_nondominated_rank(f, 10, 0, DN_ISA_BEST, found, &err) == DN_EINVAL);
}

/* A chain (every row a front of its own) and one big front, across several chunks of the bit sets. */
static void check_large_ranks(void) {
    enum { N = 9000, M = 4 };
    double *f = malloc(N * M * sizeof *f);
    int32_t *rank = malloc(N * sizeof *rank);
    if (!f || !rank) abort();
    dn_error err;
    for (size_t i = 0; i < N * M; i++) f[i] = (double)(i / M * 7919 % N);
    CHECK(dn_nondominated_rank(f, N, M, DN_ISA_BEST, rank, &err) == DN_OK);
    for (size_t i = 0; i < N; i++) CHECK(rank[i] == (int32_t)(i * 7919 % N));
    for (size_t i = 0; i < N; i++) f[i * M + 1] = -f[i * M];
    CHECK(dn_nondominated_rank(f, N, M, DN_ISA_BEST, rank, &err) == DN_OK);
    for (size_t i = 0; i < N; i++) CHECK(rank[i] == 0);
    for (size_t i = 0; i < N; i++) f[i] = 1;
    CHECK(dn_nondominated_rank(f, N / 2, 2, DN_ISA_BEST, rank, &err) == DN_OK);
    for (size_t i = 0; i < N / 2; i++) CHECK(rank[i] == 0);
    free(f);
    free(rank);
}

/* A ranker that is used again for other numbers of rows must not remember anything. */
static void check_reuse(void) {
    static double f[600 * 3];
    static int32_t expected[600], found[600];
    dn_ranker ranker;
    dn_error err;
    CHECK(dn_ranker_init(&ranker, 600, 3, DN_ISA_BEST, &err) == DN_OK);
    static const size_t sizes[] = {20, 600, 0, 64, 599};
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        fill(f, sizes[z], 3, (int)(z % 2));
        rank_by_peeling(f, sizes[z], 3, expected);
        CHECK(dn_ranker_run(&ranker, f, sizes[z], found, NULL, &err) == DN_OK);
        CHECK(memcmp(found, expected, sizes[z] * sizeof *found) == 0);
    }
    dn_ranker_free(&ranker);
}

/* ---- hypervolume, crowding, IGD+ ---- */

static void check_measures(void) {
    dn_error err;
    double value, distance[4];
    const double corner[] = {0, 0, 0, 0, 0}, ref[] = {2, 2, 2, 2, 2};
    for (size_t m = 1; m <= 5; m++) {
        CHECK(dn_hypervolume(corner, 1, m, ref, &value, &err) == DN_OK && value == ldexp(1, (int)m));
        CHECK(dn_hypervolume(corner, 0, m, ref, &value, &err) == DN_OK && value == 0);
        CHECK(dn_hypervolume(ref, 1, m, ref, &value, &err) == DN_OK && value == 0);
    }
    const double endless[] = {-INFINITY, 1, 1, 1}, huge[] = {-1e300, -1e300, -1e300, -1e300}, tiny[] = {-1e-200, -1e-200, -1e-200, -1e-200}, zero[] = {0, 0, 0, 0};
    CHECK(dn_hypervolume(endless, 1, 4, ref, &value, &err) == DN_OK && value == INFINITY);
    CHECK(dn_hypervolume(huge, 1, 4, zero, &value, &err) == DN_OK && value == INFINITY);
    CHECK(dn_hypervolume(tiny, 1, 4, zero, &value, &err) == DN_OK && value == 0);
    const double mixed[] = {-1e300, -1e300, -1e-300, -1e-300, -1e299, -1e301, -1e-300, -1e-300}; /* products overflow on the way only */
    CHECK(dn_hypervolume(mixed, 2, 4, zero, &value, &err) == DN_OK && fabs(value - 1.9) < 1e-13);
    const double nan_row[] = {NAN, 0};
    CHECK(dn_hypervolume(nan_row, 1, 2, ref, &value, &err) == DN_EINVAL);
    CHECK(dn_hypervolume(corner, 1, 2, nan_row, &value, &err) == DN_EINVAL);
    const double wide[] = {-1e308, 1e308, 0, 0, 1e308, -1e308};
    const int32_t ranks[] = {7, 7, 7}, far[] = {INT32_MIN, INT32_MAX, INT32_MIN};
    CHECK(dn_crowding_distance(wide, ranks, 3, 2, distance, &err) == DN_OK && distance[0] == INFINITY && distance[1] == 2 && distance[2] == INFINITY);
    CHECK(dn_crowding_distance(wide, far, 3, 2, distance, &err) == DN_OK && distance[1] == INFINITY);
    CHECK(dn_crowding_distance(nan_row, ranks, 1, 2, distance, &err) == DN_EINVAL);
    CHECK(dn_igd_plus(corner, 0, ref, 1, 2, &value, &err) == DN_OK && value == INFINITY);
    CHECK(dn_igd_plus(ref, 1, corner, 1, 2, &value, &err) == DN_OK && fabs(value - sqrt(8)) < 1e-15);
    CHECK(dn_igd_plus(ref, 1, corner, 0, 2, &value, &err) == DN_EINVAL);
}

/* ---- arithmetic ---- */

static void check_power(void) {
    double worst = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        double base = pow(10, 20 * uniform(2 * i) - 10), exponent = 60 * uniform(2 * i + 1) - 30, expected = pow(base, exponent);
        if (expected < 1e-300 || expected > 1e300) continue;
        double error = fabs(dn_power(base, exponent) / expected - 1);
        worst = error > worst ? error : worst;
    }
    if (worst > 3e-13) printf("dn_power: relative error %g\n", worst);
    failures += worst > 3e-13;
    CHECK(dn_exp(0) == 1 && dn_log(1) == 0 && dn_exp(-1e9) < 1e-300 && dn_exp(1e9) > 1e300 && isfinite(dn_exp(1e9)));
}

/* The same bits from every version of the batches, children within the bounds. */
static void check_batches(void) {
    static dn_batch in;
    static dn_children out;
    for (size_t i = 0; i < DN_BATCH; i++) {
        double low = i % 3 ? 0 : -1e5 * uniform(9 * i), range = i % 5 ? 1 : pow(10, 600 * uniform(9 * i + 1) - 300);
        double p = low + range * uniform(9 * i + 2), q = i % 7 ? low + range * uniform(9 * i + 3) : low;
        uint32_t r[4];
        dn_rng_block(&source, i, 1, r);
        in.low[i] = low;
        in.high[i] = low + range > low ? low + range : low + 1;
        in.a[i] = p < q ? p : q;
        in.b[i] = p < q ? q : p == q ? in.high[i] : p;
        in.random[i] = i == 0 ? 0 : i == 1 ? UINT64_MAX : (uint64_t)r[0] << 32 | r[1];
    }
    for (int mutate = 0; mutate < 2; mutate++) {
        for (double eta = 0; eta < 100; eta = 2 * eta + 1) {
            (mutate ? dn_batch_ref.mutate : dn_batch_ref.cross)(&in, &out, DN_BATCH, eta);
            for (size_t i = 0; i < DN_BATCH; i++) {
                CHECK(out.left[i] >= in.low[i] && out.left[i] <= in.high[i]);
                CHECK(mutate || (out.right[i] >= in.low[i] && out.right[i] <= in.high[i]));
            }
#if defined(__x86_64__)
            if (!(dn_cpu_detect() & DN_CPU_AVX2)) continue;
            static dn_children other;
            other = out;
            (mutate ? dn_batch_avx2.mutate : dn_batch_avx2.cross)(&in, &other, DN_BATCH, eta);
            CHECK(memcmp(&out, &other, sizeof out) == 0);
#endif
        }
    }
}

/* ---- the search ---- */

enum { POPULATION = 12, VARIABLES = 5, OBJECTIVES = 3, CONSTRAINTS = 1 };

static const double lower[VARIABLES] = {0, 0, -1, -3, 2}, upper[VARIABLES] = {1, 1, 1, 3, 2};
static const uint8_t integer[VARIABLES] = {0, 0, 0, 1, 0};
static const dn_nsga2_options options = {
    .variables = VARIABLES,
    .objectives = OBJECTIVES,
    .constraints = CONSTRAINTS,
    .population = POPULATION,
    .lower = lower,
    .upper = upper,
    .integer = integer,
    .crossover_probability = .9,
    .crossover_eta = 15,
    .mutation_eta = 20,
    .seed = 42,
};

static dn_status step(dn_nsga2 *search, dn_error *err) {
    const double *x;
    size_t rows;
    double f[POPULATION * OBJECTIVES], g[POPULATION * CONSTRAINTS];
    dn_status status = dn_nsga2_ask(search, &x, &rows, err);
    if (status != DN_OK) return status;
    for (size_t i = 0; i < rows; i++) {
        const double *v = x + i * VARIABLES;
        f[i * OBJECTIVES] = v[0] + v[2] * v[2];
        f[i * OBJECTIVES + 1] = v[1] + v[2] * v[2];
        f[i * OBJECTIVES + 2] = v[3] > 2 ? NAN : 2 - v[0] - v[1] + .1 * v[3];
        g[i] = .2 - v[0] - v[1];
    }
    return dn_nsga2_tell(search, f, g, err);
}

static dn_status run(dn_nsga2 **search, int generations, dn_error *err) {
    dn_status status = dn_nsga2_new(search, &options, err);
    for (int i = 0; i < generations && status == DN_OK; i++) status = step(*search, err);
    return status;
}

static uint8_t *take_state(const dn_nsga2 *search, size_t *size) {
    *size = dn_nsga2_state_bytes(search);
    uint8_t *bytes = malloc(*size);
    if (!bytes) abort();
    dn_nsga2_get_state(search, bytes);
    return bytes;
}

/* Whatever allocation fails, the call says so, nothing leaks, and the same search then goes on as if nothing had happened. */
static void check_allocation_failures(void) {
    dn_error err;
    dn_nsga2 *untouched, *search;
    CHECK(run(&untouched, 6, &err) == DN_OK);
    size_t size, other_size;
    uint8_t *expected = take_state(untouched, &size), *found;
    int64_t live = dn_alloc_live();
    for (int64_t k = 1;; k++) {
        dn_alloc_fail_at(k);
        dn_status status = dn_nsga2_new(&search, &options, &err);
        for (int i = 0; i < 6 && status == DN_OK; i++) {
            status = step(search, &err);
            if (status == DN_ENOMEM) status = step(search, &err);
        }
        int done = dn_alloc_fail_left() > 0;
        dn_alloc_fail_at(0);
        CHECK(status == DN_OK || (status == DN_ENOMEM && !search));
        if (status == DN_OK) {
            found = take_state(search, &other_size);
            CHECK(size == other_size && memcmp(found, expected, size) == 0);
            free(found);
        }
        dn_nsga2_free(search);
        CHECK(dn_alloc_live() == live);
        if (done) break;
    }
    free(expected);
    dn_nsga2_free(untouched);
    double f[40 * 4], ref[4] = {2, 2, 2, 2}, value, distance[40];
    int32_t rank[40];
    fill(f, 40, 4, 0);
    for (int which = 0; which < 3; which++) {
        for (int64_t k = 1;; k++) {
            dn_alloc_fail_at(k);
            dn_status status = which == 0 ? dn_nondominated_rank(f, 40, 4, DN_ISA_BEST, rank, &err) : DN_OK;
            if (which == 1) status = dn_crowding_distance(f, rank, 40, 4, distance, &err);
            if (which == 2) status = dn_hypervolume(f, 40, 4, ref, &value, &err);
            int done = dn_alloc_fail_left() > 0;
            dn_alloc_fail_at(0);
            CHECK(status == (done ? DN_OK : DN_ENOMEM));
            if (done) break;
        }
    }
}

static void check_damaged_states(void) {
    dn_error err;
    dn_nsga2 *search, *other;
    CHECK(run(&search, 3, &err) == DN_OK && run(&other, 0, &err) == DN_OK);
    size_t size, again_size;
    uint8_t *state = take_state(search, &size), *bytes = malloc(size + 8), *again;
    if (!bytes) abort();
    for (size_t length = 0; length < size; length++) CHECK(dn_nsga2_set_state(other, state, length, &err) == DN_EINVAL);
    for (size_t i = 0; i < size; i++) {
        for (int bit = 0; bit < 8; bit += 7) {
            memcpy(bytes, state, size);
            bytes[i] ^= (uint8_t)(1u << bit);
            CHECK(dn_nsga2_set_state(other, bytes, size, &err) == DN_EINVAL);
        }
    }
    for (uint64_t i = 0; i < 300; i++) {
        for (size_t b = 0; b < size; b++) bytes[b] = (uint8_t)(256 * uniform(i * size + b));
        if (i % 2) memcpy(bytes, state, 48); /* a good header before garbage */
        CHECK(dn_nsga2_set_state(other, bytes, size, &err) == DN_EINVAL);
    }
    CHECK(dn_nsga2_size(other) == 0 && dn_nsga2_generation(other) == 0);
    CHECK(dn_nsga2_set_state(other, state, size, &err) == DN_OK);
    bytes[0] ^= 1;
    CHECK(dn_nsga2_set_state(other, bytes, size, &err) == DN_EINVAL); /* and the search stays as it is */
    for (int i = 0; i < 5; i++) CHECK(step(search, &err) == DN_OK && step(other, &err) == DN_OK);
    free(state);
    state = take_state(search, &size);
    again = take_state(other, &again_size);
    CHECK(size == again_size && memcmp(state, again, size) == 0);
    dn_nsga2_free(other);
    dn_nsga2_options foreign = options;
    foreign.seed++;
    CHECK(dn_nsga2_new(&other, &foreign, &err) == DN_OK && dn_nsga2_set_state(other, state, size, &err) == DN_EINVAL);
    dn_nsga2_free(other);
    dn_nsga2_free(search);
    free(state);
    free(again);
    free(bytes);
}

static void check_options(void) {
    dn_error err;
    dn_nsga2 *search;
    dn_nsga2_options bad[10];
    const double nan_bounds[VARIABLES] = {NAN, 0, -1, -3, 2}, high[VARIABLES] = {2, 1, 1, 3, 2}, half[VARIABLES] = {1, 1, 1, 3.5, 2};
    for (int i = 0; i < 10; i++) bad[i] = options;
    bad[0].population = 11;
    bad[1].population = 2;
    bad[2].variables = 0;
    bad[3].objectives = 0;
    bad[4].constraints = -1;
    bad[5].lower = nan_bounds;
    bad[6].lower = high;
    bad[7].upper = half;
    bad[8].crossover_eta = NAN;
    bad[9].crossover_probability = 2;
    for (int i = 0; i < 10; i++) {
        CHECK(dn_nsga2_new(&search, &bad[i], &err) == DN_EINVAL && !search);
        dn_nsga2_free(search);
    }
    CHECK(dn_nsga2_new(&search, &options, &err) == DN_OK);
    double f[POPULATION * OBJECTIVES] = {0}, g[POPULATION] = {0};
    CHECK(dn_nsga2_tell(search, f, NULL, &err) == DN_EINVAL);
    f[4] = -INFINITY;
    CHECK(dn_nsga2_tell(search, f, g, &err) == DN_EINVAL && dn_nsga2_generation(search) == 0);
    for (size_t i = 0; i < POPULATION * OBJECTIVES; i++) f[i] = NAN;
    for (int i = 0; i < 3; i++) CHECK(dn_nsga2_tell(search, f, g, &err) == DN_OK); /* nothing ever works: nothing breaks */
    CHECK(dn_nsga2_size(search) == POPULATION);
    dn_nsga2_free(search);
}

int main(void) {
    check_ranks();
    check_large_ranks();
    check_reuse();
    check_measures();
    check_power();
    check_batches();
    check_options();
    check_allocation_failures();
    check_damaged_states();
    CHECK(dn_alloc_live() == 0);
    if (failures) printf("search: %d checks failed\n", failures);
    return failures != 0;
}
