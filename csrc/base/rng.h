/* rng.h - counter-based random numbers: a value is a pure function of (seed, stream, epoch, index, draw).
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Nothing is stored between calls, so results do not depend on
 * threads, on the order of calls or on resuming. */
#ifndef DN_BASE_RNG_H
#define DN_BASE_RNG_H

#include <stdint.h>

/* Streams keep uses of one seed apart. Add at the end: the numbers are part of reproducibility. */
typedef enum dn_stream { DN_STREAM_AUGMENT = 1, DN_STREAM_DROPOUT = 2, DN_STREAM_SEARCH = 3, DN_STREAM_ROUNDING = 4, DN_STREAM_TEST = 5 } dn_stream;

typedef struct dn_rng {
    uint64_t seed;
    uint32_t stream;
    uint32_t epoch;
} dn_rng;

/* Four independent 32-bit values for (index, draw). */
void dn_rng_block(const dn_rng *rng, uint64_t index, uint32_t draw, uint32_t out[4]);
/* Uniform in [0, 1) with 53 random bits. */
double dn_rng_uniform(const dn_rng *rng, uint64_t index, uint32_t draw);
/* Uniform integer in [0, n), n >= 1, without bias worth naming (64-bit multiply-shift). */
uint32_t dn_rng_below(const dn_rng *rng, uint64_t index, uint32_t draw, uint32_t n);

#endif
