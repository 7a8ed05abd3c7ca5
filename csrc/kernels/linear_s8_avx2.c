/* linear_s8_avx2.c - the linear layer on planes of nibbles in AVX2.
 *
 * Nibbles are what vpmaddubsw multiplies exactly: a pair of products is at most 2 * 255 * 15 = 7650, and four of those still fit in 16 bits, so sums are widened once in four
 * steps. That is half the multiplications of weights in bytes, which have to be widened first; 8 bits, whose nibbles go in separately, take as many as those. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/linear_s8_avx2.h"

enum { STEPS = 4 }; /* whose sums fit in 16 bits */

/* c = a * nibbles in pairs, or += where there is something; in one statement, for gcc 12 would reassociate the sums and spill. */
AVX2_INLINE void pairs(__m256i *c, __m256i a, __m256i nibbles, const int first) {
    __m256i product;
    if (first) *c = _mm256_maddubs_epi16(a, nibbles);
    else __asm__("vpmaddubsw %3,%2,%1\n\tvpaddw %1,%0,%0" : "+x"(*c), "=&x"(product) : "x"(a), "x"(nibbles));
}

/* acc[2] += outputs 0-7 and 8-15 of n steps, at most STEPS; n and bits are constants. */
AVX2_INLINE void multiply(__m256i acc[2], const linear_place *p, const int n, const int bits) {
    __m256i upper[2], lower[2];
    UNROLL for (int k = 0; k < n; k++) {
        const __m256i four = broadcast4(p->a + 4 * k), x = load_nibbles(p->high + DN_PLANE_STEP * k, p->low + DN_PLANE_STEP * k, bits);
        pairs(&upper[0], four, low_nibbles(x), k == 0);
        pairs(&upper[1], four, high_nibbles(x), k == 0);
        if (bits < 8) continue;
        const __m256i y = _mm256_loadu_si256((const __m256i *)(p->low + DN_PLANE_STEP * k));
        pairs(&lower[0], four, low_nibbles(y), k == 0);
        pairs(&lower[1], four, high_nibbles(y), k == 0);
    }
    const __m256i factor = _mm256_set1_epi16((short)(bits == 8 ? 16 : 1 << (8 - bits))), one = _mm256_set1_epi16(1);
    UNROLL for (int i = 0; i < 2; i++) {
        acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(upper[i], factor));
        if (bits == 8) acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(lower[i], one));
    }
}

AVX2_INLINE void panel_sums(const dn_linear_s8_job *job, size_t at, __m256i acc[2], const int bits) {
    __m256i c[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (const dn_run *run = job->runs, *end = run + job->run_count; run != end; run++) {
        linear_place p = place_of(job, at, run);
        for (; p.steps >= STEPS; advance(&p, STEPS)) multiply(c, &p, STEPS, bits);
        for (; p.steps; advance(&p, 1)) multiply(c, &p, 1, bits);
    }
    acc[0] = c[0], acc[1] = c[1];
}

LINEAR_S8_PANELS(AVX2)

const dn_linear_s8 dn_linear_s8_avx2 = {.isa = "avx2", .run = run};

#endif
