/* dwconv_f32_neon.c - rows of a float depthwise convolution for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/elem_f32_template.h"
#include "kernels/dwconv_float_template.h"

const dn_dwconv_f32 dn_dwconv_f32_neon = {"neon", run};
#endif
