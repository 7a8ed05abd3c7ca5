/* bf16.h - bfloat16, the upper half of a float, one value at a time. */
#ifndef DN_BASE_BF16_H
#define DN_BASE_BF16_H

#include <stdint.h>
#include <string.h>

static inline float dn_bf16_widen(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even; what is too large becomes infinite, a NaN stays one. In a form that compilers turn into vectors. */
static inline uint16_t dn_bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)(bits >> 16);
}

/* The same, widened again. */
static inline float dn_bf16_nearest(float value) { return dn_bf16_widen(dn_bf16_round(value)); }

#endif
