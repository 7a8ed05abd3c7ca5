/* elem_bf16_ref.h - what the float reference kernels read and write: bfloat16. */
#ifndef DN_KERNELS_ELEM_BF16_REF_H
#define DN_KERNELS_ELEM_BF16_REF_H

#include "base/bf16.h"
#include "kernels/ref_float.h"

typedef uint16_t elem;
static inline float widen_one(elem x) { return dn_bf16_widen(x); }
static inline elem narrow(float x) { return dn_bf16_round(x); }
/* Place of a channel's weight for one output in a panel of a convolution: pairs of channels stand together. */
static inline int32_t weight_place(int32_t channel, int32_t output) { return channel / 2 * 32 + output * 2 + channel % 2; }
/* The k-th of `count` channels that a sum takes: of two that stand together the second first, as the CPUs' dot products of pairs do. */
static inline int32_t channel_at(int32_t k, int32_t count) { return (k ^ 1) < count ? k ^ 1 : k; }

#endif
