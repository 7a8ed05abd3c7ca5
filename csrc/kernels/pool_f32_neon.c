/* pool_f32_neon.c - float pooling of one window for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/elem_f32_template.h"
#include "kernels/pool_float_template.h"

const dn_pool_f32 dn_pool_f32_neon = {"neon", max, avg};
#endif
