/* pool_float_template.h - float pooling of one window for one ISA; needs its vectors (vec_*.h) and elements (elem_*.h). */
#include <stdbool.h>

#include "kernels/kernels.h"

enum { MAX_VECTORS = 4 };

VEC_INLINE vec load(const elem *x, vec_mask mask, const bool whole) { return whole ? elem_load(x) : elem_load_mask(x, mask); }

/* `vectors` vectors of channels from c on; vectors, whole and sum are constants wherever this is called. */
VEC_INLINE void reduce(const dn_window *window, elem *out, int32_t c, vec_mask mask, const int vectors, const bool whole, const bool sum, vec factor) {
    const elem *first = (const elem *)window->input + c;
    vec acc[MAX_VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) acc[j] = sum ? vec_zero() : load(first + j * VEC, mask, whole);
    for (int32_t row = 0; row < window->rows; row++) {
        const elem *x = first + row * window->in_row;
        for (int32_t n = window->columns; n > 0; n--, x += window->in_tap)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; j++) {
                vec v = load(x + j * VEC, mask, whole);
                acc[j] = sum ? vec_add(acc[j], v) : vec_select_nan(acc[j], acc[j], vec_max(acc[j], v)); /* vec_max gives v where either is NaN: keeps a new NaN, not an old one */
            }
    }
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
        vec v = sum ? vec_mul(acc[j], factor) : acc[j];
        if (whole) elem_store(out + c + j * VEC, v);
        else elem_store_mask(out + c + j * VEC, v, mask);
    }
}

VEC_INLINE void pool(const dn_window *window, elem *out, const bool sum, float factor) {
    vec f = vec_set(factor);
    int32_t c = 0, channels = window->channels;
    for (; c + 4 * VEC <= channels; c += 4 * VEC) reduce(window, out, c, vec_first(VEC), 4, true, sum, f);
    for (; c + VEC <= channels; c += VEC) reduce(window, out, c, vec_first(VEC), 1, true, sum, f);
    if (c < channels) reduce(window, out, c, vec_first(channels - c), 1, false, sum, f);
}

static VEC_TARGET void max(const dn_window *window, void *out) { pool(window, out, false, 1); }
static VEC_TARGET void avg(const dn_window *window, void *out, float factor) { pool(window, out, true, factor); }
