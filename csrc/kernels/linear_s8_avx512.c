/* linear_s8_avx512.c - the linear layer on planes of nibbles with AVX-512 VNNI.
 *
 * One step of a plane is half a vector: loaded into both halves and shifted in the upper one alone, its nibbles are the 16 outputs in order. What is shared with AVX2 works on 256
 * bits. Neighbouring steps add to sums of their own, since a sum has to wait for the one before. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/linear_s8_avx2.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define AVX512_INLINE static inline __attribute__((always_inline, target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

enum { STEPS = 4 };

AVX512_INLINE void dot(__m512i *c, __m512i a, __m256i nibbles) {
    const __m512i shifts = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(4), 1);
    const __m512i weights = _mm512_and_si512(_mm512_srlv_epi16(_mm512_broadcast_i64x4(nibbles), shifts), _mm512_set1_epi8(15));
    __asm__("vpdpbusd %2,%1,%0" : "+v"(*c) : "v"(a), "v"(weights));
}

AVX512_INLINE void multiply(__m512i *upper, __m512i *lower, const linear_place *p, const int k, const int bits) {
    int32_t four;
    memcpy(&four, p->a + 4 * k, 4);
    const __m512i a = _mm512_set1_epi32(four);
    dot(&upper[k], a, load_nibbles(p->high + DN_PLANE_STEP * k, p->low + DN_PLANE_STEP * k, bits));
    if (bits == 8) dot(&lower[k], a, _mm256_loadu_si256((const __m256i *)(p->low + DN_PLANE_STEP * k)));
}

AVX512_INLINE __m512i total(const __m512i c[STEPS]) { return _mm512_add_epi32(_mm512_add_epi32(c[0], c[1]), _mm512_add_epi32(c[2], c[3])); }

AVX512_INLINE void panel_sums(const dn_linear_s8_job *job, size_t at, __m256i acc[2], const int bits) {
    __m512i upper[STEPS], lower[STEPS];
    UNROLL for (int k = 0; k < STEPS; k++) upper[k] = lower[k] = _mm512_setzero_si512();
    for (size_t r = 0; r < job->run_count; r++) {
        linear_place p = place_of(job, at, &job->runs[r]);
        for (; p.steps >= STEPS; advance(&p, STEPS)) UNROLL for (int k = 0; k < STEPS; k++) multiply(upper, lower, &p, k, bits);
        for (; p.steps; advance(&p, 1)) multiply(upper, lower, &p, 0, bits);
    }
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(total(upper), (unsigned)(bits == 8 ? 4 : 8 - bits)), total(lower));
    acc[0] = _mm512_castsi512_si256(sum), acc[1] = _mm512_extracti64x4_epi64(sum, 1);
}

LINEAR_S8_PANELS(AVX512)

const dn_linear_s8 dn_linear_s8_avx512 = {.isa = "avx512", .run = run};

#endif
