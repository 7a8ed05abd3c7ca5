/* dwconv_f32_ref.c - depthwise convolution in float: the definition. */
#include "kernels/elem_f32_ref.h"
#include "kernels/dwconv_float_ref.h"

const dn_dwconv_f32 dn_dwconv_f32_ref = {"ref", run};
