/* pool_bf16_avx2.c - pooling of one window in bfloat16 for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/elem_bf16_avx2.h"
#include "kernels/pool_float_template.h"

const dn_pool_bf16 dn_pool_bf16_avx2 = {"avx2", max, avg};
#endif
