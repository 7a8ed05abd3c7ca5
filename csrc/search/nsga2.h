/* nsga2.h - the search's state, shared by its files. */
#ifndef DN_SEARCH_NSGA2_H
#define DN_SEARCH_NSGA2_H

#include "search/crowding.h"
#include "search/rank.h"
#include "search/variation.h"

/* Rows 0 .. size-1 are the population, size .. size + n - 1 the vectors asked for: before the first tell the latter begin at 0. */
struct dn_nsga2 {
    size_t n, d, m, c; /* population, variables, objectives, constraints */
    uint64_t seed, fingerprint;
    int64_t generation; /* tells so far */
    size_t size;        /* 0 or n */
    int prepared;       /* the vectors of this generation are in place */
    int seeded;         /* the first ones came from dn_nsga2_seed */

    double *lower, *upper;
    uint8_t *integer;
    dn_variation variation;
    dn_ranker ranker;
    dn_crowder crowder;

    /* [2n] rows */
    double *x, *f, *g;
    double *crowding;
    int32_t *rank;
    uint64_t *hash; /* of x */

    /* scratch, [2n] */
    double *kept_f; /* objectives of the rows being ranked or compared */
    double *distance, *violation;
    int32_t *kept_rank;
    uint32_t *kept, *parents;
    uint8_t *kind, *survives;
    uint32_t *table; /* [table_mask + 1] rows by hash, plus 1; 0: empty */
    size_t table_mask;
};

uint64_t dn_row_hash(const double *x, size_t d);
void dn_table_clear(dn_nsga2 *search);
/* 1 if an equal row of x is in the table already, else puts this one in. */
int dn_table_add(dn_nsga2 *search, size_t row);

/* Chooses the survivors of rows 0 .. rows-1, whose f and g are set, and makes them the population. On failure (memory) nothing has changed. */
dn_status dn_survive(dn_nsga2 *search, size_t rows, dn_error *err);

/* Crowding distances of the population from its f and rank. */
void dn_nsga2_crowd(dn_nsga2 *search);

#endif
