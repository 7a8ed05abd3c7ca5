/* cpu.c - CPU detection through cpuid/xgetbv on x86-64, the operating system's word on aarch64. */
#define _GNU_SOURCE
#include "base/cpu.h"

#include <stdatomic.h>

static const unsigned ASKED = 1u << 30;

#if defined(__x86_64__)
#include <cpuid.h>

static unsigned long long enabled_state(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (unsigned long long)high << 32 | low;
}

static unsigned detect(void) {
    unsigned a, b, c, d, features = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA) || !(c & bit_F16C)) return 0;
    unsigned long long state = enabled_state();
    unsigned a7, b7, c7, d7, a71 = 0, unused;
    if ((state & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7) || !(b7 & bit_AVX2)) return 0;
    if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &unused, &unused, &unused);
    features |= DN_CPU_AVX2;
    if (a71 & 1u << 4) features |= DN_CPU_AVXVNNI;
    const unsigned wanted = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((state & 0xe6) == 0xe6 && (b7 & wanted) == wanted) {
        features |= DN_CPU_AVX512;
        if (c7 & 1u << 11) features |= DN_CPU_AVX512VNNI;
        if (a71 & 1u << 5) features |= DN_CPU_AVX512BF16;
    }
    return features;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
static unsigned detect(void) { return DN_CPU_NEON | (getauxval(AT_HWCAP) & (1ul << 20) ? DN_CPU_DOTPROD : 0); } /* HWCAP_ASIMDDP */
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
static unsigned detect(void) {
    int found = 0;
    size_t size = sizeof found;
    if (sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, NULL, 0)) found = 0;
    return DN_CPU_NEON | (found ? DN_CPU_DOTPROD : 0);
}
#elif defined(__aarch64__)
static unsigned detect(void) { return DN_CPU_NEON; }
#else
static unsigned detect(void) { return 0; }
#endif

/* cpuid traps in virtual machines (25 us on one): ask once. The top bit marks a stored answer; racing threads store the same. */
unsigned dn_cpu_detect(void) {
    static atomic_uint known;
    unsigned features = atomic_load_explicit(&known, memory_order_relaxed);
    if (features) return features & ~ASKED;
    features = detect();
    atomic_store_explicit(&known, features | ASKED, memory_order_relaxed);
    return features;
}

unsigned dn_isa_features(dn_isa isa) {
    switch (isa) {
    case DN_ISA_REF: return 0;
    case DN_ISA_AVX2: return DN_CPU_AVX2;
    case DN_ISA_AVXVNNI: return DN_CPU_AVX2 | DN_CPU_AVXVNNI;
    case DN_ISA_AVX512: return DN_CPU_AVX2 | DN_CPU_AVX512 | DN_CPU_AVX512VNNI | DN_CPU_AVX512BF16;
    case DN_ISA_NEON: return DN_CPU_NEON;
    case DN_ISA_NEONDOT: return DN_CPU_NEON | DN_CPU_DOTPROD;
    case DN_ISA_BEST: return ~0u;
    }
    return 0;
}

const char *dn_isa_name(dn_isa isa) {
    switch (isa) {
    case DN_ISA_REF: return "ref";
    case DN_ISA_AVX2: return "avx2";
    case DN_ISA_AVXVNNI: return "avxvnni";
    case DN_ISA_AVX512: return "avx512";
    case DN_ISA_NEON: return "neon";
    case DN_ISA_NEONDOT: return "neondot";
    case DN_ISA_BEST: return "best";
    }
    return "";
}

int dn_isa_available(dn_isa isa) {
    unsigned cpu = dn_cpu_detect();
    switch (isa) {
    case DN_ISA_REF:
    case DN_ISA_BEST: return 1;
    case DN_ISA_AVX2: return (cpu & DN_CPU_AVX2) != 0;
    case DN_ISA_AVXVNNI: return (cpu & DN_CPU_AVXVNNI) != 0;
    case DN_ISA_AVX512: return (cpu & DN_CPU_AVX512VNNI) != 0;
    case DN_ISA_NEON: return (cpu & DN_CPU_NEON) != 0;
    case DN_ISA_NEONDOT: return (cpu & DN_CPU_DOTPROD) != 0;
    }
    return 0;
}
