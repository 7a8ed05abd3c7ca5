/* conv_s8_avx2.c - exact int8 convolution for CPUs with AVX2 but without a byte dot product.
 *
 * vpmaddubsw would saturate, so both sides are widened to 16 bits and go through vpmaddwd. Weights are widened by the load itself (vpmovsxbw from memory is one
 * micro-operation), activations once per call into a buffer on the stack, where vpbroadcastq then picks 4 channels of a pixel without any arithmetic. That leaves a multiply
 * and an add per 16 products: 26 of 32 possible products a cycle on Zen 3, where an FMA kernel makes 16.
 *
 * One accumulator register holds 4 outputs as pairs of partial sums (even and odd halves of the 4 channels); pairs are merged before the epilogue. A register tile is
 * 4 or 6 pixels by 8 outputs, or 1 or 2 pixels by 16; a call walks its panels with it. Calls of 16 pixels are for few input channels, whose sums are finished soon: what a
 * call costs besides is then a tenth of its time. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/madd_avx2.h"

enum {
    BLOCK = 144,       /* steps widened at a time: 3 x 3 x 64 channels in one go; 9 KB with 8 pixels, so that weights keep most of the L1 cache */
    PITCH = BLOCK * 4, /* channels per pixel in the buffer */
    MAX_MR = 16,
    MAX_NR = 4
};

typedef struct scratch {
    __m256i acc[MAX_NR][MAX_MR][2]; /* 16 sums in pair order */
    int16_t wide[MAX_MR * PITCH];
    int8_t viewed[BLOCK * 64]; /* bit views only: a panel's weights as they are seen, and entries that walk them in order */
    dn_tap in_order[BLOCK];
} scratch;

/* Widens the entries' channels of all pixels. */
typedef void stage_fn(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count);
/* Multiplies them with the first 4 * used channels of one panel; adds to acc if `resume`, else starts it. */
typedef void tile_fn(const int16_t *wide, const int8_t *weights, const dn_tap *taps, size_t count, __m256i (*acc)[2], int resume, int used);

typedef struct shape {
    stage_fn *stage;
    tile_fn *tile;
    int mr, steps;
} shape;

AVX2_INLINE __m256i broadcast4(const int16_t *p) {
    __m256i v;
    __asm__("vpbroadcastq %1,%0" : "=x"(v) : "m"(*(const int16_t(*)[4])p));
    return v;
}

/* Nothing, at the end of a loop, for every sum: without it gcc 12 lets some of them change registers within the loop, and copies them back. */
AVX2_INLINE void settle(__m256i *sum) { __asm__("" : "+x"(*sum)); }

/* Pair sums of outputs 0-3 and 4-7 -> sums in pair order. */
AVX2_INLINE __m256i merge(__m256i a, __m256i b) {
    __m256 x = _mm256_castsi256_ps(a), y = _mm256_castsi256_ps(b);
    return _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)), _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd)));
}

/* `mr` pixels by one panel, in register tiles of `pixels` by 4 * `groups` outputs. In the buffer, channels lie `pitch` apart from pixel to pixel and `advance` from entry to
 * entry. Everything in lower case that is not an argument of the function is a constant. */
#define TILE(name, mr, pixels, groups, steps, pitch, advance)                                                                                             \
    AVX2 static void name(const int16_t *wide, const int8_t *weights, const dn_tap *taps, size_t count, __m256i(*acc)[2], int resume, int used) { \
        for (int first = 0; first < used; first += groups)                                                                                                         \
            for (int base = 0; base < (mr); base += pixels) {                                                                                                   \
                const int16_t *a = wide + base * (pitch);                                                                                                       \
                const int8_t *panel = weights + 16 * first;                                                                                                     \
                __m256i c[pixels][groups];                                                                                                                      \
                UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int g = 0; g < groups; g++) c[i][g] = _mm256_setzero_si256();                              \
                for (const dn_tap *tap = taps, *end = taps + count; tap != end; tap++, a += advance) {                                                          \
                    const int8_t *w = panel + tap->weight;                                                                                                      \
                    UNROLL for (int k = 0; k < steps; k++) {                                                                                                    \
                        if (steps > 4) __asm__("" : "+r"(a), "+r"(w)); /* or gcc loads for several steps at once, and runs out of registers */                           \
                        __m256i b[groups];                                                                                                                      \
                        UNROLL for (int g = 0; g < groups; g++) b[g] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 64 * k + 16 * g)));                            \
                        UNROLL for (int i = 0; i < pixels; i++) {                                                                                               \
                            __m256i v = broadcast4(a + i * (pitch) + 4 * k);                                                                                    \
                            UNROLL for (int g = 0; g < groups; g += 2) multiply_add_two(&c[i][g], v, b[g], b[g + 1]);                                           \
                        }                                                                                                                                       \
                    }                                                                                                                                           \
                    UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int g = 0; g < groups; g++) settle(&c[i][g]);                                               \
                }                                                                                                                                               \
                UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int g = 0; g < groups; g += 2) {                                                           \
                    __m256i sum = merge(c[i][g], c[i][g + 1]), *to = &acc[base + i][(first + g) / 2];                                                           \
                    *to = resume ? _mm256_add_epi32(sum, *to) : sum;                                                                                            \
                }                                                                                                                                               \
            }                                                                                                                                                   \
    }

