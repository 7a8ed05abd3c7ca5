/* train_f32_block.h - bodies of the train_f32 passes for blocks of K vectors of LANES channels; included once per vector width by train_f32_template.h.
 *
 * A block of channels walks through all pixels with its constants and sums in registers. No fused multiply-add: every vector width gives the same bits. */

#define VEC PASTE(vec, LANES)
#define LOOSE PASTE(loose, LANES)
#define MASK PASTE(mask, LANES)
#define NAME(n) PASTE(n, LANES)
#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < K; k++)

typedef float VEC __attribute__((vector_size(4 * LANES)));
typedef float LOOSE __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t MASK __attribute__((vector_size(4 * LANES)));

INLINE VEC NAME(load)(const float *p) { return (VEC) * (const LOOSE *)p; }
INLINE void NAME(store)(float *p, VEC v) { *(LOOSE *)p = (LOOSE)v; }
INLINE VEC NAME(keep)(MASK m, VEC v) { return (VEC)(m & (MASK)v); }
INLINE VEC NAME(pick)(MASK m, VEC yes, VEC no) { return (VEC)((m & (MASK)yes) | (~m & (MASK)no)); }

/* NaN passes through every activation and every gradient: a lost network must show. */
INLINE VEC NAME(activate)(VEC v, dn_act act, float slope) {
    const VEC zero = {0};
    switch (act) {
    case DN_ACT_NONE: return v;
    case DN_ACT_RELU: return NAME(keep)(~(v <= zero), v);
    case DN_ACT_RELU6: return NAME(pick)(v >= zero + 6, zero + 6, NAME(keep)(~(v <= zero), v));
    case DN_ACT_LEAKY: return NAME(pick)(v <= zero, v * slope, v);
    case DN_ACT_HARDSWISH: {
        VEC t = v * (1.0f / 6) + 0.5f;
        t = NAME(pick)(t >= zero + 1, zero + 1, NAME(keep)(~(t <= zero), t));
        return v * t;
    }
    }
    return v;
}

INLINE VEC NAME(slope_of)(VEC g, VEC v, dn_act act, float slope) {
    const VEC zero = {0};
    switch (act) {
    case DN_ACT_NONE: return g;
    case DN_ACT_RELU: return NAME(keep)(~(v <= zero), g);
    case DN_ACT_RELU6: return NAME(keep)(~(v <= zero) & ~(v >= zero + 6), g);
    case DN_ACT_LEAKY: return NAME(pick)(v <= zero, g * slope, g);
    case DN_ACT_HARDSWISH: {
        VEC inside = g * (v * (1.0f / 3) + 0.5f);
        return NAME(pick)(v >= zero + 3, g, NAME(keep)(~(v <= zero - 3), inside));
    }
    }
    return g;
}

INLINE void NAME(sums_block)(const int K, const float *z, size_t pixels, size_t channels, float *out) {
    VEC first[4], s0[4], s1[4], q0[4], q1[4];
    EACH {
        first[k] = NAME(load)(z + k * LANES);
        s0[k] = s1[k] = q0[k] = q1[k] = (VEC){0};
    }
    size_t p = 0;
    for (; p + 2 <= pixels; p += 2, z += 2 * channels) {
        EACH {
            VEC a = NAME(load)(z + k * LANES) - first[k], b = NAME(load)(z + channels + k * LANES) - first[k];
            s0[k] += a;
            s1[k] += b;
            q0[k] += a * a;
            q1[k] += b * b;
        }
    }
    if (p < pixels) {
        EACH {
            VEC a = NAME(load)(z + k * LANES) - first[k];
            s0[k] += a;
            q0[k] += a * a;
        }
    }
    EACH {
        NAME(store)(out + k * LANES, first[k]);
        NAME(store)(out + channels + k * LANES, s0[k] + s1[k]);
        NAME(store)(out + 2 * channels + k * LANES, q0[k] + q1[k]);
    }
}

