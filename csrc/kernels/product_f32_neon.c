/* product_f32_neon.c - rows times panels for NEON. */
#include "kernels/kernels.h"

#if defined(__aarch64__)
#include "kernels/vec_neon.h"
#include "kernels/product_f32_template.h"

/* The tile of conv_f32, see there. */
PRODUCT(6, 1)

static const dn_product_f32_variant variants[] = {PRODUCT_VARIANT(6, 1)};

const dn_product_f32 dn_product_f32_neon = {"neon", variants, sizeof variants / sizeof *variants};
#endif
