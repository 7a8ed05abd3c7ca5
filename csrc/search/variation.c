/* variation.c - decides which genes cross and mutate, and leaves the arithmetic to batches.
 *
 * Crossover (Deb, Agrawal 1995) and mutation (Deb, Goyal 1996) in the bounded form of Deb's NSGA-II code: a pair crosses with the crossover probability, then each variable
 * with probability 1/2, and the two results are dealt to the children at random. Mutated genes are found by geometric jumps instead of one draw per gene, which has the
 * same distribution. Integers: uniform crossover, and mutation to another value, all equally likely. */
#define BATCH_TARGET
#define BATCH_FUNCTION dn_batch_ref
#include "search/variation_template.h"

#include "base/cpu.h"
#include "base/size.h"

/* What a random number is for: the low bits of the draw; the rest is the attempt. */
enum use { USE_START, USE_SHUFFLE, USE_CHOOSE, USE_CROSS, USE_MUTATE, USE_NUDGE, USES = 8 };

static uint32_t draw_for(enum use use, uint32_t attempt) { return (uint32_t)use + USES * attempt; }

static void two_words(const dn_rng *rng, uint64_t index, uint32_t draw, uint64_t out[2]) {
    uint32_t r[4];
    dn_rng_block(rng, index, draw, r);
    out[0] = (uint64_t)r[0] << 32 | r[1];
    out[1] = (uint64_t)r[2] << 32 | r[3];
}

/* Uniform in 0 .. n-1 from 64 random bits: the upper half of their 128-bit product with n. */
static uint64_t below(uint64_t random, uint64_t n) {
    uint64_t r0 = random & UINT32_MAX, r1 = random >> 32, n0 = n & UINT32_MAX, n1 = n >> 32;
    uint64_t middle = r1 * n0 + (r0 * n0 >> 32), other = r0 * n1 + (middle & UINT32_MAX);
    return r1 * n1 + (middle >> 32) + (other >> 32);
}

void dn_variation_init(dn_variation *v, const dn_space *space) {
    v->space = *space;
    v->ops = &dn_batch_ref;
    v->waiting = 0;
#if defined(__x86_64__)
    if (dn_cpu_detect() & DN_CPU_AVX2) v->ops = &dn_batch_avx2;
#endif
}

static double random_gene(const dn_space *s, size_t k, uint64_t random) {
    double low = s->lower[k], high = s->upper[k];
    if (s->integer[k]) return low + (double)below(random, (uint64_t)(high - low) + 1);
    return clip(low + open_unit(random) * (high - low), low, high);
}

void dn_variation_random(const dn_variation *v, const dn_rng *rng, uint64_t index, uint32_t attempt, double *x) {
    size_t d = v->space.variables, blocks = dn_ceil_div(d, 2);
    for (size_t b = 0; b < blocks; b++) {
        uint64_t random[2];
        two_words(rng, index * blocks + b, draw_for(USE_START, attempt), random);
        x[2 * b] = random_gene(&v->space, 2 * b, random[0]);
        if (2 * b + 1 < d) x[2 * b + 1] = random_gene(&v->space, 2 * b + 1, random[1]);
    }
}

/* ---- crossover ---- */

static void finish_crossing(dn_variation *v, double *children) {
    size_t d = v->space.variables;
    v->ops->cross(&v->batch, &v->children, v->waiting, v->space.crossover_eta);
    for (size_t i = 0; i < v->waiting; i++) {
        uint64_t swap = v->batch.random[i] & 1; /* the low bits take no part in the spread */
        double *first = children + v->batch.at[i];
        first[0] = swap ? v->children.right[i] : v->children.left[i];
        first[d] = swap ? v->children.left[i] : v->children.right[i];
    }
    v->waiting = 0;
}

/* Crosses gene k of the pair at children[at], or queues it. Parents closer than 1e-14 of the range count as equal, as in Deb's code. */
static void cross_gene(dn_variation *v, double *children, size_t at, size_t k, uint64_t random) {
    dn_batch *batch = &v->batch;
    double low = v->space.lower[k], high = v->space.upper[k], p = children[at], q = children[at + v->space.variables];
    if (v->space.integer[k]) {
        children[at] = q;
        children[at + v->space.variables] = p;
        return;
    }
    size_t i = v->waiting;
    batch->a[i] = p < q ? p : q;
    batch->b[i] = p < q ? q : p;
    if (!(batch->b[i] - batch->a[i] > 1e-14 * (high - low))) return;
    batch->low[i] = low;
    batch->high[i] = high;
    batch->random[i] = random;
    batch->at[i] = at;
    if (++v->waiting == DN_BATCH) finish_crossing(v, children);
}

