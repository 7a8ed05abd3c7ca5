/* linear_s8_avx2.h - what the linear layers on planes of nibbles in 256-bit vectors share: nibbles as bytes, the sum of the activations, panels and their epilogue. */
#ifndef DN_KERNELS_LINEAR_S8_AVX2_H
#define DN_KERNELS_LINEAR_S8_AVX2_H

#include "kernels/epilogue_avx2.h"

AVX2_INLINE __m256i broadcast4(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

AVX2_INLINE __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
AVX2_INLINE __m256i high_nibbles(__m256i x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }

/* One step of the plane of high nibbles, or of what dn_plane_view makes of both planes: no nibble carries into its neighbour, and what a shift brings in from one is masked. */
AVX2_INLINE __m256i load_nibbles(const uint8_t *high, const uint8_t *low, const int bits) {
    __m256i x = _mm256_loadu_si256((const __m256i *)high);
    if (bits >= 4) return x;
    const __m256i carry = _mm256_and_si256(_mm256_srli_epi16(_mm256_loadu_si256((const __m256i *)low), 3), _mm256_set1_epi8(0x11));
    x = _mm256_add_epi8(x, carry);
    if (bits == 3) return _mm256_and_si256(_mm256_srli_epi16(x, 1), _mm256_set1_epi8(0x77));
    return _mm256_and_si256(_mm256_srli_epi16(_mm256_add_epi8(x, _mm256_set1_epi8(0x11)), 2), _mm256_set1_epi8(0x33));
}

/* Where a run of channels of a panel goes on. */
typedef struct linear_place {
    const uint8_t *a, *high, *low;
    int32_t steps;
} linear_place;
AVX2_INLINE linear_place place_of(const dn_linear_s8_job *job, size_t at, const dn_run *run) {
    const size_t weight = at + (size_t)(run->weight / 4) * DN_PLANE_STEP;
    return (linear_place){job->input + run->input, job->high + weight, job->low + weight, run->count / 4};
}
AVX2_INLINE void advance(linear_place *p, const int steps) {
    p->a += 4 * steps, p->high += DN_PLANE_STEP * steps, p->low += DN_PLANE_STEP * steps;
    p->steps -= steps;
}

/* Every weight holds a constant too much: 136, or 128 at fewer than 8 bits. What that adds to every sum. */
AVX2_INLINE int32_t constant_share(const dn_linear_s8_job *job) {
    uint32_t sum = 0;
    for (const dn_run *run = job->runs, *end = run + job->run_count; run != end; run++) {
        const uint8_t *a = job->input + run->input, *const stop = a + run->count;
        __m256i sums = _mm256_setzero_si256();
        for (; stop - a >= 32; a += 32) sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_loadu_si256((const __m256i *)a), _mm256_setzero_si256()));
        const __m128i two = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum += (uint32_t)_mm_cvtsi128_si32(two) + (uint32_t)_mm_extract_epi32(two, 2);
        for (; a != stop; a++) sum += *a;
    }
    return (int32_t)(sum * (job->bits == 8 ? DN_PLANE_ZERO : 128));
}

/* Sums of the panel that begins at byte `at` of both planes, each with its constant share. */
typedef void panel_fn(const dn_linear_s8_job *job, size_t at, __m256i acc[2]);

/* Sums with their constant share may exceed 32 bits; those without do not, and arithmetic is modulo 2^32. */
AVX2_INLINE void run_panels(const dn_linear_s8_job *job, panel_fn *panel_sums) {
    const __m256i share = _mm256_set1_epi32(constant_share(job));
    for (int panel = 0; panel < job->panels; panel++) {
        const int channel = 16 * panel, n = panel == job->panels - 1 ? job->last : 16;
        const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
        const uint8_t *residual = e.flags & DN_EPI_RESIDUAL ? job->residual + channel : NULL;
        __m256i acc[2];
        panel_sums(job, (size_t)panel * job->panel_stride, acc);
        acc[0] = _mm256_sub_epi32(acc[0], share), acc[1] = _mm256_sub_epi32(acc[1], share);
        if (e.flags & DN_CONV_F32_OUT) finish_f32(acc[0], acc[1], &e, residual, (float *)job->output + channel, n);
        else finish_u8(acc[0], acc[1], &e, residual, (uint8_t *)job->output + channel, n);
    }
}

/* The kernel, from panel_sums(job, at, acc, bits): code of its own for every number of bits. */
#define LINEAR_S8_PANELS(target)                                                                                                 \
    target static void panel_8(const dn_linear_s8_job *job, size_t at, __m256i acc[2]) { panel_sums(job, at, acc, 8); }          \
    target static void panel_4(const dn_linear_s8_job *job, size_t at, __m256i acc[2]) { panel_sums(job, at, acc, 4); }          \
    target static void panel_3(const dn_linear_s8_job *job, size_t at, __m256i acc[2]) { panel_sums(job, at, acc, 3); }          \
    target static void panel_2(const dn_linear_s8_job *job, size_t at, __m256i acc[2]) { panel_sums(job, at, acc, 2); }          \
    AVX2 static void run(const dn_linear_s8_job *job) { run_panels(job, job->bits == 8 ? panel_8 : job->bits == 4 ? panel_4 : job->bits == 3 ? panel_3 : panel_2); }

#endif
