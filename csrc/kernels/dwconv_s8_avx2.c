/* dwconv_s8_avx2.c - int8 depthwise convolution in AVX2: any kernel size, and 3 x 3 where outputs share columns.
 *
 * There is nothing to reuse across channels, so the work is bringing bytes to vpmaddwd: taps go in pairs, both widened to 16 bits and interleaved, which costs as much as
 * multiplying them. Weights are widened, interleaved and seen through the bit view once per call and block of 16 channels, on the stack. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/madd_avx2.h"

/* 16 channels of a tap; the last block may only be read up to a multiple of 4. */
AVX2_INLINE __m256i load_input(const uint8_t *p, int tail, __m128i mask) {
    return _mm256_cvtepu8_epi16(tail ? _mm_maskload_epi32((const int *)(const void *)p, mask) : _mm_loadu_si128((const __m128i *)p));
}

enum { MAX_PAIRS = 64 }; /* windows up to 11 x 11; larger ones are left to ref */

/* A block's taps in pairs: where they are and interleaved weights. An odd last one is paired with itself and weight 0. */
typedef struct window {
    __m256i low[MAX_PAIRS], high[MAX_PAIRS];
    ptrdiff_t first[MAX_PAIRS], second[MAX_PAIRS];
    int pairs;
} window;

/* In the order unpacking leaves activations in: channels 0-3 8-11, then 4-7 12-15. */
AVX2_INLINE void add_pair(window *t, int i, __m128i w0, __m128i w1) {
    const __m128i front = _mm_unpacklo_epi8(w0, w1), back = _mm_unpackhi_epi8(w0, w1);
    t->low[i] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi64(front, back));
    t->high[i] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi64(front, back));
}

AVX2 static void prepare(window *t, const dn_dwconv_s8_job *job, const int8_t *weights) {
    const __m128i view_add = _mm_set1_epi8(job->view_add), view_mask = _mm_set1_epi8(job->view_mask);
    __m128i before = _mm_setzero_si128();
    int count = 0;
    for (int kh = job->kh_begin; kh < job->kh_end; kh++)
        for (int kw = 0; kw < job->kernel_w; kw++, count++) {
            const __m128i w = _mm_and_si128(_mm_adds_epi8(_mm_loadu_si128((const __m128i *)(weights + (kh * job->kernel_w + kw) * 16)), view_add), view_mask);
            if (count % 2) add_pair(t, count / 2, before, w);
            else t->first[count / 2] = kh * job->in_row + kw * job->in_tap;
            t->second[count / 2] = kh * job->in_row + kw * job->in_tap;
            before = w;
        }
    if (count % 2) add_pair(t, count / 2, before, _mm_setzero_si128());
    t->pairs = (count + 1) / 2;
}

/* `pixels` pixels of the row, n channels. */
AVX2_INLINE void tile(const dn_dwconv_s8_job *job, const window *t, const epilogue16 *e, int x, int channel, int n, int pixels, int tail, __m128i mask) {
    const ptrdiff_t step = job->in_step;
    const uint8_t *input = job->input + x * step + channel;
    __m256i c[4][2];
    UNROLL for (int i = 0; i < pixels; i++) c[i][0] = c[i][1] = _mm256_setzero_si256();
    for (int k = 0; k < t->pairs; k++) {
        const uint8_t *p = input + t->first[k], *q = input + t->second[k];
        const __m256i low = t->low[k], high = t->high[k];
        UNROLL for (int i = 0; i < pixels; i++, p += step, q += step) {
            const __m256i a0 = load_input(p, tail, mask), a1 = load_input(q, tail, mask);
            multiply_add(&c[i][0], _mm256_unpacklo_epi16(a0, a1), low);
            multiply_add(&c[i][1], _mm256_unpackhi_epi16(a0, a1), high);
        }
    }
    UNROLL for (int i = 0; i < pixels; i++) {
        const uint8_t *residual = e->flags & DN_EPI_RESIDUAL ? job->residual + (x + i) * job->residual_step + channel : NULL;
        finish_u8(_mm256_permute2x128_si256(c[i][0], c[i][1], 0x20), _mm256_permute2x128_si256(c[i][0], c[i][1], 0x31), e, residual,
                  job->output + (x + i) * job->out_step + channel, n);
    }
}

/* ---- 3 x 3, neighbouring outputs one tap apart ---- */

enum { TILE_3 = 4, COLUMNS_3 = TILE_3 + 2 };

/* Weights of two taps in turn: 0-2 the upper two rows of a column; 3 the first two of the last row; 4 its last one, and 0. [.][0]: channels 0-7. */
typedef struct window3 {
    __m256i w[5][2];
} window3;

/* Two taps' bytes in turn, as 16-bit numbers. */
AVX2_INLINE void interleave(__m256i to[2], __m128i a, __m128i b) {
    to[0] = _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(a, b));
    to[1] = _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(a, b));
}

AVX2_INLINE void interleave_signed(__m256i to[2], __m128i a, __m128i b) {
    to[0] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b));
    to[1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b));
}

