/* pointwise_float_template.h - element-wise float operations on rows of pixels for one ISA; needs its vectors (vec_*.h) and elements (elem_*.h). Every operation repeats `ref` step by step. */
#include "kernels/epilogue_float_template.h"
#include "kernels/sigmoid_f32.h"

VEC_INLINE vec load(const elem *x, vec_mask mask, const bool whole) { return whole ? elem_load(x) : elem_load_mask(x, mask); }
VEC_INLINE void store(elem *x, vec v, vec_mask mask, const bool whole) {
    if (whole) elem_store(x, v);
    else elem_store_mask(x, v, mask);
}
VEC_INLINE vec table(const float *x, vec_mask mask, const bool whole) { return whole ? vec_load(x) : vec_load_mask(x, mask); }

/* One vector of channels of every pixel: tables stay in registers. */
VEC_INLINE void affine_column(const dn_pixels_f32 *job, int32_t c, vec_mask mask, const bool whole, const bool add) {
    const dn_epilogue *e = &job->epilogue;
    vec scale = table(e->scale + c, mask, whole), bias = table(e->bias + c, mask, whole), residual_scale = vec_set(e->residual_scale);
    const elem *x = (const elem *)job->input + c, *residual = add ? (const elem *)job->residual + c : NULL;
    elem *out = (elem *)job->output + c;
    for (int32_t n = job->width; n > 0; n--, x += job->in_step, out += job->out_step) {
        vec v = vec_fma(load(x, mask, whole), scale, bias);
        if (add) {
            v = vec_fma(load(residual, mask, whole), residual_scale, v);
            residual += job->residual_step;
        }
        store(out, finish(v, e), mask, whole);
    }
}

static VEC_TARGET void affine(const dn_pixels_f32 *job) {
    bool add = job->epilogue.flags & DN_EPI_RESIDUAL;
    int32_t c = 0;
    for (; c + VEC <= job->channels; c += VEC) {
        if (add) affine_column(job, c, vec_first(VEC), true, true);
        else affine_column(job, c, vec_first(VEC), true, false);
    }
    if (c < job->channels) {
        if (add) affine_column(job, c, vec_first(job->channels - c), false, true);
        else affine_column(job, c, vec_first(job->channels - c), false, false);
    }
}

VEC_INLINE vec sigmoid_one(vec x) {
    vec round = vec_set(SIGMOID_ROUND), one = vec_set(1);
    vec a = vec_max(vec_set(SIGMOID_LOWEST), vec_minus_abs(x));
    vec z = vec_fma(a, vec_set(SIGMOID_LOG2E), round), n = vec_sub(z, round);
    vec r = vec_fma(n, vec_set(-SIGMOID_LN2_LOW), vec_fma(n, vec_set(-SIGMOID_LN2_HIGH), a));
    vec p = vec_set(SIGMOID_C7);
    p = vec_fma(p, r, vec_set(SIGMOID_C6));
    p = vec_fma(p, r, vec_set(SIGMOID_C5));
    p = vec_fma(p, r, vec_set(SIGMOID_C4));
    p = vec_fma(p, r, vec_set(SIGMOID_C3));
    p = vec_fma(p, r, vec_set(SIGMOID_C2));
    p = vec_add(vec_fma(vec_mul(p, r), r, r), one);
    vec e = vec_mul(p, vec_power(z));
    return vec_div(vec_select_less(x, vec_zero(), e, one), vec_add(one, e));
}

enum unary { SIGMOID, HARDSIGMOID, LEAKY_RELU };
VEC_INLINE vec unary(vec x, const enum unary op, vec slope) {
    switch (op) {
    case SIGMOID: return sigmoid_one(x);
    case HARDSIGMOID: return hardsigmoid(x);
    case LEAKY_RELU: return vec_select_less(vec_zero(), x, x, vec_mul(x, slope));
    }
    return x;
}

/* op is a constant wherever this is called. Pixels without gaps are one long pixel. */
VEC_INLINE void unary_rows(const elem *x, ptrdiff_t in_step, elem *out, ptrdiff_t out_step, int32_t width, ptrdiff_t channels, const enum unary op, float slope) {
    if (in_step == channels && out_step == channels) {
        channels *= width;
        width = 1;
    }
    vec s = vec_set(slope);
    for (int32_t p = 0; p < width; p++, x += in_step, out += out_step) {
        ptrdiff_t c = 0;
        for (; c + VEC <= channels; c += VEC) elem_store(out + c, unary(elem_load(x + c), op, s));
        if (c < channels) {
            vec_mask mask = vec_first((int)(channels - c));
            elem_store_mask(out + c, unary(elem_load_mask(x + c, mask), op, s), mask);
        }
    }
}

static VEC_TARGET void sigmoid(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels) {
    unary_rows(x, in_step, out, out_step, width, channels, SIGMOID, 0);
}
static VEC_TARGET void hardsigmoid_rows(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels) {
    unary_rows(x, in_step, out, out_step, width, channels, HARDSIGMOID, 0);
}
static VEC_TARGET void leaky_relu(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels, float slope) {
    unary_rows(x, in_step, out, out_step, width, channels, LEAKY_RELU, slope);
}

static VEC_TARGET void mul(const void *first, ptrdiff_t a_step, const void *second, ptrdiff_t b_step, void *output, ptrdiff_t out_step, int32_t width, int32_t channels) {
    const elem *a = first, *b = second;
    elem *out = output;
    for (int32_t p = 0; p < width; p++, a += a_step, b += b_step, out += out_step) {
        int32_t c = 0;
        for (; c + VEC <= channels; c += VEC) elem_store(out + c, vec_mul(elem_load(a + c), elem_load(b + c)));
        if (c < channels) {
            vec_mask mask = vec_first(channels - c);
            elem_store_mask(out + c, vec_mul(elem_load_mask(a + c, mask), elem_load_mask(b + c, mask)), mask);
        }
    }
}
