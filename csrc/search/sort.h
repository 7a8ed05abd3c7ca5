/* sort.h - stable sorting of rows of real values; the floor of ranking, crowding and hypervolume. */
#ifndef DN_SEARCH_SORT_H
#define DN_SEARCH_SORT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A key that orders as the value does; -0 and +0 get the same one, NaN the ends. No number has key 0 or UINT64_MAX. */
static inline uint64_t dn_sort_key(double value) {
    uint64_t bits;
    value += 0.0; /* -0 + 0 = +0 */
    memcpy(&bits, &value, sizeof bits);
    return bits ^ (((uint64_t)0 - (bits >> 63)) | 0x8000000000000000u);
}

/* Sorts n <= INT32_MAX rows of `columns` values each, `stride` apart, lexicographically, equal ones by number. Returns a mask: order[i] & mask is the row at place i (the other
 * bits are left over from sorting). order and scratch: n each. Rows that start with NaN come first or last. */
uint64_t dn_sort_rows(uint64_t *order, uint64_t *scratch, const double *f, size_t n, size_t stride, size_t columns);

/* Index of the first NaN, count if there is none. */
size_t dn_first_nan(const double *values, size_t count);

#endif