INLINE void NAME(norm_block)(const int K, const dn_norm_job *job, size_t c, dn_act act) {
    VEC mean[4], scale[4], shift[4];
    const size_t channels = job->channels;
    const float *z = job->z + c, *residual = job->residual ? job->residual + c : NULL;
    EACH {
        mean[k] = NAME(load)(job->mean + c + k * LANES);
        scale[k] = NAME(load)(job->scale + c + k * LANES);
        shift[k] = NAME(load)(job->shift + c + k * LANES);
    }
    for (size_t row = 0; row < job->rows; row++) {
        float *out = job->out + c + (ptrdiff_t)row * job->out_row;
        if (residual) {
            for (size_t p = 0; p < job->columns; p++, z += channels, residual += channels, out += channels)
                EACH NAME(store)(out + k * LANES, NAME(activate)((NAME(load)(z + k * LANES) - mean[k]) * scale[k] + shift[k] + NAME(load)(residual + k * LANES), act, job->slope));
        } else {
            for (size_t p = 0; p < job->columns; p++, z += channels, out += channels)
                EACH NAME(store)(out + k * LANES, NAME(activate)((NAME(load)(z + k * LANES) - mean[k]) * scale[k] + shift[k], act, job->slope));
        }
    }
}

/* `sign` says that v comes from y. The four shapes of the call (second or not, sums or not) are told apart outside the loop by the caller's constants. */
INLINE void NAME(actgrad_block)(const int K, const dn_actgrad_job *job, size_t c, dn_act act, int from_y, int with_second, int with_sums) {
    VEC mean[4], scale[4], shift[4], sum[4], dot[4];
    const size_t channels = job->channels;
    const float *first = job->first + c, *second = with_second ? job->second + c : NULL, *z = job->z ? job->z + c : NULL, *y = from_y ? job->y + c : NULL;
    const float *residual = job->residual ? job->residual + c : NULL;
    float *g = job->g + c;
    EACH {
        mean[k] = scale[k] = shift[k] = sum[k] = dot[k] = (VEC){0};
        if (job->mean) mean[k] = NAME(load)(job->mean + c + k * LANES);
        if (!from_y && act != DN_ACT_NONE) {
            scale[k] = NAME(load)(job->scale + c + k * LANES);
            shift[k] = NAME(load)(job->shift + c + k * LANES);
        }
    }
    for (size_t p = 0; p < job->pixels; p++) {
        const size_t o = p * channels;
        EACH {
            VEC v = {0}, d = {0}, x = NAME(load)(first + o + k * LANES);
            if (with_second) x += NAME(load)(second + o + k * LANES);
            if (with_sums || (!from_y && act != DN_ACT_NONE)) d = NAME(load)(z + o + k * LANES) - mean[k];
            if (act != DN_ACT_NONE) {
                if (from_y) {
                    v = NAME(load)(y + o + k * LANES);
                } else {
                    v = d * scale[k] + shift[k];
                    if (residual) v += NAME(load)(residual + o + k * LANES);
                }
                x = NAME(slope_of)(x, v, act, job->slope);
            }
            if (act != DN_ACT_NONE || with_second || job->g != job->first) NAME(store)(g + o + k * LANES, x);
            if (with_sums) {
                sum[k] += x;
                dot[k] += x * d;
            }
        }
    }
    if (with_sums) {
        EACH {
            NAME(store)(job->sums + c + k * LANES, sum[k]);
            NAME(store)(job->sums + channels + c + k * LANES, dot[k]);
        }
    }
}

INLINE void NAME(normgrad_block)(const int K, const dn_normgrad_job *job, size_t c0) {
    VEC mean[4], a[4], b[4], c[4];
    const size_t channels = job->channels;
    const float *g = job->g + c0, *z = job->z + c0;
    EACH {
        mean[k] = NAME(load)(job->mean + c0 + k * LANES);
        a[k] = NAME(load)(job->a + c0 + k * LANES);
        b[k] = NAME(load)(job->b + c0 + k * LANES);
        c[k] = NAME(load)(job->c + c0 + k * LANES);
    }
    for (size_t row = 0; row < job->rows; row++) {
        float *out = job->out + c0 + (ptrdiff_t)row * job->out_row;
        for (size_t p = 0; p < job->columns; p++, g += channels, z += channels, out += channels)
            EACH NAME(store)(out + k * LANES, a[k] * NAME(load)(g + k * LANES) + b[k] * (NAME(load)(z + k * LANES) - mean[k]) + c[k]);
    }
}

