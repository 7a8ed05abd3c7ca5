/* product_f32_avx512.c - rows times panels for AVX-512. */
#include "kernels/kernels.h"

#if defined(__x86_64__)
#include "kernels/vec_avx512.h"
#include "kernels/product_f32_template.h"

/* The tiles of conv_f32, see there; of one panel not 10 rows, but what divides the rows there are. */
PRODUCT(8, 1)
PRODUCT_APART(12, 2)
PRODUCT(8, 3)
PRODUCT(6, 4)

static const dn_product_f32_variant variants[] = {PRODUCT_VARIANT(8, 1), PRODUCT_VARIANT(12, 2), PRODUCT_VARIANT(8, 3), PRODUCT_VARIANT(6, 4)};

const dn_product_f32 dn_product_f32_avx512 = {"avx512", variants, sizeof variants / sizeof *variants};
#endif
