/* wino_f32_avx512.c - transforms of Winograd in float in vectors of 16. */
#if defined(__x86_64__)
#define ISA avx512
#define ISA_NAME "avx512"
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define WIDE 16
#include "kernels/wino_f32_template.h"
#else
typedef int dn_wino_f32_avx512_unused;
#endif
