/* tile_avx512.h - where the pixels of a convolution tile are, for the AVX-512 kernels of int8 and bfloat16. */
#ifndef DN_KERNELS_TILE_AVX512_H
#define DN_KERNELS_TILE_AVX512_H

#include <stddef.h>

enum { MAX_KEPT = 8 }; /* pixels whose places stay in general registers; those of the others are read again at every step */

/* Distance of pixel i < 8 from the first, with 3, 5 and 7 steps made beforehand so that every address is one operand. */
static inline __attribute__((always_inline)) ptrdiff_t row_offset(int i, ptrdiff_t step, ptrdiff_t step3, ptrdiff_t step5, ptrdiff_t step7) {
    return i == 3 ? step3 : i == 5 ? step5 : i == 6 ? 2 * step3 : i == 7 ? step7 : i * step;
}

#endif
