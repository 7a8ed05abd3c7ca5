/* power.h - exp and log without branches or tables, so that loops over them vectorise and every CPU gives the same bits.
 *
 * Crossover and mutation spend their time in powers. libm's pow is not vectorised, and its last bit depends on the CPU, which would make a seed's result depend on it too.
 * Relative error of dn_power below 3e-13 for exponents up to 30 in absolute value, results in 1e-300 .. 1e300 (tests/c/check_search.c compares with libm). */
#ifndef DN_SEARCH_POWER_H
#define DN_SEARCH_POWER_H

#include <stdint.h>
#include <string.h>

static inline double dn_from_bits(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t dn_to_bits(double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* yes if condition (0 or 1) else no. Spelled with masks: gcc does not turn a conditional on floating-point comparisons into vector code. */
static inline double dn_select(int condition, double yes, double no) {
    uint64_t mask = (uint64_t)0 - (uint64_t)condition;
    return dn_from_bits((dn_to_bits(yes) & mask) | (dn_to_bits(no) & ~mask));
}

/* Natural logarithm of a positive normal number. x = 2^e m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1)/(m + 1), |s| <= 0.172: the first term left
 * out of the series, s^23/23, is below 2e-19. */
static inline double dn_log(double x) {
    const uint64_t half_root = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u; /* sqrt(1/2), 1 */
    uint64_t bits = dn_to_bits(x), biased = (bits - half_root + one) >> 52;     /* e + 1023 */
    double m = dn_from_bits(bits - (biased << 52) + one);
    double e = dn_from_bits(biased | 0x4330000000000000u) - 0x1p52 - 1023.0;
    double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 21;
    p = p * z + 1.0 / 19;
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    return e * 0x1.62e42fee00000p-1 + (e * 0x1.a39ef35793c76p-33 + (2.0 * s + 2.0 * s * z * p)); /* ln 2 in two parts */
}

/* e^x; x outside [-708, 709] counts as that bound. x = k ln 2 + r, |r| <= 0.347; the first term left out, r^14/14!, is below 5e-18. */
static inline double dn_exp(double x) {
    const double magic = 0x1.8p52; /* adding it rounds to an integer, left in the low bits */
    x = dn_select(x < -708.0, -708.0, x);
    x = dn_select(x > 709.0, 709.0, x);
    double shifted = x * 0x1.71547652b82fep0 + magic, k = shifted - magic;
    double r = x - k * 0x1.62e42fee00000p-1 - k * 0x1.a39ef35793c76p-33;
    double p = 1.0 / 6227020800.0;
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return p * dn_from_bits((dn_to_bits(shifted) + 1023) << 52);
}

static inline double dn_power(double base, double exponent) { return dn_exp(exponent * dn_log(base)); }

#endif
