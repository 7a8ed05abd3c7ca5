/* dwconv_float_template.h - rows of a float depthwise convolution for one ISA; needs its vectors (vec_*.h) and elements (elem_*.h).
 *
 * Every sum starts at 0 and takes one fma per tap in the window's order, but of bfloat16 two rows at a time, the second's tap first: the bits of `ref`, only the payload of a NaN is
 * open. Four pixels share each weight; what is left of the
 * row is done by twos and ones. */
#include "kernels/epilogue_float_template.h"

enum { MAX_PIXELS = 4, MAX_VECTORS = VECS > 2 ? VECS : 2, FLOATS = sizeof(elem) == sizeof(float) };

VEC_INLINE vec load(const elem *x, vec_mask mask, const bool whole) { return whole ? elem_load(x) : elem_load_mask(x, mask); }

/* Vector j of a tile: 16 whole channels in their cheapest order, or fewer in order. */
VEC_INLINE vec load_part(const elem *x, const int j, vec_mask mask, const int vectors, const bool whole) {
    return vectors == VECS && whole ? elem_load_part(x, j) : load(x + j * VEC, mask, whole);
}

/* The epilogue with a residual, hardswish, a mask or (in bf16) float output, from sums in memory; n channels from c on. */
static __attribute__((noinline)) VEC_TARGET void finish_any(const dn_dwconv_f32_job *job, const float *sums, ptrdiff_t p, int pixels, int32_t c, int n) {
    const dn_epilogue *e = &job->epilogue;
    int width = (n + VEC - 1) / VEC * VEC;
    for (int i = 0; i < pixels; i++)
        for (int j = 0; j < n; j += VEC) {
            vec_mask mask = vec_first(n - j);
            vec v = vec_fma(vec_load(sums + i * width + j), vec_load_mask(e->scale + c + j, mask), vec_load_mask(e->bias + c + j, mask));
            if (e->flags & DN_EPI_RESIDUAL) v = vec_fma(elem_load_mask((const elem *)job->residual + (p + i) * job->residual_step + c + j, mask), vec_set(e->residual_scale), v);
            v = finish(v, e);
            ptrdiff_t at = (p + i) * job->out_step + c + j;
            if (!FLOATS && e->flags & DN_CONV_F32_OUT) vec_store_mask((float *)job->output + at, v, mask);
            else if (n - j >= VEC) elem_store((elem *)job->output + at, v);
            else elem_store_mask((elem *)job->output + at, v, mask);
        }
}

/* One row of the window or two, any width and strides. */
VEC_INLINE void taps(vec acc[MAX_PIXELS][MAX_VECTORS], const dn_dwconv_f32_job *job, const elem *x, const elem *w, vec_mask mask, const int pixels, const int vectors, const bool whole,
                     const int rows) {
    ptrdiff_t step = job->in_step, tap = job->in_tap, in_row = job->in_row, w_row = (ptrdiff_t)job->kernel_w * 16;
    for (int32_t kw = job->kernel_w; kw > 0; kw--, x += tap, w += 16)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) {
            __asm__("" : "+r"(x), "+r"(w)); /* or gcc keeps what it loaded for the first vector, and runs out of registers */
#pragma GCC unroll 2
            for (int r = rows - 1; r >= 0; r--) {
                vec weight = load_part(w + r * w_row, j, vec_first(VEC), vectors, whole || vectors == 1);
#pragma GCC unroll 4
                for (int i = 0; i < pixels; i++) vec_sum(&acc[i][j], load_part(x + r * in_row + i * step, j, mask, vectors, whole), weight);
            }
        }
}

/* The same where the window is 3 wide and moves by one tap: each input is loaded once for the three pixels that see it. */
VEC_INLINE void taps_3(vec acc[MAX_PIXELS][MAX_VECTORS], ptrdiff_t tap, ptrdiff_t in_row, const elem *x, const elem *w, const int pixels, const int vectors, const int rows) {
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
        __asm__("" : "+r"(x), "+r"(w));
        vec weight[6];
#pragma GCC unroll 6
        for (int k = 0; k < 3 * rows; k++) weight[k] = load_part(w + 16 * k, j, vec_first(VEC), vectors, true);
#pragma GCC unroll 6
        for (int column = 0; column < pixels + 2; column++)
#pragma GCC unroll 2
            for (int r = rows - 1; r >= 0; r--) {
                vec v = load_part(x + r * in_row + column * tap, j, vec_first(VEC), vectors, true);
#pragma GCC unroll 3
                for (int k = 0; k < 3; k++)
                    if (column - k >= 0 && column - k < pixels) vec_sum(&acc[column - k][j], v, weight[3 * r + k]);
            }
        vec_fence();
    }
}

/* Calls for what the next output row sees and this one does not, from a far cache: a map's channels are read a line per pixel, which no CPU foresees. x: the window's corner. */
VEC_INLINE void call_ahead(const dn_dwconv_f32_job *job, const elem *x, const int pixels) {
    const ptrdiff_t columns = pixels * job->in_step;
    for (ptrdiff_t row = job->kh_end * job->in_row, end = row + job->in_next; row < end; row += job->in_row)
        for (ptrdiff_t column = 0; column < columns; column += job->in_tap) __builtin_prefetch(x + row + column, 0, 2);
}