/* Pixels anywhere: the buffer has a run per pixel. */
#define STAGE(name, mr, pixels, steps)                                                                                                       \
    AVX2 static void name(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count) {                                    \
        for (int base = 0; base < (mr); base += pixels) {                                                                                    \
            const uint8_t *p[pixels];                                                                                                        \
            UNROLL for (int i = 0; i < pixels; i++) p[i] = pixel[base + i];                                                                  \
            int16_t *to = wide + base * PITCH;                                                                                               \
            for (const dn_tap *tap = taps, *end = taps + count; tap != end; tap++, to += 4 * steps)                                          \
                UNROLL for (int i = 0; i < pixels; i++) widen##steps(to + i * PITCH, p[i] + tap->input);                                     \
        }                                                                                                                                    \
    }

AVX2_INLINE void widen4(int16_t *to, const uint8_t *p) { _mm256_storeu_si256((__m256i *)to, _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p))); }
AVX2_INLINE void widen2(int16_t *to, const uint8_t *p) { _mm_storeu_si128((__m128i *)to, _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p))); }
AVX2_INLINE void widen1(int16_t *to, const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    _mm_storel_epi64((__m128i *)to, _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));
}

/* Pixels a known stride apart: what an entry needs of all of them is one run of bytes, widened once even where the pixels' channels overlap. */
#define RUN_BYTES(mr, steps, stride) (((mr) - 1) * (stride) + 4 * (steps))
#define STAGE_RUN(name, bytes)                                                                                       \
    AVX2 static void name(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count) {            \
        for (const dn_tap *end = taps + count; taps != end; taps++, wide += bytes) {                                 \
            const uint8_t *p = pixel[0] + taps->input;                                                               \
            UNROLL for (int i = 0; i + 16 <= (bytes); i += 16) widen4(wide + i, p + i);                              \
            if ((bytes) & 8) widen2(wide + (bytes) / 16 * 16, p + (bytes) / 16 * 16);                                \
            if ((bytes) & 4) widen1(wide + (bytes) - 4, p + (bytes) - 4);                                            \
        }                                                                                                            \
    }

