/* madd_avx2.h - sums of 16-bit products, written so that gcc 12 leaves them where they are. */
#ifndef DN_KERNELS_MADD_AVX2_H
#define DN_KERNELS_MADD_AVX2_H

#include "kernels/epilogue_avx2.h"

/* *c += a * b in one statement: gcc 12 would reassociate sums over unrolled steps and spill, and copies some of them in the loop where only the add is opaque. */
AVX2_INLINE void multiply_add(__m256i *c, __m256i a, __m256i b) {
    __m256i product;
    __asm__("vpmaddwd %3,%2,%1\n\tvpaddd %1,%0,%0" : "+x"(*c), "=&x"(product) : "x"(a), "x"(b));
}

/* c += a * b of two sums. */
AVX2_INLINE void multiply_add_two(__m256i c[2], __m256i a, __m256i b0, __m256i b1) {
    __m256i product;
    __asm__("vpmaddwd %4,%3,%2\n\tvpaddd %2,%0,%0\n\tvpmaddwd %5,%3,%2\n\tvpaddd %2,%1,%1" : "+&x"(c[0]), "+&x"(c[1]), "=&x"(product) : "x"(a), "x"(b0), "x"(b1));
}

#endif
