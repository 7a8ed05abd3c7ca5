/* rank_avx512.c - the bit-set loops of rank_many.c, 512 bits at a time. */
#include "search/rank.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f")))

AVX512 static void intersect(uint64_t *set, const uint64_t *const *with, size_t count, size_t lines) {
    for (size_t w = 0; w < lines * DN_LINE; w += DN_LINE) {
        __m512i all = _mm512_load_si512(with[0] + w);
        for (size_t k = 1; k < count; k++) all = _mm512_and_si512(all, _mm512_load_si512(with[k] + w));
        _mm512_store_si512(set + w, all);
    }
}

AVX512 static size_t meets(const uint64_t *a, const uint64_t *b, size_t lines) {
    while (lines-- > 0) {
        __mmask8 words = _mm512_test_epi64_mask(_mm512_load_si512(a + lines * DN_LINE), _mm512_load_si512(b + lines * DN_LINE));
        if (words) return dn_common_bit(a, b, lines * DN_LINE + dn_lowest_bit(words)) + 1;
    }
    return 0;
}

const dn_bitset_ops dn_bitset_avx512 = {intersect, meets};
#else
typedef int dn_rank_avx512_is_empty;
#endif
