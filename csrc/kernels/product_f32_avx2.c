/* product_f32_avx2.c - rows times panels for AVX2 with FMA. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx2.h"
#include "kernels/product_f32_template.h"

/* The tile of conv_f32, see there. */
PRODUCT(6, 1)

static const dn_product_f32_variant variants[] = {PRODUCT_VARIANT(6, 1)};

const dn_product_f32 dn_product_f32_avx2 = {"avx2", variants, sizeof variants / sizeof *variants};
#endif
