/* sort.h - stable sorting of rows by a real value; the floor of ranking, crowding and hypervolume. */
#ifndef DN_SEARCH_SORT_H
#define DN_SEARCH_SORT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct dn_sort_item {
    uint64_t key;
    uint32_t index; /* of the row */
    uint32_t group; /* for the caller; travels with the item */
} dn_sort_item;

/* A key that orders as the value does; -0 and +0 get the same one. Not for NaN. */
static inline uint64_t dn_sort_key(double value) {
    uint64_t bits;
    value += 0.0; /* -0 + 0 = +0 */
    memcpy(&bits, &value, sizeof bits);
    return bits ^ (((uint64_t)0 - (bits >> 63)) | 0x8000000000000000u);
}

/* Sorts items by key, equal keys in the order they came. scratch: n items. */
void dn_sort(dn_sort_item *items, dn_sort_item *scratch, size_t n);

/* Fills items with column `column` of f [n][m] and sorts them. */
void dn_sort_column(dn_sort_item *items, dn_sort_item *scratch, const double *f, size_t n, size_t m, size_t column);

/* Sorts the rows of f [n][m] lexicographically, equal rows by index; keys hold column 0. */
void dn_sort_rows(dn_sort_item *items, dn_sort_item *scratch, const double *f, size_t n, size_t m);

/* Index of the first NaN, count if there is none. */
size_t dn_first_nan(const double *values, size_t count);

#endif
