/* conv_bf16_avx512bf16.c - bfloat16 convolution tiles for AVX-512 with its bfloat16 instructions: one vdpbf16ps makes 32 products, read as they are stored.
 *
 * It adds the second product of each pair, then the first, both rounded once: the order of `ref`. What it does otherwise is to take subnormal numbers for zero.
 * Built as conv_s8_avx512.c is, two channels a step; what is said there about registers and assembly holds here. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#define DN_AVX512BF16
#include "kernels/elem_bf16_avx512.h"
#include "kernels/conv_float_template.h"
#include "kernels/tile_avx512.h"

#define SPREAD "vpbroadcastd %[x],%[a]\n\t"
#define DOT(j) "vdpbf16ps %[b" #j "],%[a],%[c" #j "]\n\t"

/* c[j] += the two channels at p times b[j]; with `full` the last of four is at `last` instead. */
VEC_INLINE void dot_pair(vec *c, const char *p, const __m512i *b, const char *last, const int nr, const int full) {
    __m512i a;
    const char(*x)[4] = (const char(*)[4])p; /* all that the statement reads */
    if (nr == 1) __asm__(SPREAD DOT(0) : [c0] "+v"(c[0]), [a] "=&v"(a) : [x] "m"(*x), [b0] "v"(b[0]));
    else if (nr == 2) __asm__(SPREAD DOT(0) DOT(1) : [c0] "+&v"(c[0]), [c1] "+&v"(c[1]), [a] "=&v"(a) : [x] "m"(*x), [b0] "v"(b[0]), [b1] "v"(b[1]));
    else if (nr == 3)
        __asm__(SPREAD DOT(0) DOT(1) DOT(2)
                : [c0] "+&v"(c[0]), [c1] "+&v"(c[1]), [c2] "+&v"(c[2]), [a] "=&v"(a)
                : [x] "m"(*x), [b0] "v"(b[0]), [b1] "v"(b[1]), [b2] "v"(b[2]));
    else if (!full)
        __asm__(SPREAD DOT(0) DOT(1) DOT(2) DOT(3)
                : [c0] "+&v"(c[0]), [c1] "+&v"(c[1]), [c2] "+&v"(c[2]), [c3] "+&v"(c[3]), [a] "=&v"(a)
                : [x] "m"(*x), [b0] "v"(b[0]), [b1] "v"(b[1]), [b2] "v"(b[2]), [b3] "v"(b[3]));
    else
        __asm__(SPREAD DOT(0) DOT(1) DOT(2) DOT(3)
                : [c0] "+&v"(c[0]), [c1] "+&v"(c[1]), [c2] "+&v"(c[2]), [c3] "+&v"(c[3]), [a] "=&v"(a)
                : [x] "m"(*x), [b0] "v"(b[0]), [b1] "v"(b[1]), [b2] "v"(b[2]), [b3] "m"(*(const char(*)[64])last));
}

/* *c += the one channel at p times b. */
VEC_INLINE void dot_one(vec *c, const char *p, __m512i b) {
    __m512i a;
    int32_t t;
    __asm__("movzwl %3,%2\n\tvpbroadcastd %2,%1\n\tvdpbf16ps %4,%1,%0" : "+v"(*c), "=&v"(a), "=&r"(t) : "m"(*(const char(*)[2])p), "v"(b));
}

/* Places of a tile's pixels, in bytes. */
typedef struct places {
    ptrdiff_t step, step3, step5, step7, kept[MAX_KEPT];
    const int32_t *offset;
} places;

/* row8: where pixel 8 of a row begins. */
VEC_INLINE const char *pixel_at(const places *at, const char *row, const char *row8, const int i, const int pointer) {
    if (pointer) return row + (i < MAX_KEPT ? at->kept[i] : 2 * (ptrdiff_t)at->offset[i]);
    return (i < 8 ? row : row8) + row_offset(i & 7, at->step, at->step3, at->step5, at->step7);
}

