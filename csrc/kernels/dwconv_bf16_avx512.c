/* dwconv_bf16_avx512.c - depthwise convolution in bfloat16 for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/elem_bf16_avx512.h"
#include "kernels/dwconv_float_template.h"

const dn_dwconv_bf16 dn_dwconv_bf16_avx512 = {"avx512", run};
#endif
