/* rank_avx2.c - the bit-set loops of rank_many.c, 256 bits at a time. */
#include "search/rank.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

AVX2 static __m256i half(const uint64_t *p) { return _mm256_load_si256((const __m256i *)(const void *)p); }

AVX2 static void intersect(uint64_t *set, const uint64_t *const *with, size_t count, size_t lines) {
    for (size_t w = 0; w < lines * DN_LINE; w += DN_LINE) {
        __m256i low = half(with[0] + w), high = half(with[0] + w + 4);
        for (size_t k = 1; k < count; k++) {
            low = _mm256_and_si256(low, half(with[k] + w));
            high = _mm256_and_si256(high, half(with[k] + w + 4));
        }
        _mm256_store_si256((__m256i *)(void *)(set + w), low);
        _mm256_store_si256((__m256i *)(void *)(set + w + 4), high);
    }
}

AVX2 static unsigned zero_words(__m256i set) { return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(set, _mm256_setzero_si256()))); }

AVX2 static size_t meets(const uint64_t *a, const uint64_t *b, size_t lines) {
    while (lines-- > 0) {
        const uint64_t *x = a + lines * DN_LINE, *y = b + lines * DN_LINE;
        __m256i low = _mm256_and_si256(half(x), half(y)), high = _mm256_and_si256(half(x + 4), half(y + 4)), both = _mm256_or_si256(low, high);
        if (!_mm256_testz_si256(both, both)) return dn_common_bit(a, b, lines * DN_LINE + dn_lowest_bit(~(zero_words(low) | zero_words(high) << 4))) + 1;
    }
    return 0;
}

const dn_bitset_ops dn_bitset_avx2 = {intersect, meets};
#else
typedef int dn_rank_avx2_is_empty;
#endif
