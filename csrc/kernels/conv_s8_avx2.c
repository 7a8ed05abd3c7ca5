/* conv_s8_avx2.c - exact int8 convolution for CPUs with AVX2 but without a byte dot product.
 *
 * vpmaddubsw would saturate, so both sides are widened to 16 bits and go through vpmaddwd. Weights are widened by the load itself (vpmovsxbw from memory is one
 * micro-operation), activations once per call into a buffer on the stack, where vpbroadcastq then picks 4 channels of a pixel without any arithmetic. That leaves a multiply
 * and an add per 16 products: 26 of 32 possible products a cycle on Zen 3, where an FMA kernel makes 16.
 *
 * One accumulator register holds 4 outputs as pairs of partial sums (even and odd halves of the 4 channels); pairs are merged before the epilogue. A register tile is
 * 4 or 6 pixels by 8 outputs, or 1 or 2 pixels by 16; a call walks its panels with it. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/epilogue_avx2.h"

enum {
    BLOCK = 144,       /* steps widened at a time: 3 x 3 x 64 channels in one go, and with 8 pixels 9 KB, so that weights keep most of the L1 cache */
    PITCH = BLOCK * 4, /* channels per pixel in the buffer */
    MAX_MR = 8,
    MAX_NR = 4,
    GROUPS = 4 /* registers of 4 outputs in a panel */
};

typedef struct scratch {
    __m256i acc[MAX_NR * MAX_MR * GROUPS]; /* [panel][pixel][group], pair sums */
    int16_t wide[MAX_MR * PITCH];
} scratch;

/* Widens taps for `pixels` pixels; adds taps for `pixels` pixels to acc (or starts it). */
typedef void stage_fn(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count);
typedef void tile_fn(const int16_t *wide, const int8_t *weights, const dn_tap *taps, size_t count, __m256i *acc, int resume, const dn_conv_s8_job *job);

typedef struct shape {
    stage_fn *stage;
    tile_fn *tile, *tile_view;
    int mr, pixels, groups; /* a call's pixels; the register tile: pixels x 4 * groups outputs */
    int steps;
    ptrdiff_t pixel_pitch; /* channels from pixel to pixel in the buffer */
} shape;

AVX2_INLINE __m256i broadcast4(const int16_t *p) {
    __m256i v;
    __asm__("vpbroadcastq %1,%0" : "=x"(v) : "m"(*(const int16_t(*)[4])p));
    return v;
}

/* An add the compiler cannot reassociate: left alone, gcc sums products over unrolled steps first and spills. */
AVX2_INLINE __m256i add(__m256i acc, __m256i product) {
    __asm__("vpaddd %1,%0,%0" : "+x"(acc) : "x"(product));
    return acc;
}

AVX2_INLINE __m256i load_weights(const int8_t *p, int view, __m128i view_add, __m128i view_mask) {
    __m128i w = _mm_loadu_si128((const __m128i *)p);
    if (view) w = _mm_and_si128(_mm_adds_epi8(w, view_add), view_mask);
    return _mm256_cvtepi8_epi16(w);
}

#define UNROLL _Pragma("GCC unroll 16")

/* The inner loop. `pitch`: channels from pixel to pixel; `advance`: channels from entry to entry. All but the arguments of the tile itself are constants. */
#define TILE(name, pixels, groups, steps, pitch, advance, view)                                                                                                     \
    AVX2 static void name(const int16_t *wide, const int8_t *weights, const dn_tap *taps, size_t count, __m256i *acc, int resume, const dn_conv_s8_job *job) {      \
        const __m128i view_add = view ? _mm_set1_epi8(job->view_add) : _mm_setzero_si128(), view_mask = view ? _mm_set1_epi8(job->view_mask) : view_add;            \
        __m256i c[pixels][groups];                                                                                                                                  \
        UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int g = 0; g < groups; g++) c[i][g] = resume ? acc[i * GROUPS + g] : _mm256_setzero_si256();           \
        for (const dn_tap *end = taps + count; taps != end; taps++, wide += advance) {                                                                              \
            const int8_t *w = weights + taps->weight;                                                                                                               \
            UNROLL for (int k = 0; k < steps; k++) {                                                                                                                \
                __m256i b[groups];                                                                                                                                  \
                UNROLL for (int g = 0; g < groups; g++) b[g] = load_weights(w + 64 * k + 16 * g, view, view_add, view_mask);                                        \
                UNROLL for (int i = 0; i < pixels; i++) {                                                                                                           \
                    __m256i a = broadcast4(wide + i * (pitch) + 4 * k);                                                                                             \
                    UNROLL for (int g = 0; g < groups; g++) c[i][g] = add(c[i][g], _mm256_madd_epi16(a, b[g]));                                                     \
                }                                                                                                                                                   \
            }                                                                                                                                                       \
        }                                                                                                                                                           \
        UNROLL for (int i = 0; i < pixels; i++) UNROLL for (int g = 0; g < groups; g++) acc[i * GROUPS + g] = c[i][g];                                             \
    }

