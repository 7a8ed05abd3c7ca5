/* pointwise_bf16_ref.c - element-wise operations on rows of pixels in bfloat16: the definition. */
#include "kernels/elem_bf16_ref.h"
#include "kernels/pointwise_float_ref.h"

const dn_pointwise_bf16 dn_pointwise_bf16_ref = {"ref", affine, mul, sigmoid, hardsigmoid_row, leaky_relu};