INLINE void NAME(column_sums_block)(const int K, const float *x, ptrdiff_t x_row, size_t rows, size_t columns, size_t channels, float *out) {
    VEC s0[4], s1[4];
    EACH s0[k] = s1[k] = (VEC){0};
    for (size_t row = 0; row < rows; row++, x += x_row) {
        const float *p = x;
        size_t column = 0;
        for (; column + 2 <= columns; column += 2, p += 2 * channels) {
            EACH {
                s0[k] += NAME(load)(p + k * LANES);
                s1[k] += NAME(load)(p + channels + k * LANES);
            }
        }
        if (column < columns) EACH s0[k] += NAME(load)(p + k * LANES);
    }
    EACH NAME(store)(out + k * LANES, s0[k] + s1[k]);
}

INLINE void NAME(product_sums_block)(const int K, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *y, ptrdiff_t y_row, ptrdiff_t y_step, size_t rows,
                                     size_t columns, float *out) {
    VEC s0[4], s1[4];
    EACH s0[k] = s1[k] = (VEC){0};
    for (size_t row = 0; row < rows; row++, x += x_row, y += y_row) {
        const float *p = x, *q = y;
        size_t column = 0;
        for (; column + 2 <= columns; column += 2, p += 2 * x_step, q += 2 * y_step) {
            EACH {
                s0[k] += NAME(load)(p + k * LANES) * NAME(load)(q + k * LANES);
                s1[k] += NAME(load)(p + x_step + k * LANES) * NAME(load)(q + y_step + k * LANES);
            }
        }
        if (column < columns) EACH s0[k] += NAME(load)(p + k * LANES) * NAME(load)(q + k * LANES);
    }
    EACH NAME(store)(out + k * LANES, NAME(load)(out + k * LANES) + (s0[k] + s1[k]));
}

INLINE void NAME(add_scaled_block)(const int K, float *out, ptrdiff_t out_row, ptrdiff_t out_step, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *w, size_t rows,
                                   size_t columns) {
    VEC weight[4];
    EACH weight[k] = NAME(load)(w + k * LANES);
    for (size_t row = 0; row < rows; row++, x += x_row, out += out_row) {
        const float *p = x;
        float *o = out;
        for (size_t column = 0; column < columns; column++, p += x_step, o += out_step)
            EACH NAME(store)(o + k * LANES, NAME(load)(o + k * LANES) + NAME(load)(p + k * LANES) * weight[k]);
    }
}

INLINE void NAME(max_block)(const int K, const float *x, ptrdiff_t row_step, ptrdiff_t step, size_t rows, size_t columns, float *y) {
    VEC m[4];
    EACH m[k] = NAME(load)(x + k * LANES);
    for (size_t row = 0; row < rows; row++) {
        const float *p = x + (ptrdiff_t)row * row_step;
        for (size_t column = 0; column < columns; column++, p += step) {
            EACH {
                VEC v = NAME(load)(p + k * LANES);
                m[k] = NAME(pick)((m[k] < v) | (v != v), v, m[k]);
            }
        }
    }
    EACH NAME(store)(y + k * LANES, m[k]);
}

INLINE void NAME(max_gradient_block)(const int K, const float *x, float *dx, ptrdiff_t row_step, ptrdiff_t step, size_t rows, size_t columns, const float *y, const float *dy) {
    VEC m[4], g[4];
    EACH {
        m[k] = NAME(load)(y + k * LANES);
        g[k] = NAME(load)(dy + k * LANES);
    }
    for (size_t row = 0; row < rows; row++) {
        for (size_t column = 0; column < columns; column++) {
            ptrdiff_t o = (ptrdiff_t)row * row_step + (ptrdiff_t)column * step;
            EACH {
                MASK here = NAME(load)(x + o + k * LANES) == m[k];
                NAME(store)(dx + o + k * LANES, NAME(load)(dx + o + k * LANES) + NAME(keep)(here, g[k]));
                g[k] = NAME(keep)(~here, g[k]); /* given away: what comes later gets zero */
            }
        }
    }
}

