/* pointwise_f32_avx512.c - element-wise float operations on rows of pixels for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/elem_f32_template.h"
#include "kernels/pointwise_float_template.h"

const dn_pointwise_f32 dn_pointwise_f32_avx512 = {"avx512", affine, mul, sigmoid, hardsigmoid_rows, leaky_relu};
#endif
