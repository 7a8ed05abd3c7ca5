/* pointwise_f32_ref.c - element-wise operations on rows of pixels in float: the definition. */
#include "kernels/elem_f32_ref.h"
#include "kernels/pointwise_float_ref.h"

const dn_pointwise_f32 dn_pointwise_f32_ref = {"ref", affine, mul, sigmoid, hardsigmoid_row, leaky_relu};