/* Any pixel stride: the buffer is one run per pixel. */
#define STAGE(name, pixels, steps)                                                                                                      \
    AVX2 static void name(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count) {                               \
        const uint8_t *p[pixels];                                                                                                       \
        UNROLL for (int i = 0; i < pixels; i++) p[i] = pixel[i];                                                                        \
        for (const dn_tap *end = taps + count; taps != end; taps++, wide += 4 * steps)                                                  \
            UNROLL for (int i = 0; i < pixels; i++) {                                                                                   \
                if (steps == 4) _mm256_storeu_si256((__m256i *)(wide + i * PITCH), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(p[i] + taps->input)))); \
                else {                                                                                                                  \
                    int32_t four;                                                                                                       \
                    memcpy(&four, p[i] + taps->input, 4);                                                                               \
                    _mm_storel_epi64((__m128i *)(wide + i * PITCH), _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)));                        \
                }                                                                                                                       \
            }                                                                                                                           \
    }

/* Pixels side by side and known to be: an entry's channels of all pixels are one run of bytes, a multiple of 8 long. */
#define STAGE_RUN(name, pixels, channels)                                                                                                                        \
    AVX2 static void name(int16_t *wide, const uint8_t *const *pixel, const dn_tap *taps, size_t count) {                                                        \
        enum { BYTES = (pixels) * (channels) };                                                                                                                  \
        for (const dn_tap *end = taps + count; taps != end; taps++, wide += BYTES) {                                                                             \
            const uint8_t *p = pixel[0] + taps->input;                                                                                                           \
            UNROLL for (int i = 0; i < BYTES / 16; i++)                                                                                                          \
                _mm256_storeu_si256((__m256i *)(wide + 16 * i), _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(p + 16 * i))));                           \
            if (BYTES % 16) _mm_storeu_si128((__m128i *)(wide + BYTES - 8), _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(p + BYTES - 8))));               \
        }                                                                                                                                                        \
    }

