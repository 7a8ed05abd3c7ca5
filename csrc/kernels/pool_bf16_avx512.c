/* pool_bf16_avx512.c - pooling of one window in bfloat16 for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/elem_bf16_avx512.h"
#include "kernels/pool_float_template.h"

const dn_pool_bf16 dn_pool_bf16_avx512 = {"avx512", max, avg};
#endif
