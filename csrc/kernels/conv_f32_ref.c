/* conv_f32_ref.c - convolution tiles in float: the definition. */
#include "kernels/elem_f32_ref.h"
#include "kernels/conv_float_ref.h"

const dn_conv_f32 dn_conv_f32_ref = {"ref", variants, sizeof variants / sizeof *variants, NULL, NULL};