/* n channels from c on of `pixels` output pixels from p on; pixels, vectors, whole and three are constants wherever this is called. */
VEC_INLINE void tile(const dn_dwconv_f32_job *job, ptrdiff_t p, int32_t c, int n, const int pixels, const int vectors, const bool whole, const bool three) {
    vec acc[MAX_PIXELS][MAX_VECTORS];
    vec_mask mask = vec_first(n);
#pragma GCC unroll 4
    for (int i = 0; i < pixels; i++)
#pragma GCC unroll 4
        for (int j = 0; j < vectors; j++) acc[i][j] = vec_zero();
    ptrdiff_t in_row = job->in_row, w_row = (ptrdiff_t)job->kernel_w * 16;
    const elem *x = (const elem *)job->input + job->kh_begin * in_row + p * job->in_step + c;
    const elem *w = (const elem *)job->weights + ((ptrdiff_t)(c / 16) * job->kernel_h + job->kh_begin) * w_row + c % 16;
    if (job->rows > 1) call_ahead(job, x - job->kh_begin * in_row, pixels);
    int32_t left = job->kh_end - job->kh_begin;
    for (; !FLOATS && left > 1; left -= 2, x += 2 * in_row, w += 2 * w_row) {
        if (three) taps_3(acc, job->in_tap, in_row, x, w, pixels, vectors, 2);
        else taps(acc, job, x, w, mask, pixels, vectors, whole, 2);
    }
    for (; left > 0; left--, x += in_row, w += w_row) {
        if (three) taps_3(acc, job->in_tap, in_row, x, w, pixels, vectors, 1);
        else taps(acc, job, x, w, mask, pixels, vectors, whole, 1);
    }
    const dn_epilogue *e = &job->epilogue;
    if (whole && !(e->flags & (uint32_t)(DN_EPI_RESIDUAL | DN_EPI_HARDSWISH | (FLOATS ? 0 : DN_CONV_F32_OUT)))) {
        vec lo = vec_set(e->lo), hi = vec_set(e->hi);
        const float *scale = e->scale + c, *bias = e->bias + c;
        elem *output = (elem *)job->output + p * job->out_step + c;
        ptrdiff_t out_step = job->out_step;
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++, output += out_step) {
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                vec k = vectors == VECS ? elem_table_part(scale, j) : vec_load(scale), shift = vectors == VECS ? elem_table_part(bias, j) : vec_load(bias);
                acc[i][j] = vec_min(hi, vec_max(lo, vec_fma(acc[i][j], k, shift)));
            }
            if (vectors == VECS) elem_store_parts(output, acc[i]);
            else elem_store(output, acc[i][0]);
        }
    } else {
        float sums[MAX_PIXELS * MAX_VECTORS * VEC];
#pragma GCC unroll 4
        for (int i = 0; i < pixels; i++) {
            if (vectors == VECS && whole) elem_order_parts(acc[i]);
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) vec_store(sums + (i * vectors + j) * VEC, acc[i][j]);
        }
        finish_any(job, sums, p, pixels, c, n);
    }
}

VEC_INLINE void row(const dn_dwconv_f32_job *job, int32_t c, int n, const int vectors, const bool whole) {
    ptrdiff_t p = 0, width = job->width;
    if (whole && job->kernel_w == 3 && job->in_tap == job->in_step)
        for (; p + 4 <= width; p += 4) tile(job, p, c, n, 4, vectors, true, true);
    for (; p + 4 <= width; p += 4) tile(job, p, c, n, 4, vectors, whole, false);
    if (p + 2 <= width) {
        tile(job, p, c, n, 2, vectors, whole, false);
        p += 2;
    }
    if (p < width) tile(job, p, c, n, 1, vectors, whole, false);
}

VEC_INLINE void every_row(const dn_dwconv_f32_job *job, int32_t c, int n, const int vectors, const bool whole) {
    dn_dwconv_f32_job at = *job;
    for (int32_t y = 0; y < job->rows; y++, dn_dwconv_f32_advance(&at, sizeof(elem))) row(&at, c, n, vectors, whole);
}

/* Channels from c on: all rows of some before the next, so that what they share of the input is still near. */
static VEC_TARGET void run_from(const dn_dwconv_f32_job *job, int32_t c) {
    const int32_t channels = job->channels;
    for (; c + 16 <= channels; c += 16) every_row(job, c, 16, VECS, true);
    for (; VECS > 1 && c + VEC <= channels; c += VEC) every_row(job, c, VEC, 1, true);
    if (c < channels) every_row(job, c, channels - c, 1, false);
}

#ifndef DN_AVX512BF16
static VEC_TARGET void run(const dn_dwconv_f32_job *job) { run_from(job, 0); }
#endif
