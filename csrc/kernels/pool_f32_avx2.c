/* pool_f32_avx2.c - float pooling of one window for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx2.h"
#include "kernels/elem_f32_template.h"
#include "kernels/pool_float_template.h"

const dn_pool_f32 dn_pool_f32_avx2 = {"avx2", max, avg};
#endif
