/* train_f32_block.h - bodies of the train_f32 passes for blocks of K vectors of LANES channels; included once per vector width by train_f32_template.h.
 *
 * A block of channels walks through all pixels with its constants and sums in registers. No fused multiply-add: every vector width gives the same bits. */

#include "kernels/lanes_f32.h"

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

#include "kernels/lanes_f32_end.h"
