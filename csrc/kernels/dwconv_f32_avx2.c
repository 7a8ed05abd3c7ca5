/* dwconv_f32_avx2.c - rows of a float depthwise convolution for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx2.h"
#include "kernels/elem_f32_template.h"
#include "kernels/dwconv_float_template.h"

const dn_dwconv_f32 dn_dwconv_f32_avx2 = {"avx2", run};
#endif
