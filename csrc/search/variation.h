/* variation.h - making offspring: simulated binary crossover, polynomial mutation, their integer counterparts.
 *
 * Random numbers are keyed by (seed, generation, use, position), so that a generation's offspring are a pure function of its parents. */
#ifndef DN_SEARCH_VARIATION_H
#define DN_SEARCH_VARIATION_H

#include "base/rng.h"
#include "dynadnn.h"

enum { DN_BATCH = 256 };

/* Genes waiting for arithmetic. Crossover: parents a < b; mutation: the value a. */
typedef struct dn_batch {
    double a[DN_BATCH], b[DN_BATCH], low[DN_BATCH], high[DN_BATCH];
    uint64_t random[DN_BATCH];
    size_t at[DN_BATCH]; /* of the gene in x; crossover: in the first child */
} dn_batch;

typedef struct dn_children {
    double left[DN_BATCH], right[DN_BATCH], work[DN_BATCH];
} dn_children;

typedef struct dn_batch_ops {
    void (*cross)(const dn_batch *in, dn_children *out, size_t n, double eta);
    void (*mutate)(const dn_batch *in, dn_children *out, size_t n, double eta);
} dn_batch_ops;

extern const dn_batch_ops dn_batch_ref;
#if defined(__x86_64__)
extern const dn_batch_ops dn_batch_avx2;
#endif

/* The space searched. */
typedef struct dn_space {
    size_t variables;
    const double *lower, *upper;
    const uint8_t *integer;
    double crossover_probability, crossover_eta, mutation_probability, mutation_eta;
} dn_space;

typedef struct dn_variation {
    dn_space space;
    const dn_batch_ops *ops;
    dn_batch batch;
    dn_children children;
    size_t waiting; /* genes in the batch */
} dn_variation;

void dn_variation_init(dn_variation *variation, const dn_space *space);
/* A uniform random vector, number `index` of try `attempt`. */
void dn_variation_random(const dn_variation *variation, const dn_rng *rng, uint64_t index, uint32_t attempt, double *x);
/* parents[pairs * 2] are rows of population; child rows 2i and 2i + 1 come from parents 2i and 2i + 1. */
void dn_variation_offspring(dn_variation *variation, const dn_rng *rng, const double *population, const uint32_t *parents, size_t pairs, double *children);
/* Changes one variable of x, drawn at random; false if none can change. */
int dn_variation_nudge(dn_variation *variation, const dn_rng *rng, uint64_t index, uint32_t attempt, double *x);
/* Shuffles 0 .. n-1; `which` tells shuffles of one generation apart. */
void dn_variation_shuffle(const dn_rng *rng, uint32_t which, uint32_t *permutation, size_t n);

#endif