INLINE void NAME(sgd_block)(float *w, const float *g, float *m, const dn_sgd_step *s) {
    VEC weight = NAME(load)(w), gradient = NAME(load)(g) * s->gain + weight * s->decay;
    VEC moment = NAME(load)(m) * s->momentum + gradient;
    NAME(store)(m, moment);
    NAME(store)(w, weight - (s->nesterov ? gradient + moment * s->momentum : moment) * s->lr);
}

/* ---- Winograd's F(2 x 2, 3 x 3), one vector of channels: Lavin and Gray (2016) ---- */

/* B' d B of the 4 x 4 pixels d; the 16 results are `position` floats apart. Rows of d are read again rather than kept: 16 registers do not hold 16 vectors. */
INLINE void NAME(wino_input_block)(const float *d, ptrdiff_t row, ptrdiff_t step, float *to, size_t position) {
    static const int first[4] = {0, 1, 2, 1}, second[4] = {2, 2, 1, 3};
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
        VEC t[4];
        _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
            VEC a = NAME(load)(d + first[y] * row + x * step), b = NAME(load)(d + second[y] * row + x * step);
            t[x] = y == 1 ? a + b : a - b;
        }
        NAME(store)(to + (size_t)(4 * y) * position, t[0] - t[2]);
        NAME(store)(to + (size_t)(4 * y + 1) * position, t[1] + t[2]);
        NAME(store)(to + (size_t)(4 * y + 2) * position, t[2] - t[1]);
        NAME(store)(to + (size_t)(4 * y + 3) * position, t[1] - t[3]);
    }
}

/* y = clamp(A' m A + bias), 2 x 2 pixels. */
INLINE void NAME(wino_output_block)(const float *m, size_t position, float *y, ptrdiff_t row, ptrdiff_t step, const float *bias, float lo, float hi) {
    VEC t[2][4], b = NAME(load)(bias), low = (VEC){0} + lo, high = (VEC){0} + hi;
    _Pragma("GCC unroll 4") for (int x = 0; x < 4; x++) {
        const float *p = m + (size_t)x * position;
        VEC m1 = NAME(load)(p + 4 * position), m2 = NAME(load)(p + 8 * position);
        t[0][x] = NAME(load)(p) + (m1 + m2);
        t[1][x] = (m1 - m2) - NAME(load)(p + 12 * position);
    }
    _Pragma("GCC unroll 2") for (int r = 0; r < 2; r++) {
        VEC out[2] = {t[r][0] + (t[r][1] + t[r][2]) + b, (t[r][1] - t[r][2]) - t[r][3] + b};
        _Pragma("GCC unroll 2") for (int c = 0; c < 2; c++) {
            VEC v = NAME(pick)(out[c] < low, low, out[c]);
            NAME(store)(y + r * row + c * step, NAME(pick)(v > high, high, v));
        }
    }
}

/* A dy A' of 2 x 2 gradients. */
INLINE void NAME(wino_gradient_block)(const float *dy, ptrdiff_t row, ptrdiff_t step, float *to, size_t position) {
    VEC a[2] = {NAME(load)(dy), NAME(load)(dy + step)}, b[2] = {NAME(load)(dy + row), NAME(load)(dy + row + step)};
    _Pragma("GCC unroll 4") for (int y = 0; y < 4; y++) {
        VEC t[2];
        _Pragma("GCC unroll 2") for (int x = 0; x < 2; x++) t[x] = y == 0 ? a[x] : y == 1 ? a[x] + b[x] : y == 2 ? a[x] - b[x] : -b[x];
        NAME(store)(to + (size_t)(4 * y) * position, t[0]);
        NAME(store)(to + (size_t)(4 * y + 1) * position, t[0] + t[1]);
        NAME(store)(to + (size_t)(4 * y + 2) * position, t[0] - t[1]);
        NAME(store)(to + (size_t)(4 * y + 3) * position, -t[1]);
    }
}

/* G g G' of 3 x 3 weights, `tap` floats apart. */
INLINE void NAME(wino_weights_block)(const float *g, size_t tap, float *to, size_t position) {
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
INLINE void NAME(wino_sums_block)(const float *u, size_t position, float *dg, size_t tap) {
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

#undef VEC
#undef LOOSE
#undef MASK
#undef NAME
#undef EACH
