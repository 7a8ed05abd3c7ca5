/* nsga2.c - NSGA-II (Deb et al., IEEE TEC 6(2), 2002): options, ask, tell.
 *
 * Everything random is keyed by (seed, generation), so the state is the population and a counter. Memory is allocated when the search is made; with up to two objectives
 * ask and tell never allocate, with more a tell may grow the ranker. */
#include "search/nsga2.h"

#include <math.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/size.h"
#include "base/status.h"

enum { NUDGES = 8, REDRAWS = 8 }; /* tries to make a vector new: small changes, then fresh ones */

/* ---- options ---- */

static dn_status check_bounds(const dn_nsga2_options *o, dn_error *err) {
    const double most = 0x1p52; /* so that the range, too, is exact */
    for (int32_t k = 0; k < o->variables; k++) {
        double low = o->lower[k], high = o->upper[k];
        if (!isfinite(low) || !isfinite(high)) return dn_fail(err, DN_EINVAL, "variable %d: bounds %g and %g, both must be finite", k, low, high);
        if (low > high) return dn_fail(err, DN_EINVAL, "variable %d: lower %g is above upper %g", k, low, high);
        if (!isfinite(high - low)) return dn_fail(err, DN_EINVAL, "variable %d: the range from %g to %g is too large for a double", k, low, high);
        if (!o->integer || !o->integer[k]) continue;
        if (low != floor(low) || high != floor(high)) return dn_fail(err, DN_EINVAL, "variable %d is an integer, its bounds %.17g and %.17g are not", k, low, high);
        if (fabs(low) > most || fabs(high) > most) return dn_fail(err, DN_EINVAL, "variable %d is an integer, its bounds %g and %g are beyond 2^52", k, low, high);
    }
    return DN_OK;
}

static dn_status check_options(const dn_nsga2_options *o, dn_error *err) {
    if (o->variables < 1) return dn_fail(err, DN_EINVAL, "%d variables, at least 1", o->variables);
    if (o->objectives < 1) return dn_fail(err, DN_EINVAL, "%d objectives, at least 1", o->objectives);
    if (o->constraints < 0) return dn_fail(err, DN_EINVAL, "%d constraints, at least 0", o->constraints);
    if (o->population < 4 || o->population % 2) return dn_fail(err, DN_EINVAL, "population %d, must be even and at least 4", o->population);
    if (o->population > 1 << 28) return dn_fail(err, DN_EINVAL, "population %d, at most %d", o->population, 1 << 28);
    if (!(o->crossover_probability >= 0 && o->crossover_probability <= 1)) return dn_fail(err, DN_EINVAL, "crossover probability %g, must be in 0..1", o->crossover_probability);
    if (!(o->mutation_probability <= 1)) return dn_fail(err, DN_EINVAL, "mutation probability %g, at most 1", o->mutation_probability);
    if (!(o->crossover_eta >= 0 && o->crossover_eta <= 1e6)) return dn_fail(err, DN_EINVAL, "crossover eta %g, must be in 0..1e6", o->crossover_eta);
    if (!(o->mutation_eta >= 0 && o->mutation_eta <= 1e6)) return dn_fail(err, DN_EINVAL, "mutation eta %g, must be in 0..1e6", o->mutation_eta);
    return check_bounds(o, err);
}

/* Equal for searches that could continue one another. */
static uint64_t fingerprint_of(const dn_nsga2 *s) {
    const dn_space *space = &s->variation.space;
    double values[] = {(double)s->n, (double)s->d, (double)s->m, (double)s->c, space->crossover_probability, space->crossover_eta, space->mutation_probability, space->mutation_eta};
    uint64_t hash = dn_row_hash(values, sizeof values / sizeof *values) ^ s->seed * 0x9e3779b97f4a7c15u;
    hash = (hash ^ dn_row_hash(s->lower, s->d)) * 0xff51afd7ed558ccdu;
    hash = (hash ^ dn_row_hash(s->upper, s->d)) * 0xff51afd7ed558ccdu;
    for (size_t k = 0; k < s->d; k++) hash = (hash ^ s->integer[k] ^ hash >> 32) * 0xff51afd7ed558ccdu;
    return hash;
}

static void copy_options(dn_nsga2 *s, const dn_nsga2_options *o) {
    for (size_t k = 0; k < s->d; k++) {
        s->lower[k] = o->lower[k] + 0.0; /* no -0: rows are compared bit by bit */
        s->upper[k] = o->upper[k] + 0.0;
        s->integer[k] = o->integer && o->integer[k];
    }
    dn_space space = {
        .variables = s->d,
        .lower = s->lower,
        .upper = s->upper,
        .integer = s->integer,
        .crossover_probability = o->crossover_probability,
        .crossover_eta = o->crossover_eta,
        .mutation_probability = o->mutation_probability > 0 ? o->mutation_probability : 1.0 / (double)s->d,
        .mutation_eta = o->mutation_eta,
    };
    dn_variation_init(&s->variation, &space);
    s->fingerprint = fingerprint_of(s);
}

