/* wino_f32_block.h - Winograd's F(2 x 2, 3 x 3) for one vector of LANES channels (Lavin and Gray 2016); included once per vector width by wino_f32_template.h.
 *
 * No fused multiply-add: every vector width gives the same bits. */

#include "kernels/lanes_f32.h"

/* The compiler would keep the sum of every row and every position, run out of registers, and compute them anew for each tile. */
#define HIDE(p) __asm__("" : "+r"(p))

/* B' d B of the 4 x 4 pixels d; the 16 results are `position` floats apart. Rows of d are read again rather than kept: 16 registers do not hold 16 vectors. */
INLINE void NAME(input_block)(const float *d, ptrdiff_t row, ptrdiff_t step, float *to, size_t position) {
    static const int first[4] = {0, 1, 2, 1}, second[4] = {2, 2, 1, 3};
    const float *rows[4] = {d, d + row, d + 2 * row, d + 3 * row};
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) HIDE(rows[y]);
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
        VEC t[4];
        _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
            VEC a = NAME(load)(rows[first[y]] + x * step), b = NAME(load)(rows[second[y]] + x * step);
            t[x] = y == 1 ? a + b : a - b;
        }
        NAME(store)(to, t[0] - t[2]);
        NAME(store)(to + position, t[1] + t[2]);
        NAME(store)(to + 2 * position, t[2] - t[1]);
        NAME(store)(to + 3 * position, t[1] - t[3]);
        to += 4 * position;
        HIDE(to);
    }
}

/* The epilogue of conv_f32 on one vector, products and sums rounded apart. */
INLINE VEC NAME(finish)(VEC v, const float *residual, const dn_epilogue *e) {
    const VEC zero = {0}, low = zero + e->lo, high = zero + e->hi;
    if (residual) v = v + NAME(load)(residual) * e->residual_scale;
    if (e->flags & DN_EPI_HARDSWISH) {
        VEC t = v * (1.0f / 6) + 0.5f;
        t = NAME(pick)(t > zero, t, NAME(pick)(t <= zero, zero, t));
        v = v * NAME(pick)(t > zero + 1, zero + 1, t) * e->out_scale + e->out_zero;
    }
    v = NAME(pick)(v < low, low, v);
    return NAME(pick)(v > high, high, v);
}

/* finish(A' m A * scale + bias + residual), 2 x 2 pixels. */
INLINE void NAME(output_block)(const float *m, size_t position, float *y, ptrdiff_t row, ptrdiff_t step, const float *residual, ptrdiff_t residual_row, ptrdiff_t residual_step,
                               const dn_epilogue *e, size_t c) {
    VEC t[2][4], scale = NAME(load)(e->scale + c), bias = NAME(load)(e->bias + c);
    const float *rows[4] = {m, m + 4 * position, m + 8 * position, m + 12 * position};
    _Pragma("GCC unroll 4") for (int k = 0; k < 4; k++) HIDE(rows[k]);
    _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
        size_t at = (size_t)x * position;
        VEC m1 = NAME(load)(rows[1] + at), m2 = NAME(load)(rows[2] + at);
        t[0][x] = NAME(load)(rows[0] + at) + (m1 + m2);
        t[1][x] = (m1 - m2) - NAME(load)(rows[3] + at);
    }
    _Pragma("GCC unroll 2") for (int r = 0; r < 2; r++) {
        VEC out[2] = {t[r][0] + (t[r][1] + t[r][2]), (t[r][1] - t[r][2]) - t[r][3]};
        _Pragma("GCC unroll 2") for (int k = 0; k < 2; k++)
            NAME(store)(y + r * row + k * step, NAME(finish)(out[k] * scale + bias, residual ? residual + r * residual_row + k * residual_step : NULL, e));
    }
}

/* A dy A' of 2 x 2 gradients. */
INLINE void NAME(gradient_block)(const float *dy, ptrdiff_t row, ptrdiff_t step, float *to, size_t position) {
    VEC a[2] = {NAME(load)(dy), NAME(load)(dy + step)}, b[2] = {NAME(load)(dy + row), NAME(load)(dy + row + step)};
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
        VEC t[2];
        _Pragma("GCC unroll 2") for (int x = 0; x < 2; x++) t[x] = y == 0 ? a[x] : y == 1 ? a[x] + b[x] : y == 2 ? a[x] - b[x] : -b[x];
        NAME(store)(to, t[0]);
        NAME(store)(to + position, t[0] + t[1]);
        NAME(store)(to + 2 * position, t[0] - t[1]);
        NAME(store)(to + 3 * position, -t[1]);
        to += 4 * position;
        HIDE(to);
    }
}

/* G g G' of 3 x 3 weights, `tap` floats apart. */
INLINE void NAME(weights_block)(const float *g, size_t tap, float *to, size_t position) {
    VEC t[4][3];
    _Pragma("GCC unroll 3") for (int x = 0; x < 3; x++) {
        VEC g0 = NAME(load)(g + (size_t)x * tap), g1 = NAME(load)(g + (size_t)(3 + x) * tap), g2 = NAME(load)(g + (size_t)(6 + x) * tap), sum = g0 + g2;
        t[0][x] = g0;
        t[1][x] = (sum + g1) * 0.5f;
        t[2][x] = (sum - g1) * 0.5f;
        t[3][x] = g2;
    }
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
        VEC sum = t[y][0] + t[y][2];
        NAME(store)(to + (size_t)(4 * y) * position, t[y][0]);
        NAME(store)(to + (size_t)(4 * y + 1) * position, (sum + t[y][1]) * 0.5f);
        NAME(store)(to + (size_t)(4 * y + 2) * position, (sum - t[y][1]) * 0.5f);
        NAME(store)(to + (size_t)(4 * y + 3) * position, t[y][2]);
    }
}

/* dg += G' u G: what 16 sums say of the 3 x 3 weights. */
INLINE void NAME(sums_block)(const float *u, size_t position, float *dg, size_t tap) {
    VEC t[3][4];
    _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
        const float *p = u + (size_t)x * position;
        VEC u1 = NAME(load)(p + 4 * position), u2 = NAME(load)(p + 8 * position), half = (u1 + u2) * 0.5f;
        t[0][x] = NAME(load)(p) + half;
        t[1][x] = (u1 - u2) * 0.5f;
        t[2][x] = half + NAME(load)(p + 12 * position);
    }
    _Pragma("GCC unroll 3") for (int y = 0; y < 3; y++) {
        VEC half = (t[y][1] + t[y][2]) * 0.5f, out[3] = {t[y][0] + half, (t[y][1] - t[y][2]) * 0.5f, half + t[y][3]};
        _Pragma("GCC unroll 3") for (int x = 0; x < 3; x++) {
            float *to = dg + (size_t)(3 * y + x) * tap;
            NAME(store)(to, NAME(load)(to) + out[x]);
        }
    }
}

#undef HIDE
#include "kernels/lanes_f32_end.h"