/* Crosses the pair, or not. 64 coin flips at a time say which genes cross; only these get a random number of their own. */
static void cross_pair(dn_variation *v, const dn_rng *rng, size_t pair, double *children) {
    size_t d = v->space.variables, chunks = dn_ceil_div(d, 64), blocks = dn_ceil_div(d, 2), used = 0;
    uint64_t coins[2], random[2] = {0};
    for (size_t chunk = 0; chunk < chunks; chunk++) {
        two_words(rng, pair * chunks + chunk, draw_for(USE_CHOOSE, 0), coins);
        if (chunk == 0 && open_unit(coins[1]) >= v->space.crossover_probability) return;
        size_t first = 64 * chunk, left = d - first;
        uint64_t crossing = left < 64 ? coins[0] & (((uint64_t)1 << left) - 1) : coins[0];
        for (; crossing; crossing &= crossing - 1, used++) {
            size_t k = first + (size_t)__builtin_ctzll(crossing);
            if (used % 2 == 0) two_words(rng, pair * blocks + used / 2, draw_for(USE_CROSS, 0), random);
            cross_gene(v, children, 2 * pair * d + k, k, random[used % 2]);
        }
    }
}

/* ---- mutation ---- */

static void finish_mutation(dn_variation *v, double *x) {
    v->ops->mutate(&v->batch, &v->children, v->waiting, v->space.mutation_eta);
    for (size_t i = 0; i < v->waiting; i++) x[v->batch.at[i]] = v->children.left[i];
    v->waiting = 0;
}

static void mutate_gene(dn_variation *v, double *x, size_t at, size_t k, uint64_t random) {
    double low = v->space.lower[k], high = v->space.upper[k];
    if (!(low < high)) return;
    if (v->space.integer[k]) {
        double other = low + (double)below(random, (uint64_t)(high - low)); /* one of the values but the present one */
        x[at] = other >= x[at] ? other + 1 : other;
        return;
    }
    size_t i = v->waiting++;
    v->batch.a[i] = x[at];
    v->batch.low[i] = low;
    v->batch.high[i] = high;
    v->batch.random[i] = random;
    v->batch.at[i] = at;
    if (v->waiting == DN_BATCH) finish_mutation(v, x);
}

/* Number of genes passed over before the next mutation: geometric, log u / log(1 - p). */
static size_t jump(double u, double inverse_log, size_t most) {
    double passed = dn_log(u) * inverse_log;
    return passed < (double)most ? (size_t)passed : most;
}

static void mutate_all(dn_variation *v, const dn_rng *rng, double *x, size_t rows) {
    size_t d = v->space.variables, total = rows * d, at = 0;
    double p = v->space.mutation_probability, inverse_log = p < 1 ? 1.0 / dn_log(1.0 - p) : 0;
    if (p < 0x1p-53) return; /* 1 - p is 1 */
    for (uint64_t i = 0;; i++) {
        uint64_t random[2];
        two_words(rng, i, draw_for(USE_MUTATE, 0), random);
        at += jump(open_unit(random[0]), inverse_log, total - at);
        if (at >= total) break;
        mutate_gene(v, x, at, at % d, random[1]);
        if (++at == total) break;
    }
    finish_mutation(v, x);
}

void dn_variation_offspring(dn_variation *v, const dn_rng *rng, const double *population, const uint32_t *parents, size_t pairs, double *children) {
    size_t d = v->space.variables;
    for (size_t i = 0; i < 2 * pairs; i++) memcpy(children + i * d, population + parents[i] * d, d * sizeof *children);
    for (size_t pair = 0; pair < pairs; pair++) cross_pair(v, rng, pair, children);
    finish_crossing(v, children);
    mutate_all(v, rng, children, 2 * pairs);
}

int dn_variation_nudge(dn_variation *v, const dn_rng *rng, uint64_t index, uint32_t attempt, double *x) {
    size_t d = v->space.variables, k;
    uint64_t random[2];
    two_words(rng, index, draw_for(USE_NUDGE, attempt), random);
    k = (size_t)below(random[0], d);
    for (size_t tried = 0; tried < d; tried++, k = k + 1 < d ? k + 1 : 0) { /* the next one that is not fixed */
        if (!(v->space.lower[k] < v->space.upper[k])) continue;
        mutate_gene(v, x, k, k, random[1]);
        finish_mutation(v, x);
        return 1;
    }
    return 0;
}

void dn_variation_shuffle(const dn_rng *rng, uint32_t which, uint32_t *permutation, size_t n) {
    for (size_t i = 0; i < n; i++) permutation[i] = (uint32_t)i;
    uint64_t random[2] = {0};
    for (size_t i = n; i > 1; i--) {
        size_t drawn = n - i;
        if (drawn % 2 == 0) two_words(rng, drawn / 2, draw_for(USE_SHUFFLE, which), random);
        size_t j = (size_t)below(random[drawn % 2], i);
        uint32_t swap = permutation[i - 1];
        permutation[i - 1] = permutation[j];
        permutation[j] = swap;
    }
}
