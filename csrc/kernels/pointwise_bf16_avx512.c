/* pointwise_bf16_avx512.c - element-wise operations on rows of pixels in bfloat16 for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/elem_bf16_avx512.h"
#include "kernels/pointwise_float_template.h"

const dn_pointwise_bf16 dn_pointwise_bf16_avx512 = {"avx512", affine, mul, sigmoid, hardsigmoid_rows, leaky_relu};
#endif
