/* pointwise_f32_neon.c - element-wise float operations on rows of pixels for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/elem_f32_template.h"
#include "kernels/pointwise_float_template.h"

const dn_pointwise_f32 dn_pointwise_f32_neon = {"neon", affine, mul, sigmoid, hardsigmoid_rows, leaky_relu};
#endif
