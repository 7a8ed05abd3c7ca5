/* rank.h - non-dominated ranking with reusable memory.
 *
 * dn_ranker_init for the largest number of rows, dn_ranker_run any number of times, dn_ranker_free (legal on a zeroed or half-initialised ranker). */
#ifndef DN_SEARCH_RANK_H
#define DN_SEARCH_RANK_H

#include "dynadnn.h"
#include "search/sort.h"

/* A set of rows: word 0 bit 0 is position 0. Lengths are whole lines of DN_LINE words. */
enum { DN_LINE = 8 };

/* The two loops of the bit-set ranking; every version gives the same result. */
typedef struct dn_bitset_ops {
    void (*intersect)(uint64_t *set, const uint64_t *const *with, size_t count, size_t lines); /* set = with[0] & ... & with[count - 1] */
    size_t (*meets)(const uint64_t *a, const uint64_t *b, size_t lines);                       /* 1 + a position that both hold, in the last line with one; 0 if none */
} dn_bitset_ops;

extern const dn_bitset_ops dn_bitset_ref;
#if defined(__x86_64__)
extern const dn_bitset_ops dn_bitset_avx2, dn_bitset_avx512;
#endif

/* Members of one front; the first few as a list, more as a bit set (row `dense` of the pool). */
enum { DN_FRONT_LIST = 14 };
typedef struct dn_front {
    uint32_t count, dense;
    uint32_t member[DN_FRONT_LIST];
} dn_front;

/* Three objectives: a front's outline in the second and third, as keys. */
typedef struct dn_step {
    uint64_t y, z;
} dn_step;
typedef struct dn_stair {
    size_t offset; /* of its first step in the pool */
    uint32_t count, room;
} dn_stair;

static inline size_t dn_lowest_bit(uint64_t set) { return (size_t)__builtin_ctzll(set); } /* set is not 0 */
static inline size_t dn_common_bit(const uint64_t *a, const uint64_t *b, size_t word) { return 64 * word + dn_lowest_bit(a[word] & b[word]); }

typedef struct dn_ranker {
    size_t rows, objectives; /* capacity; exact */
    const dn_bitset_ops *ops;
    uint64_t *sorted, *scratch;
    double *column;       /* four and more: one objective of each position */
    uint64_t *tail;       /* two objectives: key of the smallest second objective of each front */
    dn_step *steps;       /* three: pool of the stairs' steps */
    dn_stair *stairs;
    size_t step_capacity, stair_capacity;
    uint32_t *first;      /* four and more: row that stands for each distinct position */
    uint32_t *position;   /* of each row */
    uint32_t *place;      /* [rows][objectives - 1] of each position in the order of an objective, the last of those with its value */
    int32_t *level;       /* of each position */
    size_t words;         /* length of every set */
    size_t shift, blocks; /* 1 << shift places between two kept sets; sets per objective */
    uint64_t *prefixes;   /* [objectives - 1][blocks] sets of the positions at the first places of an objective */
    const uint64_t **with; /* [objectives - 1] the sets of one position */
    uint64_t *set;        /* what they share: its dominators, and a few more */
    dn_front *fronts;
    uint64_t *dense;
    size_t front_capacity, dense_capacity;
} dn_ranker;

dn_status dn_ranker_init(dn_ranker *ranker, size_t rows, size_t objectives, dn_isa isa, dn_error *err);
void dn_ranker_free(dn_ranker *ranker);
/* f [n][objectives] without NaN, n <= rows. rank[n]: 0 = non-dominated; *count (may be NULL) the number of fronts. Can fail only for memory. */
dn_status dn_ranker_run(dn_ranker *ranker, const double *f, size_t n, int32_t *rank, size_t *count, dn_error *err);

/* Parts of dn_ranker_run. dn_ranker_grow makes an array of `used` elements of `size` bytes, in room for *capacity, at least twice as large. */
dn_status dn_rank_three(dn_ranker *ranker, const double *f, size_t n, int32_t *rank, size_t *fronts, dn_error *err);
dn_status dn_rank_many_init(dn_ranker *ranker, dn_isa isa, dn_error *err);
dn_status dn_rank_many(dn_ranker *ranker, const double *f, size_t n, int32_t *rank, size_t *fronts, dn_error *err);
dn_status dn_ranker_grow(void **array, size_t *capacity, size_t used, size_t size, dn_error *err);

#endif
