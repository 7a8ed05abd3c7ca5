/* rng.c - Philox4x32-10. */
#include "base/rng.h"

/* Counter: index (64 bits), draw, epoch. Key: seed mixed with the stream, so that streams of one seed never share a key. */
void dn_rng_block(const dn_rng *rng, uint64_t index, uint32_t draw, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = draw, c3 = rng->epoch;
    uint32_t k0 = (uint32_t)rng->seed, k1 = (uint32_t)(rng->seed >> 32) ^ rng->stream * 0x9e3779b9u;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xd2511f53u * c0, p1 = (uint64_t)0xcd9e8d57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

double dn_rng_uniform(const dn_rng *rng, uint64_t index, uint32_t draw) {
    uint32_t r[4];
    dn_rng_block(rng, index, draw, r);
    return (double)(((uint64_t)r[0] << 32 | r[1]) >> 11) * 0x1p-53;
}

uint32_t dn_rng_below(const dn_rng *rng, uint64_t index, uint32_t draw, uint32_t n) {
    uint32_t r[4];
    dn_rng_block(rng, index, draw, r);
    uint64_t high = (uint64_t)r[0] * n, low = (uint64_t)r[1] * n; /* the top 32 bits of a 64-bit fraction times n */
    return (uint32_t)((high + (low >> 32)) >> 32);
}
