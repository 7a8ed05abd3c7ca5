/* rank_avx2.c - the bit-set loops of rank.c, 256 bits at a time. */
#include "search/rank.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))

AVX2 static __m256i half(const uint64_t *p) { return _mm256_load_si256((const __m256i *)(const void *)p); }

AVX2 static void intersect(uint64_t *set, const uint64_t *with, size_t lines) {
    for (; lines > 0; lines--, set += DN_LINE, with += DN_LINE) {
        __m256i low = _mm256_and_si256(half(set), half(with)), high = _mm256_and_si256(half(set + 4), half(with + 4));
        _mm256_store_si256((__m256i *)(void *)set, low);
        _mm256_store_si256((__m256i *)(void *)(set + 4), high);
    }
}

AVX2 static int meets(const uint64_t *a, const uint64_t *b, size_t lines) {
    while (lines-- > 0) {
        const uint64_t *x = a + lines * DN_LINE, *y = b + lines * DN_LINE;
        __m256i both = _mm256_or_si256(_mm256_and_si256(half(x), half(y)), _mm256_and_si256(half(x + 4), half(y + 4)));
        if (!_mm256_testz_si256(both, both)) return 1;
    }
    return 0;
}

const dn_bitset_ops dn_bitset_avx2 = {intersect, meets};
#else
typedef int dn_rank_avx2_is_empty;
#endif
