/* sort.c - radix sort on the leading bits of the keys, finished by insertion, with a merge sort behind it.
 *
 * A word holds the leading bits of (key - smallest key) above the row number: half the memory of a key with an index, and equal keys are in order by themselves. A few
 * passes over the top bits leave almost nothing to do when values are spread out, which is the usual case. Values that crowd in one corner of their range (one outlier is
 * enough) would make the insertion quadratic; it stops after a fixed number of moves and the merge sort takes over. */
#include "search/sort.h"

#include <stdbool.h>

enum { WIDTH = 11, PASSES = 3 }; /* of the radix sort; 33 bits tell 10^5 spread-out values apart */
enum { SMALL = 24, MOVES = 6 }; /* insertion alone up to SMALL rows; at most MOVES shifts per row otherwise */

typedef struct rows {
    const double *f;
    size_t stride, columns;
    int bits; /* of a row number */
} rows;

/* Words with equal leading bits: the values decide. */
static bool row_less(const rows *r, uint64_t a, uint64_t b) {
    const uint64_t mask = ((uint64_t)1 << r->bits) - 1;
    const double *x = r->f + (a & mask) * r->stride, *y = r->f + (b & mask) * r->stride;
    for (size_t k = 0; k < r->columns; k++) {
        if (x[k] < y[k]) return true;
        if (x[k] > y[k]) return false;
    }
    return a < b;
}

static inline bool less(const rows *r, uint64_t a, uint64_t b) { return (a ^ b) >> r->bits ? a < b : row_less(r, a, b); }

/* False (order still a rearrangement) when it would take more than `moves` shifts. */
static bool insertion_sort(uint64_t *order, size_t n, const rows *r, size_t moves) {
    for (size_t i = 1; i < n; i++) {
        uint64_t row = order[i];
        if (!less(r, row, order[i - 1])) continue;
        size_t j = i;
        do {
            order[j] = order[j - 1];
            j--;
        } while (j > 0 && less(r, row, order[j - 1]));
        order[j] = row;
        if (i - j > moves) return false;
        moves -= i - j;
    }
    return true;
}

static void merge_sort(uint64_t *order, uint64_t *scratch, size_t n, const rows *r) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start + width < n; start += 2 * width) {
            size_t left = 0, right = start + width, end = n - start < 2 * width ? n : start + 2 * width, out = start;
            memcpy(scratch, order + start, width * sizeof *order);
            while (left < width && right < end) order[out++] = less(r, order[right], scratch[left]) ? order[right++] : scratch[left++];
            memcpy(order + out, scratch + left, (width - left) * sizeof *order);
        }
    }
}

typedef struct plan {
    uint64_t low;             /* smallest key */
    int lost;                 /* low bits of the key that do not fit */
    int shift, width, passes; /* digits of the word; the last one ends with its leading bit */
} plan;

static int bit_length(uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }

/* Fills order with keys and decides how to sort them. */
static plan make_plan(uint64_t *order, size_t n, const rows *r) {
    uint64_t low = UINT64_MAX, high = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t key = dn_sort_key(r->f[i * r->stride]);
        if (key < low) low = key;
        if (key > high) high = key;
        order[i] = key;
    }
    int span = bit_length(high - low), lost = span + r->bits > 64 ? span + r->bits - 64 : 0;
    int width = n <= 1024 ? 8 : WIDTH, passes = n <= 8192 ? 2 : PASSES;
    if (span <= 2 * width) passes = span <= width ? 1 : 2;
    int shift = span - lost + r->bits - width * passes;
    return (plan){low, lost, shift > r->bits ? shift : r->bits, width, passes};
}

/* Turns keys into words and counts their digits; two at least, there is always room for them. */
static void make_words(uint64_t *order, size_t n, const rows *r, const plan *p, uint32_t *count) {
    const uint32_t digits = 1u << p->width, mask = digits - 1;
    const uint64_t low = p->low;
    const int lost = p->lost, bits = r->bits, shift = p->shift, width = p->width;
    memset(count, 0, PASSES * digits * sizeof *count);
    for (size_t i = 0; i < n; i++) {
        uint64_t word = (order[i] - low) >> lost << bits | i;
        order[i] = word;
        word >>= shift;
        count[word & mask]++;
        count[digits + (word >> width & mask)]++;
    }
    for (size_t i = 0; i < n && p->passes == PASSES; i++) count[2 * digits + (order[i] >> (shift + 2 * width) & mask)]++;
}

static void radix_sort(uint64_t *order, uint64_t *scratch, size_t n, const plan *p, uint32_t *count) {
    const uint32_t digits = 1u << p->width, mask = digits - 1;
    int shift = p->shift;
    for (int pass = 0; pass < p->passes; pass++, shift += p->width) {
        uint32_t *next = count + (uint32_t)pass * digits; /* where the next row of each digit goes */
        for (uint32_t digit = 0, sum = 0; digit < digits; digit++) {
            uint32_t here = next[digit];
            next[digit] = sum;
            sum += here;
        }
        for (size_t i = 0; i < n; i++) scratch[next[order[i] >> shift & mask]++] = order[i];
        uint64_t *swap = order;
        order = scratch;
        scratch = swap;
    }
    if (p->passes & 1) memcpy(scratch, order, n * sizeof *order);
}

uint64_t dn_sort_rows(uint64_t *order, uint64_t *scratch, const double *f, size_t n, size_t stride, size_t columns) {
    if (n == 0) return 0;
    const rows r = {f, stride, columns, bit_length(n - 1)};
    uint32_t count[PASSES << WIDTH];
    plan p = make_plan(order, n, &r);
    make_words(order, n, &r, &p, count);
    if (n > SMALL) radix_sort(order, scratch, n, &p, count);
    if (!insertion_sort(order, n, &r, n > SMALL ? MOVES * n : SIZE_MAX)) merge_sort(order, scratch, n, &r);
    return ((uint64_t)1 << r.bits) - 1;
}

size_t dn_first_nan(const double *values, size_t count) {
    const uint64_t exponent = 0x7ff0000000000000u, one = 0x0010000000000000u;
    uint64_t any = 0, bits;
    for (size_t i = 0; i < count; i++) { /* all exponent bits set (infinite or NaN) carry into bit 63; integers, since SSE2 vectorises these */
        memcpy(&bits, values + i, sizeof bits);
        any |= (bits & exponent) + one;
    }
    if (!(any >> 63)) return count;
    size_t i = 0;
    while (i < count && values[i] == values[i]) i++;
    return i;
}
