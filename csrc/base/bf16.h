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

/* To nearest, ties to even; what is too large becomes infinite, a NaN stays one. */
static inline uint16_t dn_bf16_round(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* The same, widened again, in a form that compilers turn into vectors. */
static inline float dn_bf16_nearest(float value) {
    uint32_t bits, kept;
    memcpy(&bits, &value, sizeof bits);
    kept = (bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1);
    kept &= 0xffff0000;
    memcpy(&value, &kept, sizeof value);
    return value;
}

#endif