#define LIST(pixels, groups, steps)                                                  \
    STAGE(stage_##pixels##_##steps, pixels, steps)                                   \
    TILE(tile_##pixels##_##steps, pixels, groups, steps, PITCH, 4 * steps, 0)        \
    TILE(tile_view_##pixels##_##steps, pixels, groups, steps, PITCH, 4 * steps, 1)
LIST(1, 4, 1) LIST(1, 4, 4) LIST(2, 4, 1) LIST(2, 4, 4) LIST(4, 2, 1) LIST(4, 2, 4) LIST(6, 2, 1) LIST(6, 2, 4)

#define RUN(pixels, mr, steps)                                                                  \
    STAGE_RUN(stage_run_##mr##_##steps, mr, 4 * steps)                                          \
    TILE(tile_run_##mr##_##steps, pixels, 2, steps, 4 * steps, (mr) * 4 * steps, 0)             \
    TILE(tile_run_view_##mr##_##steps, pixels, 2, steps, 4 * steps, (mr) * 4 * steps, 1)
RUN(4, 8, 1) RUN(4, 8, 2) RUN(4, 8, 3) RUN(4, 8, 4)

/* ---- a call ---- */

AVX2 static void finish(const dn_conv_s8_job *job, const __m256i *acc, int mr, int nr, const ptrdiff_t *out, const ptrdiff_t *residual) {
    for (int panel = 0; panel < nr; panel++) {
        const epilogue16 e = epilogue16_load(&job->epilogue, 16 * panel, 1);
        int n = panel == nr - 1 ? job->last : 16;
        for (int i = 0; i < mr; i++, acc += GROUPS) {
            __m256i sum[2];
            for (int h = 0; h < 2; h++) {
                __m256 x = _mm256_castsi256_ps(acc[2 * h]), y = _mm256_castsi256_ps(acc[2 * h + 1]);
                sum[h] = _mm256_add_epi32(_mm256_castps_si256(_mm256_shuffle_ps(x, y, 0x88)), _mm256_castps_si256(_mm256_shuffle_ps(x, y, 0xdd)));
            }
            const uint8_t *r = e.flags & DN_EPI_RESIDUAL ? job->residual + residual[i] + 16 * panel : NULL;
            if (e.flags & DN_CONV_F32_OUT) finish_f32(sum[0], sum[1], &e, r, (float *)job->output + out[i] + 16 * panel, n);
            else finish_u8(sum[0], sum[1], &e, r, (uint8_t *)job->output + out[i] + 16 * panel, n);
        }
    }
}

/* Widen a block of entries, run it through every panel, until the list ends. */
AVX2 static void accumulate(const dn_conv_s8_job *job, const shape *s, int nr, tile_fn *tile, const uint8_t *const *pixel, scratch *t) {
    const size_t block = (size_t)(BLOCK / s->steps);
    size_t first = 0;
    do {
        const dn_tap *taps = job->taps + first;
        size_t count = job->tap_count - first < block ? job->tap_count - first : block;
        if (s->pixel_pitch == PITCH)
            for (int i = 0; i < s->mr; i += s->pixels) s->stage(t->wide + i * PITCH, pixel + i, taps, count);
        else s->stage(t->wide, pixel, taps, count);
        for (int panel = 0; panel < nr; panel++)
            for (int g = 0; g < GROUPS; g += s->groups)
                for (int i = 0; i < s->mr; i += s->pixels)
                    tile(t->wide + i * s->pixel_pitch, job->weights + (size_t)panel * job->panel_stride + 16 * g, taps, count,
                         t->acc + (panel * s->mr + i) * GROUPS + g, first != 0, job);
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
    accumulate(job, s, nr, view ? s->tile_view : s->tile, pixel, &t);
    finish(job, t.acc, s->mr, nr, out, residual);
}

/* ---- the variants ---- */

#define LIST_SHAPE(mr, pixels, groups, steps) \
    static const shape shape_##mr##_##steps = {stage_##pixels##_##steps, tile_##pixels##_##steps, tile_view_##pixels##_##steps, mr, pixels, groups, steps, PITCH};
#define RUN_SHAPE(mr, pixels, steps) \
    static const shape shape_run_##mr##_##steps = {stage_run_##mr##_##steps, tile_run_##mr##_##steps, tile_run_view_##mr##_##steps, mr, pixels, 2, steps, 4 * steps};
LIST_SHAPE(1, 1, 4, 1) LIST_SHAPE(1, 1, 4, 4) LIST_SHAPE(2, 2, 4, 1) LIST_SHAPE(2, 2, 4, 4) LIST_SHAPE(4, 4, 2, 1) LIST_SHAPE(4, 4, 2, 4) LIST_SHAPE(6, 6, 2, 1)
LIST_SHAPE(6, 6, 2, 4) LIST_SHAPE(8, 4, 2, 1) LIST_SHAPE(8, 4, 2, 4)
RUN_SHAPE(8, 4, 1) RUN_SHAPE(8, 4, 2) RUN_SHAPE(8, 4, 3) RUN_SHAPE(8, 4, 4)

#define NAME(what, mr, nr, steps) what##_##mr##x##nr##_##steps
#define ENTRY(what, shape_name, mr, nr, steps, form)                                                                        \
    AVX2 static void NAME(what, mr, nr, steps)(const dn_conv_s8_job *job) { conv(job, &shape_name##_##mr##_##steps, nr, form, 0); } \
    AVX2 static void NAME(what##_view, mr, nr, steps)(const dn_conv_s8_job *job) { conv(job, &shape_name##_##mr##_##steps, nr, form, 1); }
#define ROW(mr, nr, steps) ENTRY(row, shape, mr, nr, steps, DN_FORM_ROW)
#define POINTER(mr, nr, steps) ENTRY(pointer, shape, mr, nr, steps, DN_FORM_POINTER)
#define SIDE(mr, nr, steps) ENTRY(run, shape_run, mr, nr, steps, DN_FORM_ROW)
#define PANELS(kind, mr, steps) kind(mr, 1, steps) kind(mr, 2, steps) kind(mr, 3, steps) kind(mr, 4, steps)
#define EVERY(kind) PANELS(kind, 8, 1) PANELS(kind, 8, 4) PANELS(kind, 6, 1) PANELS(kind, 6, 4) PANELS(kind, 4, 1) PANELS(kind, 4, 4) PANELS(kind, 2, 1) PANELS(kind, 2, 4) PANELS(kind, 1, 1) PANELS(kind, 1, 4)
#define NARROW(kind) PANELS(kind, 8, 1) PANELS(kind, 8, 2) PANELS(kind, 8, 3) PANELS(kind, 8, 4)
EVERY(ROW) EVERY(POINTER) NARROW(SIDE)

#define ROW_LINE(mr, nr, steps) {NAME(row, mr, nr, steps), NAME(row_view, mr, nr, steps), mr, nr, steps, DN_FORM_ROW, 0},
#define POINTER_LINE(mr, nr, steps) {NAME(pointer, mr, nr, steps), NAME(pointer_view, mr, nr, steps), mr, nr, steps, DN_FORM_POINTER, 0},
#define SIDE_LINE(mr, nr, steps) {NAME(run, mr, nr, steps), NAME(run_view, mr, nr, steps), mr, nr, steps, DN_FORM_ROW, 4 * steps},
static const dn_conv_s8_variant variants[] = {NARROW(SIDE_LINE) EVERY(ROW_LINE) EVERY(POINTER_LINE)};

const dn_conv_s8 dn_conv_s8_avx2 = {.isa = "avx2", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
