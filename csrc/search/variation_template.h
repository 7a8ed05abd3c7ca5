/* variation_template.h - the arithmetic of crossover and mutation on batches; included once per instruction set, with BATCH_FUNCTION and BATCH_TARGET defined. */
#include "search/power.h"
#include "search/variation.h"

/* 52 random bits to the middle of one of 2^52 equal parts of (0, 1): never 0, never 1. */
BATCH_TARGET static inline double open_unit(uint64_t random) { return dn_from_bits(random >> 12 | 0x3ff0000000000000u) - (1.0 - 0x1p-53); }

BATCH_TARGET static inline double clip(double x, double low, double high) {
    x = dn_select(x < low, low, x);
    return dn_select(x > high, high, x);
}

/* One function per loop: a power is a long chain of dependent steps, and only short loop bodies let the CPU work on several at once. */
BATCH_TARGET static void log_all(double *restrict x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = dn_log(x[i]);
}

BATCH_TARGET static void exp_all(double *restrict x, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] = dn_exp(x[i]);
}

/* Spread factors of the children on one side. x: 1 + 2 room / distance, where room lies between the parent and the bound on that side, at which the distribution is cut
 * off. alpha u <= 1 picks the contracting half. */
BATCH_TARGET static void spread(double *restrict x, double *restrict exponent, const uint64_t *restrict random, size_t n, double power) {
    double root = 1.0 / power;
    log_all(x, n);
    for (size_t i = 0; i < n; i++) x[i] *= -power;
    exp_all(x, n);
    for (size_t i = 0; i < n; i++) {
        double v = open_unit(random[i]) * (2.0 - x[i]);
        exponent[i] = dn_select(v <= 1.0, root, -root);
        x[i] = dn_select(v <= 1.0, v, 2.0 - v);
    }
    log_all(x, n);
    for (size_t i = 0; i < n; i++) x[i] *= exponent[i];
    exp_all(x, n);
}

/* Simulated binary crossover: low <= a < b <= high become two children, left and right. */
BATCH_TARGET static void cross(const dn_batch *restrict in, dn_children *restrict out, size_t n, double eta) {
    for (size_t i = 0; i < n; i++) {
        double distance = in->b[i] - in->a[i]; /* its inverse may overflow, these ratios do not */
        out->left[i] = 1.0 + 2.0 * ((in->a[i] - in->low[i]) / distance);
        out->right[i] = 1.0 + 2.0 * ((in->high[i] - in->b[i]) / distance);
    }
    spread(out->left, out->work, in->random, n, eta + 1.0);
    spread(out->right, out->work, in->random, n, eta + 1.0);
    for (size_t i = 0; i < n; i++) {
        double half = .5 * (in->b[i] - in->a[i]), middle = .5 * in->a[i] + .5 * in->b[i];
        out->left[i] = clip(middle - out->left[i] * half, in->low[i], in->high[i]);
        out->right[i] = clip(middle + out->right[i] * half, in->low[i], in->high[i]);
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
