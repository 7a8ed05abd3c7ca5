/* cpu.h - what this CPU can run, as an argument that callers may lower. */
#ifndef DN_BASE_CPU_H
#define DN_BASE_CPU_H

#include "dynadnn.h"

enum {
    DN_CPU_AVX2 = 1 << 0, /* with FMA and F16C */
    DN_CPU_AVXVNNI = 1 << 1,
    DN_CPU_AVX512 = 1 << 2, /* F, BW, DQ, VL */
    DN_CPU_AVX512VNNI = 1 << 3,
    DN_CPU_AVX512BF16 = 1 << 4,
    DN_CPU_NEON = 1 << 5,    /* AdvSIMD: every aarch64 */
    DN_CPU_DOTPROD = 1 << 6, /* sdot, udot */
};

/* Features of this CPU that the operating system has switched on. */
unsigned dn_cpu_detect(void);
/* The features kernels of this level and below may use; DN_ISA_BEST allows all. */
unsigned dn_isa_features(dn_isa isa);

#endif
