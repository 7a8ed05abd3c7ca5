/* size.h - size arithmetic that reports overflow instead of wrapping. */
#ifndef DN_BASE_SIZE_H
#define DN_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>

/* Both return false, and leave *out alone, when the result does not fit in size_t. */
static inline bool dn_size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool dn_size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }

/* Smallest multiple of step (a power of two) that is >= n. */
static inline size_t dn_round_up(size_t n, size_t step) { return (n + step - 1) & ~(step - 1); }
static inline size_t dn_ceil_div(size_t n, size_t d) { return (n + d - 1) / d; }
static inline size_t dn_size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t dn_size_max(size_t a, size_t b) { return a > b ? a : b; }

#endif
