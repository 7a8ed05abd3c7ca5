/* pool_bf16_ref.c - pooling of one window in bfloat16: the definition. */
#include "kernels/elem_bf16_ref.h"
#include "kernels/pool_float_ref.h"

const dn_pool_bf16 dn_pool_bf16_ref = {"ref", max, avg};
