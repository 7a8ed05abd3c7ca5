/* linear_s8_avxvnni.c - the linear layer on planes of nibbles with the 256-bit vpdpbusd of CPUs that have AVX-VNNI but no AVX-512.
 *
 * Nibbles go in as they are; sums of high ones are shifted at the end. Neighbouring steps add to sums of their own, since a sum has to wait for the one before: four at 4 bits,
 * two where both planes are read and registers are wanted. See
 * conv_s8_avxvnni.c for the encoding. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/linear_s8_avx2.h"

enum { STEPS = 4 };

AVX2_INLINE void dots(__m256i c[2], __m256i a, __m256i nibbles) {
    __asm__("%{vex%} vpdpbusd %3,%2,%0\n\t%{vex%} vpdpbusd %4,%2,%1" : "+&x"(c[0]), "+&x"(c[1]) : "x"(a), "x"(low_nibbles(nibbles)), "x"(high_nibbles(nibbles)));
}

AVX2_INLINE void multiply(__m256i (*upper)[2], __m256i (*lower)[2], const linear_place *p, const int k, const int bits) {
    const __m256i four = broadcast4(p->a + 4 * k);
    dots(upper[bits == 4 ? k : k % 2], four, load_nibbles(p->high + DN_PLANE_STEP * k, p->low + DN_PLANE_STEP * k, bits));
    if (bits == 8) dots(lower[k % 2], four, _mm256_loadu_si256((const __m256i *)(p->low + DN_PLANE_STEP * k)));
}

AVX2_INLINE void panel_sums(const dn_linear_s8_job *job, size_t at, __m256i acc[2], const int bits) {
    __m256i upper[STEPS][2], lower[2][2];
    UNROLL for (int k = 0; k < STEPS; k++) upper[k][0] = upper[k][1] = lower[k % 2][0] = lower[k % 2][1] = _mm256_setzero_si256();
    for (size_t r = 0; r < job->run_count; r++) {
        linear_place p = place_of(job, at, &job->runs[r]);
        for (; p.steps >= STEPS; advance(&p, STEPS)) UNROLL for (int k = 0; k < STEPS; k++) multiply(upper, lower, &p, k, bits);
        for (; p.steps; advance(&p, 1)) multiply(upper, lower, &p, 0, bits);
    }
    UNROLL for (int i = 0; i < 2; i++) {
        const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(upper[0][i], upper[1][i]), _mm256_add_epi32(upper[2][i], upper[3][i]));
        acc[i] = _mm256_add_epi32(_mm256_slli_epi32(sum, bits == 8 ? 4 : 8 - bits), _mm256_add_epi32(lower[0][i], lower[1][i]));
    }
}

LINEAR_S8_PANELS(AVX2)

const dn_linear_s8 dn_linear_s8_avxvnni = {.isa = "avxvnni", .run = run};

#endif