static dn_status allocate(dn_nsga2 *s, dn_error *err) {
    size_t rows = 2 * s->n, slots = 16;
    while (slots < 2 * rows) slots *= 2;
    s->table_mask = slots - 1;
    DN_TRY(DN_NEW(&s->lower, s->d, err));
    DN_TRY(DN_NEW(&s->upper, s->d, err));
    DN_TRY(DN_NEW(&s->integer, s->d, err));
    DN_TRY(dn_ranker_init(&s->ranker, rows, s->m, DN_ISA_BEST, err));
    DN_TRY(dn_crowder_init(&s->crowder, rows, err));
    DN_TRY(dn_alloc((void **)&s->x, rows, s->d * sizeof *s->x, err));
    DN_TRY(dn_alloc((void **)&s->f, rows, s->m * sizeof *s->f, err));
    DN_TRY(dn_alloc((void **)&s->g, rows, s->c * sizeof *s->g, err));
    DN_TRY(dn_alloc((void **)&s->kept_f, rows, s->m * sizeof *s->kept_f, err));
    DN_TRY(DN_NEW(&s->crowding, rows, err));
    DN_TRY(DN_NEW(&s->rank, rows, err));
    DN_TRY(DN_NEW(&s->hash, rows, err));
    DN_TRY(DN_NEW(&s->distance, rows, err));
    DN_TRY(DN_NEW(&s->violation, rows, err));
    DN_TRY(DN_NEW(&s->kept_rank, rows, err));
    DN_TRY(DN_NEW(&s->kept, rows, err));
    DN_TRY(DN_NEW(&s->parents, rows, err));
    DN_TRY(DN_NEW(&s->kind, rows, err));
    DN_TRY(DN_NEW(&s->survives, rows, err));
    return DN_NEW(&s->table, slots, err);
}

dn_status dn_nsga2_new(dn_nsga2 **out, const dn_nsga2_options *options, dn_error *err) {
    *out = NULL;
    DN_TRY(check_options(options, err));
    dn_nsga2 *s;
    DN_TRY(DN_NEW(&s, 1, err));
    s->n = (size_t)options->population;
    s->d = (size_t)options->variables;
    s->m = (size_t)options->objectives;
    s->c = (size_t)options->constraints;
    s->seed = options->seed;
    dn_status status = allocate(s, err);
    if (status != DN_OK) {
        dn_nsga2_free(s);
        return status;
    }
    dn_fpenv env = dn_fpenv_enter();
    copy_options(s, options);
    dn_fpenv_leave(env);
    *out = s;
    return DN_OK;
}

void dn_nsga2_free(dn_nsga2 *s) {
    if (!s) return;
    dn_ranker_free(&s->ranker);
    dn_crowder_free(&s->crowder);
    void *owned[] = {s->lower, s->upper, s->integer, s->x, s->f, s->g, s->crowding, s->rank, s->hash, s->kept_f, s->distance, s->violation, s->kept_rank, s->kept, s->parents,
                     s->kind, s->survives, s->table};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) dn_free(owned[i]);
    dn_free(s);
}

/* ---- ask ---- */

static dn_rng generation_rng(const dn_nsga2 *s) { return (dn_rng){s->seed, DN_STREAM_SEARCH, (uint32_t)s->generation}; }

static int better(const dn_nsga2 *s, uint32_t a, uint32_t b) {
    return s->rank[a] != s->rank[b] ? s->rank[a] < s->rank[b] : s->crowding[a] >= s->crowding[b];
}

/* Binary tournaments between neighbours of a shuffled population, twice over: everybody plays two (Deb's code). The winners go to the front of s->parents. */
static void choose_parents(dn_nsga2 *s, const dn_rng *rng) {
    dn_variation_shuffle(rng, 0, s->parents, s->n);
    dn_variation_shuffle(rng, 1, s->parents + s->n, s->n);
    for (size_t i = 0; i < s->n; i++) {
        uint32_t a = s->parents[2 * i], b = s->parents[2 * i + 1];
        s->parents[i] = better(s, a, b) ? a : b;
    }
}

