/* pool_f32_avx512.c - float pooling of one window for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/elem_f32_template.h"
#include "kernels/pool_float_template.h"

const dn_pool_f32 dn_pool_f32_avx512 = {"avx512", max, avg};
#endif
