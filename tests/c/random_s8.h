/* random_s8.h - random and extreme operands for the checks of byte kernels. */
#ifndef DN_TEST_RANDOM_S8_H
#define DN_TEST_RANDOM_S8_H

#include "guard.h"

#include "kernels/kernels.h"

static inline int pick(int low, int high) { return low + guard_below(high - low + 1); }
static inline float choose(const float *list, int n) { return list[guard_below(n)]; }

static inline void fill_activations(uint8_t *p, size_t n) {
    int kind = guard_below(4);
    for (size_t i = 0; i < n; i++) p[i] = kind == 0 ? 255 : kind == 1 ? (uint8_t)(guard_below(2) * 255) : (uint8_t)guard_random();
}

static inline void fill_weights(int8_t *p, size_t n) {
    static const int8_t extreme[3] = {-128, -127, 127};
    int kind = guard_below(5);
    int8_t fixed = extreme[guard_below(3)];
    for (size_t i = 0; i < n; i++) p[i] = kind == 0 ? fixed : kind == 1 ? extreme[guard_below(3)] : kind == 2 ? (int8_t)pick(-2, 2) : (int8_t)guard_random();
}

/* Tables of a multiple of 16 floats. Powers of two make exact halves, which tell rounding to even from rounding up; the large ones clamp, the tiny ones leave the bias;
 * every other epilogue has none that are too large for DN_EPI_BOUNDED. */
static inline void fill_epilogue(dn_epilogue *e, float *scale, float *bias, int n) {
    static const float scales[] = {0.5f, 0.25f, 0x1p-8f, 0x1p-10f, 1e-6f, 1e6f, 1e30f}, lows[] = {0, 0, 3, 128}, highs[] = {255, 255, 200, 129};
    int kind = guard_below(3), bounded = guard_below(2);
    for (int i = 0; i < n; i++) {
        scale[i] = kind == 0 ? choose(scales + bounded, 7 - 3 * bounded) : kind == 1 ? 0.5f / (float)(1 + bounded) : guard_float() * 0.003f;
        bias[i] = kind == 0 ? guard_float() * 1000 : kind == 1 ? (float)pick(-300, 300) / 2 : 100 * guard_float();
    }
    *e = (dn_epilogue){.scale = scale,
                       .bias = bias,
                       .residual_scale = guard_below(2) ? 0.5f : guard_float(),
                       .lo = bounded ? 0 : choose(lows, 4),
                       .hi = choose(highs, 4),
                       .out_scale = guard_float() * 20,
                       .out_zero = (float)guard_below(256)};
    if (guard_below(2)) e->flags |= DN_EPI_RESIDUAL;
    if (bounded) e->flags |= DN_EPI_BOUNDED;
    else if (guard_below(2)) e->flags |= DN_EPI_HARDSWISH;
}

static inline void fill_view(int8_t *add, int8_t *mask) {
    static const int bits[] = {8, 4, 3, 2, 5};
    int b = bits[guard_below(5)];
    *add = b == 8 ? 0 : (int8_t)(1 << (7 - b));
    *mask = (int8_t)-(1 << (8 - b));
    if (guard_below(8) == 0) *add = (int8_t)guard_random(), *mask = (int8_t)guard_random();
}

/* Copy of a guarded block that may be written and compared. */
static inline guarded twin(guarded g) {
    guarded t = guard_alloc(g.bytes, 0);
    memcpy(t.data, g.data, g.bytes);
    return t;
}

/* Equal in the block and in the slack before it. */
static inline int same(guarded a, guarded b) {
    const uint8_t *page_a = (const uint8_t *)a.map + sysconf(_SC_PAGESIZE), *page_b = (const uint8_t *)b.map + sysconf(_SC_PAGESIZE);
    return !memcmp(page_a, page_b, a.map_bytes - 2 * (size_t)sysconf(_SC_PAGESIZE));
}

static inline void fill_random(guarded g) {
    for (size_t i = 0; i < g.bytes; i++) g.data[i] = (uint8_t)guard_random();
}

#endif
