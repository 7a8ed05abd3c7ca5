/* dwconv_bf16_ref.c - depthwise convolution in bfloat16: the definition. */
#include "kernels/elem_bf16_ref.h"
#include "kernels/dwconv_float_ref.h"

const dn_dwconv_bf16 dn_dwconv_bf16_ref = {"ref", run};