/* Two channels of all pixels. */
VEC_INLINE void add_pair(vec acc[MAX_MR][MAX_VECTORS], const places *at, const char *row, const char *row8, const char *w, ptrdiff_t panel, ptrdiff_t panel3, const int mr, const int nr,
                         const int pointer) {
    const int full = mr * nr + nr > 31, loaded = full ? nr - 1 : nr; /* full: sums, weights and an activation are more than 32 registers */
    __m512i b[MAX_PANELS];
#pragma GCC unroll 4
    for (int j = 0; j < loaded; j++) b[j] = _mm512_loadu_si512(w + (j == 3 ? panel3 : j * panel));
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) dot_pair(acc[i], pixel_at(at, row, row8, i, pointer), b, w + panel3, nr, full);
}

/* The last of an odd number: what stands beside it counts as zero, on both sides. */
VEC_INLINE void add_one(vec acc[MAX_MR][MAX_VECTORS], const places *at, const char *row, const char *row8, const char *w, ptrdiff_t panel, const int mr, const int nr, const int pointer) {
#pragma GCC unroll 4
    for (int j = 0; j < nr; j++) {
        const __m512i b = _mm512_maskz_loadu_epi16(0x55555555, w + j * panel);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) dot_one(&acc[i][j], pixel_at(at, row, row8, i, pointer), b);
    }
}

/* All arguments but the job are constants. */
VEC_INLINE void dot_tile(const dn_conv_f32_job *job, const int mr, const int nr, const int pointer) {
    vec acc[MAX_MR][MAX_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
        for (int j = 0; j < nr; j++) {
            acc[i][j] = vec_zero();
            vec_settle(&acc[i][j]); /* a register of its own from the start */
        }
    ptrdiff_t panel = 2 * (ptrdiff_t)job->panel_stride, panel3 = 3 * panel;
    places at = {.step = 2 * job->in_step, .offset = job->in_offset};
    at.step3 = 3 * at.step, at.step5 = 5 * at.step, at.step7 = 7 * at.step;
    if (!pointer) __asm__("" : "+r"(at.step3), "+r"(at.step5), "+r"(at.step7)); /* else they are recomputed in the loop */
    if (pointer)
#pragma GCC unroll 8
        for (int i = 0; i < mr && i < MAX_KEPT; i++) at.kept[i] = 2 * (ptrdiff_t)at.offset[i];
    for (const dn_run *run = job->runs, *end = run + job->run_count; run != end; run++) {
        const char *row = (const char *)((const elem *)job->input + run->input), *w = (const char *)((const elem *)job->weights + run->weight);
        const char *row8 = row + 8 * at.step;
        int32_t left = run->count;
        for (; left >= 2; left -= 2, row += 4, row8 += 4, w += 64) {
            if (nr > 1) __asm__("" : "+r"(panel)); /* opaque at every step: gcc would keep the address of every vector and pixel, in vector registers when there are no others */
            if (nr > 3) __asm__("" : "+r"(panel3));
            __asm__("" : "+r"(row));
            if (!pointer && mr > 8) __asm__("" : "+r"(row8));
            if (pointer && mr > MAX_KEPT) __asm__("" : "+r"(at.offset));
            add_pair(acc, &at, row, row8, w, panel, panel3, mr, nr, pointer);
        }
        if (left) add_one(acc, &at, row, row8, w, panel, mr, nr, pointer);
    }
    finish_tile(job, acc, mr, nr, pointer);
}

#define LIST(X) X(16, 1) X(14, 2) X(8, 2) X(8, 3) X(7, 4) X(6, 4) X(1, 1) X(1, 2) X(1, 3) X(1, 4)
#define DEFINE(mr, nr)                                                                                            \
    static VEC_TARGET void dot_row_##mr##x##nr(const dn_conv_f32_job *job) { dot_tile(job, mr, nr, 0); }         \
    static VEC_TARGET void dot_pointer_##mr##x##nr(const dn_conv_f32_job *job) { dot_tile(job, mr, nr, 1); }
LIST(DEFINE)

#define LINE(mr, nr) {dot_row_##mr##x##nr, mr, nr, DN_FORM_ROW, false}, {dot_pointer_##mr##x##nr, mr, nr, DN_FORM_POINTER, false},
static const dn_conv_f32_variant variants[] = {LIST(LINE)};

const dn_conv_bf16 dn_conv_bf16_avx512bf16 = {.isa = "avx512bf16", .variants = variants, .variant_count = sizeof variants / sizeof *variants};
#endif