AVX2 static void prepare_3(window3 *t, const dn_dwconv_s8_job *job, const int8_t *weights) {
    const __m128i view_add = _mm_set1_epi8(job->view_add), view_mask = _mm_set1_epi8(job->view_mask);
    __m128i w[9];
    for (int k = 0; k < 9; k++) w[k] = _mm_and_si128(_mm_adds_epi8(_mm_loadu_si128((const __m128i *)(weights + 16 * k)), view_add), view_mask);
    for (int k = 0; k < 3; k++) interleave_signed(t->w[k], w[k], w[3 + k]);
    interleave_signed(t->w[3], w[6], w[7]);
    interleave_signed(t->w[4], w[8], _mm_setzero_si128());
}

AVX2_INLINE void multiply_3(__m256i acc[2], const __m256i a[2], const __m256i w[2], int start) {
    UNROLL for (int h = 0; h < 2; h++) {
        if (start) acc[h] = _mm256_madd_epi16(a[h], w[h]);
        else multiply_add(&acc[h], a[h], w[h]);
    }
}

/* Four outputs from x on, 16 channels: every column is brought into pairs once, for the up to three outputs that see it. flags, the epilogue's, may be a constant. */
AVX2_INLINE void tile_3(const dn_dwconv_s8_job *job, const window3 *t, const epilogue16 *e, uint32_t flags, int x, int channel) {
    const ptrdiff_t step = job->in_step;
    const uint8_t *p = job->input + x * step + channel, *q = p + job->in_row, *r = q + job->in_row;
    __m256i c[TILE_3][2];
    UNROLL for (int column = 0; column < COLUMNS_3; column++, p += step, q += step, r += step) {
        __m256i a[2];
        interleave(a, _mm_loadu_si128((const __m128i *)p), _mm_loadu_si128((const __m128i *)q));
        UNROLL for (int k = 0; k < 3; k++)
            if (column - k >= 0 && column - k < TILE_3) multiply_3(c[column - k], a, t->w[k], k == 0);
        const __m128i last = _mm_loadu_si128((const __m128i *)r);
        interleave(a, last, column + 1 < COLUMNS_3 ? _mm_loadu_si128((const __m128i *)(r + step)) : last);
        if (column < TILE_3) multiply_3(c[column], a, t->w[3], 0);
        if (column >= 2) multiply_3(c[column - 2], a, t->w[4], 0);
    }
    UNROLL for (int i = 0; i < TILE_3; i += 2) {
        const uint8_t *residual = flags & DN_EPI_RESIDUAL ? job->residual + (x + i) * job->residual_step + channel : NULL;
        finish_two_u8(c[i], c[i + 1], e, flags, residual, job->residual_step, job->output + (x + i) * job->out_step + channel, job->out_step, 16);
    }
}

AVX2 static void block_3(const dn_dwconv_s8_job *job, int channel) {
    window3 t;
    prepare_3(&t, job, job->weights + (ptrdiff_t)(channel / 16) * 9 * 16);
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
    for (int y = 0; y < job->rows; y++) {
        const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
        if (e.flags == DN_EPI_BOUNDED)
            for (int x = 0; x < job->width; x += TILE_3) tile_3(&row, &t, &e, DN_EPI_BOUNDED, x + TILE_3 > job->width ? job->width - TILE_3 : x, channel);
        else
            for (int x = 0; x < job->width; x += TILE_3) tile_3(&row, &t, &e, e.flags, x + TILE_3 > job->width ? job->width - TILE_3 : x, channel);
    }
}

AVX2_INLINE int is_3x3(const dn_dwconv_s8_job *job) {
    return job->kernel_h == 3 && job->kernel_w == 3 && job->kh_begin == 0 && job->kh_end == 3 && job->in_tap == job->in_step && job->width >= TILE_3;
}

/* ---- rows ---- */

/* A block of 16 channels (or the n < 16 last ones) along the rows; the last tile of a row overlaps the one before. */
AVX2_INLINE void block(const dn_dwconv_s8_job *job, int channel, int n, int tail) {
    window t;
    prepare(&t, job, job->weights + (ptrdiff_t)(channel / 16) * job->kernel_h * job->kernel_w * 16);
    const epilogue16 e = epilogue16_load(&job->epilogue, channel, 0);
    const __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32((n + 3) / 4), _mm_setr_epi32(0, 1, 2, 3));
    for (int y = 0; y < job->rows; y++) {
        const dn_dwconv_s8_job row = dn_dwconv_s8_row(job, y);
        if (job->width < 4)
            for (int x = 0; x < job->width; x++) tile(&row, &t, &e, x, channel, n, 1, tail, mask);
        else
            for (int x = 0; x < job->width; x += 4) tile(&row, &t, &e, x + 4 > job->width ? job->width - 4 : x, channel, n, 4, tail, mask);
    }
}

AVX2 static void run(const dn_dwconv_s8_job *job) {
    if ((job->kh_end - job->kh_begin) * job->kernel_w > 2 * MAX_PAIRS) {
        dn_dwconv_s8_ref.run(job);
        return;
    }
    int channel = 0;
    const int three = is_3x3(job);
    for (; channel + 16 <= job->channels; channel += 16) {
        if (three) block_3(job, channel);
        else block(job, channel, 16, 0);
    }
    if (channel < job->channels) block(job, channel, job->channels - channel, 1);
}

const dn_dwconv_s8 dn_dwconv_s8_avx2 = {.isa = "avx2", .run = run};

#endif
