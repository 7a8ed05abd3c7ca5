/* crowding.h - crowding distance with reusable memory. */
#ifndef DN_SEARCH_CROWDING_H
#define DN_SEARCH_CROWDING_H

#include "dynadnn.h"
#include "search/sort.h"

typedef struct dn_crowder {
    uint64_t *sorted, *scratch;
    double *label;   /* [rows] rank as a real number, to sort by */
    uint32_t *start; /* [rows + 1] where the rows of each group begin */
    uint32_t *next;  /* [rows] where the next row of the group goes */
    uint32_t *group; /* [rows] of each row: dense number of its rank */
    uint32_t *order; /* [rows] rows by group, then by objective */
} dn_crowder;

dn_status dn_crowder_init(dn_crowder *crowder, size_t rows, dn_error *err);
void dn_crowder_free(dn_crowder *crowder);
/* Distances among rows of equal rank. Rows with NaN in an objective get 0 and are nobody's neighbours. */
void dn_crowder_run(dn_crowder *crowder, const double *f, const int32_t *rank, size_t n, size_t m, double *distance);

#endif
