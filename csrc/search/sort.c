/* sort.c - radix sort on the leading bits of the keys, finished by insertion, with a merge sort behind it.
 *
 * A few passes over the leading bits of (key - smallest key) leave almost nothing to do when values are spread out, which is the usual case. Values that crowd in one
 * corner of their range (one outlier is enough) would make the insertion quadratic; it stops after a fixed number of moves and the merge sort takes over. */
#include "search/sort.h"

#include <stdbool.h>

enum { WIDTH = 11, PASSES = 3 };  /* of the radix sort; 33 bits tell 10^5 spread-out values apart */
enum { SMALL = 24, MOVES = 6 }; /* insertion alone below SMALL items; at most MOVES shifts per item otherwise */

/* Lexicographic comparison of columns 1 .. m-1; f NULL: equal. */
static bool row_less(const double *f, size_t m, uint32_t a, uint32_t b) {
    if (!f) return false;
    for (size_t k = 1; k < m; k++) {
        double x = f[a * m + k], y = f[b * m + k];
        if (x < y) return true;
        if (x > y) return false;
    }
    return false;
}

static bool item_less(const dn_sort_item *a, const dn_sort_item *b, const double *f, size_t m) {
    return a->key != b->key ? a->key < b->key : row_less(f, m, a->index, b->index);
}

/* Stable; false (items still a stable rearrangement) when it would take more than `moves` shifts. */
static bool insertion_sort(dn_sort_item *items, size_t n, const double *f, size_t m, size_t moves) {
    for (size_t i = 1; i < n; i++) {
        if (!item_less(&items[i], &items[i - 1], f, m)) continue;
        dn_sort_item item = items[i];
        size_t j = i;
        do {
            items[j] = items[j - 1];
            j--;
        } while (j > 0 && item_less(&item, &items[j - 1], f, m));
        items[j] = item;
        if (i - j > moves) return false;
        moves -= i - j;
    }
    return true;
}

static void merge_sort(dn_sort_item *items, dn_sort_item *scratch, size_t n, const double *f, size_t m) {
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t start = 0; start + width < n; start += 2 * width) {
            size_t left = 0, right = start + width, end = n - start < 2 * width ? n : start + 2 * width, out = start;
            memcpy(scratch, items + start, width * sizeof *items);
            while (left < width && right < end) {
                bool take_right = item_less(&items[right], &scratch[left], f, m);
                items[out++] = take_right ? items[right++] : scratch[left++];
            }
            memcpy(items + out, scratch + left, (width - left) * sizeof *items);
        }
    }
}

/* Sorts by the `passes` digits of `width` bits above bit `shift` of (key - low). */
static void radix_sort(dn_sort_item *items, dn_sort_item *scratch, size_t n, uint64_t low, int shift, int width, int passes) {
    const uint32_t digits = 1u << width, mask = digits - 1;
    uint32_t count[PASSES << WIDTH]; /* then: where the next item of that digit goes */
    memset(count, 0, PASSES * digits * sizeof *count);
    for (size_t i = 0; i < n; i++) {
        uint64_t key = (items[i].key - low) >> shift;
        count[key & mask]++;
        count[digits + (key >> width & mask)]++;
    }
    for (size_t i = 0; i < n && passes == PASSES; i++) count[2 * digits + ((items[i].key - low) >> (shift + 2 * width) & mask)]++;
    for (int pass = 0; pass < passes; pass++, shift += width) {
        uint32_t *next = count + (uint32_t)pass * digits;
        for (uint32_t digit = 0, sum = 0; digit < digits; digit++) {
            uint32_t here = next[digit];
            next[digit] = sum;
            sum += here;
        }
        for (size_t i = 0; i < n; i++) scratch[next[((items[i].key - low) >> shift) & mask]++] = items[i];
        dn_sort_item *swap = items;
        items = scratch;
        scratch = swap;
    }
    if (passes & 1) memcpy(scratch, items, n * sizeof *items);
}

/* Leading bits by radix, the rest, and equal keys by row, by insertion or merging. */
static void sort_items(dn_sort_item *items, dn_sort_item *scratch, size_t n, const double *f, size_t m) {
    if (n > SMALL) {
        uint64_t low = items[0].key, high = low;
        for (size_t i = 1; i < n; i++) {
            if (items[i].key < low) low = items[i].key;
            if (items[i].key > high) high = items[i].key;
        }
        int span = low < high ? 64 - __builtin_clzll(high - low) : 0; /* bits in which keys differ */
        int width = n <= 1024 ? 8 : WIDTH, passes = n <= 8192 ? 2 : PASSES;
        if (span <= 2 * width) passes = span <= width ? span > 0 : 2;
        int shift = span - width * passes;
        radix_sort(items, scratch, n, low, shift > 0 ? shift : 0, width, passes);
        if (shift <= 0 && !f) return;
    }
    if (!insertion_sort(items, n, f, m, n > SMALL ? MOVES * n : SIZE_MAX)) merge_sort(items, scratch, n, f, m);
}

void dn_sort(dn_sort_item *items, dn_sort_item *scratch, size_t n) { sort_items(items, scratch, n, NULL, 0); }

static void fill_column(dn_sort_item *items, const double *f, size_t n, size_t m, size_t column) {
    for (size_t i = 0; i < n; i++) items[i] = (dn_sort_item){.key = dn_sort_key(f[i * m + column]), .index = (uint32_t)i};
}

void dn_sort_column(dn_sort_item *items, dn_sort_item *scratch, const double *f, size_t n, size_t m, size_t column) {
    fill_column(items, f, n, m, column);
    sort_items(items, scratch, n, NULL, 0);
}

void dn_sort_rows(dn_sort_item *items, dn_sort_item *scratch, const double *f, size_t n, size_t m) {
    fill_column(items, f, n, m, 0);
    sort_items(items, scratch, n, f, m);
}

size_t dn_first_nan(const double *values, size_t count) {
    int found = 0;
    for (size_t i = 0; i < count; i++) found |= values[i] != values[i]; /* no exit, so that it vectorises */
    if (!found) return count;
    size_t i = 0;
    while (i < count && values[i] == values[i]) i++;
    return i;
}
