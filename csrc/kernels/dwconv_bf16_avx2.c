/* dwconv_bf16_avx2.c - depthwise convolution in bfloat16 for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/elem_bf16_avx2.h"
#include "kernels/dwconv_float_template.h"

const dn_dwconv_bf16 dn_dwconv_bf16_avx2 = {"avx2", run};
#endif