/* Makes the rows asked for differ from the population and from one another, if a few tries suffice: in a small space of integers there may be nothing new. */
static void make_distinct(dn_nsga2 *s, const dn_rng *rng) {
    dn_table_clear(s);
    for (size_t i = 0; i < s->size; i++) (void)dn_table_add(s, i);
    for (size_t i = 0; i < s->n; i++) {
        size_t row = s->size + i;
        double *x = s->x + row * s->d;
        s->hash[row] = dn_row_hash(x, s->d);
        for (uint32_t attempt = 1; dn_table_add(s, row) && attempt <= NUDGES + REDRAWS; attempt++) {
            if (attempt > NUDGES) dn_variation_random(&s->variation, rng, i, attempt, x);
            else if (!dn_variation_nudge(&s->variation, rng, i, attempt, x)) break; /* every variable is fixed */
            s->hash[row] = dn_row_hash(x, s->d);
        }
    }
}

static void prepare(dn_nsga2 *s) {
    if (s->prepared) return;
    dn_rng rng = generation_rng(s);
    double *asked = s->x + s->size * s->d;
    if (s->size) {
        choose_parents(s, &rng);
        dn_variation_offspring(&s->variation, &rng, s->x, s->parents, s->n / 2, asked);
    } else {
        for (size_t i = 0; i < s->n; i++) dn_variation_random(&s->variation, &rng, i, 0, asked + i * s->d);
    }
    make_distinct(s, &rng);
    s->prepared = 1;
}

dn_status dn_nsga2_ask(dn_nsga2 *s, const double **x, size_t *rows, dn_error *err) {
    (void)err;
    dn_fpenv env = dn_fpenv_enter();
    prepare(s);
    dn_fpenv_leave(env);
    *x = s->x + s->size * s->d;
    *rows = s->n;
    return DN_OK;
}

static dn_status check_seed(const dn_nsga2 *s, const double *x, size_t rows, dn_error *err) {
    if (s->generation > 0) return dn_fail(err, DN_EINVAL, "start vectors come before the first tell, not after %lld", (long long)s->generation);
    if (rows > s->n) return dn_fail(err, DN_EINVAL, "%zu start vectors, the population holds %zu", rows, s->n);
    for (size_t i = 0; i < rows; i++) {
        for (size_t k = 0; k < s->d; k++) {
            double value = x[i * s->d + k];
            if (isnan(value)) return dn_fail(err, DN_EINVAL, "start vector %zu, variable %zu is NaN", i, k);
            if (s->integer[k] && value != floor(value)) return dn_fail(err, DN_EINVAL, "start vector %zu: variable %zu is an integer, not %.17g", i, k, value);
        }
    }
    return DN_OK;
}

dn_status dn_nsga2_seed(dn_nsga2 *s, const double *x, size_t rows, dn_error *err) {
    DN_TRY(check_seed(s, x, rows, err));
    dn_fpenv env = dn_fpenv_enter();
    dn_rng rng = generation_rng(s);
    for (size_t i = 0; i < s->n; i++) {
        if (i >= rows) dn_variation_random(&s->variation, &rng, i, 0, s->x + i * s->d);
        for (size_t k = 0; i < rows && k < s->d; k++) s->x[i * s->d + k] = fmin(fmax(x[i * s->d + k], s->lower[k]), s->upper[k]) + 0.0;
    }
    make_distinct(s, &rng);
    s->prepared = s->seeded = 1;
    dn_fpenv_leave(env);
    return DN_OK;
}

/* ---- tell ---- */

dn_status dn_nsga2_tell(dn_nsga2 *s, const double *f, const double *g, dn_error *err) {
    if (s->c && !g) return dn_fail(err, DN_EINVAL, "g is missing, the search has %zu constraints", s->c);
    for (size_t i = 0; i < s->n * s->m; i++) {
        if (isinf(f[i])) return dn_fail(err, DN_EINVAL, "f: row %zu, objective %zu is infinite; report a failed evaluation as NaN", i / s->m, i % s->m);
    }
    dn_fpenv env = dn_fpenv_enter();
    prepare(s);
    memcpy(s->f + s->size * s->m, f, s->n * s->m * sizeof *f);
    if (s->c) memcpy(s->g + s->size * s->c, g, s->n * s->c * sizeof *g);
    dn_status status = dn_survive(s, s->size + s->n, err);
    if (status == DN_OK) {
        s->generation++;
        s->prepared = 0;
    }
    dn_fpenv_leave(env);
    return status;
}

/* ---- what there is ---- */

size_t dn_nsga2_size(const dn_nsga2 *s) { return s->size; }

int64_t dn_nsga2_generation(const dn_nsga2 *s) { return s->generation; }

void dn_nsga2_population(const dn_nsga2 *s, double *x, double *f, double *g, int32_t *rank) {
    if (x) memcpy(x, s->x, s->size * s->d * sizeof *x);
    if (f) memcpy(f, s->f, s->size * s->m * sizeof *f);
    if (g) memcpy(g, s->g, s->size * s->c * sizeof *g);
    if (rank) memcpy(rank, s->rank, s->size * sizeof *rank);
}
