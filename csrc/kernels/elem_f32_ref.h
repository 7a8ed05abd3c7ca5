/* elem_f32_ref.h - what the float reference kernels read and write: floats. */
#ifndef DN_KERNELS_ELEM_F32_REF_H
#define DN_KERNELS_ELEM_F32_REF_H

#include "kernels/ref_float.h"

typedef float elem;
static inline float widen_one(elem x) { return x; }
static inline elem narrow(float x) { return x; }
/* Place of a channel's weight for one output in a panel of a convolution. */
static inline int32_t weight_place(int32_t channel, int32_t output) { return channel * 16 + output; }

/* The k-th of `count` channels that a sum takes. */
static inline int32_t channel_at(int32_t k, int32_t count) {
    (void)count;
    return k;
}

#endif
