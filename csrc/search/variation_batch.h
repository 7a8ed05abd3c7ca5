/* variation_batch.h - the arithmetic of crossover and mutation on batches; included once per instruction set, with BATCH_FUNCTION and BATCH_TARGET defined. */
#include "search/power.h"
#include "search/variation.h"

/* 52 random bits to the middle of one of 2^52 equal parts of (0, 1): never 0, never 1. */
BATCH_TARGET static inline double open_unit(uint64_t random) { return dn_from_bits(random >> 12 | 0x3ff0000000000000u) - (1.0 - 0x1p-53); }

BATCH_TARGET static inline double clip(double x, double low, double high) {
    x = dn_select(x < low, low, x);
    return dn_select(x > high, high, x);
}

/* Spread factor of one child whose parents leave `room` to the bound on its side: the distribution is cut off at the bound. alpha u <= 1 picks the contracting half. */
BATCH_TARGET static inline double spread(double u, double room, double distance, double power) {
    double alpha = 2.0 - dn_exp(-power * dn_log(1.0 + 2.0 * room / distance));
    double v = u * alpha, w = 2.0 - v, root = 1.0 / power;
    return dn_exp(dn_select(v <= 1.0, root, -root) * dn_log(dn_select(v <= 1.0, v, w)));
}

/* Simulated binary crossover: low <= a < b <= high become two children, left and right. */
BATCH_TARGET static void cross(const dn_batch *restrict in, dn_children *restrict out, size_t n, double eta) {
    for (size_t i = 0; i < n; i++) {
        double a = in->a[i], b = in->b[i], distance = b - a, middle = .5 * a + .5 * b, u = open_unit(in->random[i]);
        double left = middle - .5 * spread(u, a - in->low[i], distance, eta + 1.0) * distance;
        double right = middle + .5 * spread(u, in->high[i] - b, distance, eta + 1.0) * distance;
        out->left[i] = clip(left, in->low[i], in->high[i]);
        out->right[i] = clip(right, in->low[i], in->high[i]);
    }
}

/* Polynomial mutation of a; both halves of the distribution are one formula in the distance to the bound on that side. */
BATCH_TARGET static void mutate(const dn_batch *restrict in, dn_children *restrict out, size_t n, double eta) {
    double power = eta + 1.0, root = 1.0 / power;
    for (size_t i = 0; i < n; i++) {
        double a = in->a[i], low = in->low[i], high = in->high[i], u = open_unit(in->random[i]);
        double below = a - low, above = high - a, range = high - low;
        double v = 2.0 * dn_select(u < .5, u, 1.0 - u), room = dn_select(u < .5, below, above), sign = dn_select(u < .5, 1.0, -1.0);
        double rest = 1.0 - room / range;
        rest = dn_select(rest < 0x1p-1000, 0x1p-1000, rest); /* at the other bound; its power vanishes */
        double step = dn_exp(root * dn_log(v + (1.0 - v) * dn_exp(power * dn_log(rest)))) - 1.0;
        out->left[i] = clip(a + sign * step * range, low, high);
    }
}

const dn_batch_ops BATCH_FUNCTION = {cross, mutate};
