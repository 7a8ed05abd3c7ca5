/* wino_f32_avx2.c - transforms of Winograd in float in vectors of 8. */
#if defined(__x86_64__)
#define ISA avx2
#define ISA_NAME "avx2"
#define TARGET __attribute__((target("avx2,fma")))
#define WIDE 8
#include "kernels/wino_f32_template.h"
#else
typedef int dn_wino_f32_avx2_unused;
#endif
