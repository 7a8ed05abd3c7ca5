/* conv_s8_avxvnni.c - int8 convolution with the 256-bit vpdpbusd of CPUs that have AVX-VNNI but no AVX-512.
 *
 * A register tile is 4 or 6 pixels (or 1) by one panel of two registers; a call walks its panels with it. The encoding is forced because the assembler's default for
 * vpdpbusd is the AVX-512 one, and the instruction is written in assembly for the reason given in conv_s8_avx512.c. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/epilogue_avx2.h"

enum { MAX_MR = 6 };

/* Both products of a pixel in one statement, or gcc 12 copies an accumulator there and back at the ends of the loop. */
AVX2_INLINE void dots(__m256i c[2], __m256i a, __m256i b0, __m256i b1) {
    __asm__("%{vex%} vpdpbusd %3,%2,%0\n\t%{vex%} vpdpbusd %4,%2,%1" : "+&x"(c[0]), "+&x"(c[1]) : "x"(a), "x"(b0), "x"(b1));
}

AVX2_INLINE __m256i broadcast4(const uint8_t *p) {
    int32_t four;
    memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
}

/* Through the bit view if asked: spread when it is needed, since the tile of 6 pixels leaves one register. */
AVX2_INLINE __m256i load_weights(const int8_t *p, const dn_conv_s8_job *job, int view) {
    __m256i w = _mm256_loadu_si256((const __m256i *)p), spread;
    if (view) __asm__("vpbroadcastb %2,%1\n\tvpaddsb %1,%0,%0\n\tvpbroadcastb %3,%1\n\tvpand %1,%0,%0" : "+x"(w), "=&x"(spread) : "m"(job->view_add), "m"(job->view_mask));
    return w;
}

/* mr pixels by the panel at `weights`; mr, steps and view are constants. */
AVX2_INLINE void tile(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, __m256i (*acc)[2], int mr, int steps, int view) {
    const uint8_t *p[MAX_MR];
    __m256i c[MAX_MR][2];
    UNROLL for (int i = 0; i < mr; i++) {
        p[i] = pixel[i];
        c[i][0] = c[i][1] = _mm256_setzero_si256();
    }
    for (const dn_tap *t = job->taps, *end = t + job->tap_count; t != end; t++) {
        const int8_t *w = weights + t->weight;
        UNROLL for (int k = 0; k < steps; k++) {
            const __m256i b0 = load_weights(w + 64 * k, job, view), b1 = load_weights(w + 64 * k + 32, job, view);
            UNROLL for (int i = 0; i < mr; i++) {
                const __m256i a = broadcast4(p[i] + t->input + 4 * k);
                dots(c[i], a, b0, b1);
            }
        }
    }
    UNROLL for (int i = 0; i < mr; i++) acc[i][0] = c[i][0], acc[i][1] = c[i][1];
}

typedef void tile_fn(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, __m256i (*acc)[2]);

#define TILE(mr, steps)                                                                                                                   \
    AVX2 static void tile_##mr##_##steps(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, __m256i(*acc)[2]) { \
        tile(job, weights, pixel, acc, mr, steps, 0);                                                                                     \
    }                                                                                                                                     \
    AVX2 static void tile_view_##mr##_##steps(const dn_conv_s8_job *job, const int8_t *weights, const uint8_t *const *pixel, __m256i(*acc)[2]) { \
        tile(job, weights, pixel, acc, mr, steps, 1);                                                                                     \
    }
TILE(6, 1) TILE(6, 4) TILE(4, 1) TILE(4, 4) TILE(1, 1) TILE(1, 4)

AVX2 static void conv(const dn_conv_s8_job *job, tile_fn *run, int mr, int nr, int form) {
    const uint8_t *pixel[MAX_MR];
    ptrdiff_t out[MAX_MR], residual[MAX_MR];
    const int adds = (job->epilogue.flags & DN_EPI_RESIDUAL) != 0;
    for (int i = 0; i < mr; i++) {
        pixel[i] = job->input + (form == DN_FORM_ROW ? i * job->in_step : job->in_offset[i]);
        out[i] = form == DN_FORM_ROW ? i * job->out_step : job->out_offset[i];
        residual[i] = !adds ? 0 : form == DN_FORM_ROW ? i * job->residual_step : job->residual_offset[i];
    }
    for (int panel = 0; panel < nr; panel++) {
        __m256i acc[MAX_MR][2];
        run(job, job->weights + (size_t)panel * job->panel_stride, pixel, acc);
        finish_panel(job, (const __m256i(*)[2])acc, panel, mr, panel == nr - 1 ? job->last : 16, out, residual, 0);
    }
}

#define DEFINE(mr, nr, steps)                                                                                                                          \
    AVX2 static void row_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_##mr##_##steps, mr, nr, DN_FORM_ROW); }                     \
    AVX2 static void row_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_view_##mr##_##steps, mr, nr, DN_FORM_ROW); }           \
    AVX2 static void pointer_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_##mr##_##steps, mr, nr, DN_FORM_POINTER); }             \
    AVX2 static void pointer_view_##mr##x##nr##_##steps(const dn_conv_s8_job *job) { conv(job, tile_view_##mr##_##steps, mr, nr, DN_FORM_POINTER); }
#define LINE(mr, nr, steps)                                                                     \
    {row_##mr##x##nr##_##steps, row_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_ROW, 0}, \
    {pointer_##mr##x##nr##_##steps, pointer_view_##mr##x##nr##_##steps, mr, nr, steps, DN_FORM_POINTER, 0},
#define PANELS(X, mr, steps) X(mr, 1, steps) X(mr, 2, steps) X(mr, 3, steps) X(mr, 4, steps)
#define ALL(X) PANELS(X, 6, 1) PANELS(X, 6, 4) PANELS(X, 4, 1) PANELS(X, 4, 4) PANELS(X, 1, 1) PANELS(X, 1, 4)
ALL(DEFINE)

static const dn_conv_s8_variant variants[] = {ALL(LINE)};

const dn_conv_s8 dn_conv_s8_avxvnni = {.isa = "avxvnni", .variants = variants, .variant_count = sizeof variants / sizeof *variants};

#endif
