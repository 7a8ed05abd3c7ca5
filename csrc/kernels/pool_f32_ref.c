/* pool_f32_ref.c - pooling of one window in float: the definition. */
#include "kernels/elem_f32_ref.h"
#include "kernels/pool_float_ref.h"

const dn_pool_f32 dn_pool_f32_ref = {"ref", max, avg};
