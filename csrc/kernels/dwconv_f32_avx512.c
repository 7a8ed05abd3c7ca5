/* dwconv_f32_avx512.c - rows of a float depthwise convolution for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/elem_f32_template.h"
#include "kernels/dwconv_float_template.h"

const dn_dwconv_f32 dn_dwconv_f32_avx512 = {"avx512", run};
#endif