#define LIST(mr, pixels, groups, steps)                                                                                              \
    STAGE(stage_##mr##_##steps, mr, pixels, steps)                                                                                   \
    TILE(tile_##mr##_##steps, mr, pixels, groups, steps, PITCH, 4 * steps) \
    static const shape shape_##mr##_##steps = {stage_##mr##_##steps, tile_##mr##_##steps, mr, steps};
#define RUN(steps, stride) \
    STAGE_RUN(stage_run_##steps##_##stride, RUN_BYTES(8, steps, stride)) \
    TILE(tile_run_##steps##_##stride, 8, 4, 2, steps, stride, RUN_BYTES(8, steps, stride)) \
    static const shape shape_run_##steps##_##stride = {stage_run_##steps##_##stride, tile_run_##steps##_##stride, 8, steps};
LIST(1, 1, 4, 1) LIST(1, 1, 4, 4) LIST(2, 2, 4, 1) LIST(2, 2, 4, 4) LIST(4, 4, 2, 1) LIST(4, 4, 2, 4) LIST(6, 6, 2, 1) LIST(6, 6, 2, 4) LIST(8, 4, 2, 1) LIST(8, 4, 2, 4)
LIST(16, 4, 2, 2) LIST(16, 4, 2, 4)
RUN(1, 4) RUN(3, 12) RUN(3, 4) RUN(3, 8) RUN(7, 8)

/* ---- a call ---- */

/* What the bit view makes of a panel's weights, packed in the order of the entries: once per call, so that the inner loop need not know. */
AVX2 static const int8_t *view_panel(scratch *t, const dn_conv_s8_job *job, const int8_t *weights, const dn_tap *taps, size_t count, int steps) {
    const __m256i add8 = _mm256_set1_epi8(job->view_add), mask = _mm256_set1_epi8(job->view_mask);
    int8_t *to = t->viewed;
    for (size_t i = 0; i < count; i++)
        for (int k = 0; k < 2 * steps; k++, to += 32) {
            const __m256i w = _mm256_loadu_si256((const __m256i *)(weights + taps[i].weight + 32 * k));
            _mm256_storeu_si256((__m256i *)to, _mm256_and_si256(_mm256_adds_epi8(w, add8), mask));
        }
    return t->viewed;
}

AVX2 static void accumulate(scratch *t, const dn_conv_s8_job *job, const shape *s, const uint8_t *const *pixel, int nr, int view) {
    const size_t block = (size_t)(BLOCK / s->steps);
    if (view)
        for (size_t i = 0; i < block && i < job->tap_count; i++) t->in_order[i].weight = (int32_t)i * 64 * s->steps;
    size_t first = 0;
    do {
        const dn_tap *taps = job->taps + first;
        const size_t count = job->tap_count - first < block ? job->tap_count - first : block;
        s->stage(t->wide, pixel, taps, count);
        for (int panel = 0; panel < nr; panel++) {
            const int8_t *weights = job->weights + (size_t)panel * job->panel_stride;
            const int used = panel == nr - 1 ? (job->last + 3) / 4 : 4;
            if (view) s->tile(t->wide, view_panel(t, job, weights, taps, count, s->steps), t->in_order, count, t->acc[panel], first != 0, used);
            else s->tile(t->wide, weights, taps, count, t->acc[panel], first != 0, used);
        }
        first += count;
    } while (first < job->tap_count);
}

AVX2 static void conv(const dn_conv_s8_job *job, const shape *s, int nr, int form, int view) {
    const uint8_t *pixel[MAX_MR];
    ptrdiff_t out[MAX_MR], residual[MAX_MR];
    const int adds = (job->epilogue.flags & DN_EPI_RESIDUAL) != 0;
    for (int i = 0; i < s->mr; i++) {
        pixel[i] = job->input + (form == DN_FORM_ROW ? i * job->in_step : job->in_offset[i]);
        out[i] = form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i];
        residual[i] = !adds ? 0 : form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i];
    }
    scratch t;
    if (job->last <= 8) /* channels nobody computes still go through the epilogue */
        for (int i = 0; i < s->mr; i++) t.acc[nr - 1][i][0] = t.acc[nr - 1][i][1] = _mm256_setzero_si256();
    accumulate(&t, job, s, pixel, nr, view);
    for (int panel = 0; panel < nr; panel++) finish_panel(job, (const __m256i(*)[2])t.acc[panel], panel, s->mr, panel == nr - 1 ? job->last : 16, out, residual, 1);
}

/* ---- the variants ---- */

#define ROW(mr, nr, steps)                                                                                                                  \
    AVX2 static void row_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, &shape_##mr##_##steps, nr, DN_FORM_ROW, 0); }         \
    AVX2 static void row_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, &shape_##mr##_##steps, nr, DN_FORM_ROW, 1); }
#define POINTER(mr, nr, steps)                                                                                                              \
    AVX2 static void pointer_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, &shape_##mr##_##steps, nr, DN_FORM_POINTER, 0); } \
    AVX2 static void pointer_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, &shape_##mr##_##steps, nr, DN_FORM_POINTER, 1); }
#define SIDE(steps, stride, nr)                                                                                                                      \
    AVX2 static void run_##steps##_##stride##x##nr(const dn_conv_s8_job *job) { conv(job, &shape_run_##steps##_##stride, nr, DN_FORM_ROW, 0); }      \
    AVX2 static void run_view_##steps##_##stride##x##nr(const dn_conv_s8_job *job) { conv(job, &shape_run_##steps##_##stride, nr, DN_FORM_ROW, 1); }
#define PANELS(kind, mr, steps) kind(mr, 1, steps) kind(mr, 2, steps) kind(mr, 3, steps) kind(mr, 4, steps)
#define EVERY(kind)                                                                                                                             \
    PANELS(kind, 16, 2) PANELS(kind, 16, 4) PANELS(kind, 8, 1) PANELS(kind, 8, 4) PANELS(kind, 6, 1) PANELS(kind, 6, 4) PANELS(kind, 4, 1) PANELS(kind, 4, 4) PANELS(kind, 2, 1) PANELS(kind, 2, 4) \
    PANELS(kind, 1, 1) PANELS(kind, 1, 4)
#define SIDES(kind, steps, stride) kind(steps, stride, 1) kind(steps, stride, 2) kind(steps, stride, 3) kind(steps, stride, 4)
#define NARROW(kind) SIDES(kind, 1, 4) SIDES(kind, 3, 12) SIDES(kind, 3, 4) SIDES(kind, 3, 8) SIDES(kind, 7, 8)
EVERY(ROW) EVERY(POINTER) NARROW(SIDE)

#define ROW_LINE(mr, nr, steps) {row_##mr##x##nr##_##steps, row_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_ROW, 0},
#define POINTER_LINE(mr, nr, steps) {pointer_##mr##x##nr##_##steps, pointer_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_POINTER, 0},
#define SIDE_LINE(steps, stride, nr) {run_##steps##_##stride##x##nr, run_view_##steps##_##stride##x##nr, 8, nr, steps, DN_FORM_ROW, stride},
static const dn_conv_s8_variant variants[] = {NARROW(SIDE_LINE) EVERY(ROW_LINE) EVERY(POINTER_LINE)};

const dn_conv_s8 dn_conv_s8_avx2 = {.isa = "avx2", .winograd = 1, .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
