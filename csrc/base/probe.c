/* probe.c - loops of nothing but dot products in registers. */
#include "base/probe.h"

#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "base/cpu.h"

/* Twelve sums that do not wait for one another: latency times throughput is at most ten for every dot product here. They are named variables in one statement of assembly,
 * so that the compiler can neither spill nor copy them. product(n) is the text that adds a product to operand n; 12 is scratch, 13 and 14 are the factors. */
#define PROBE(name, element, bytes, features, place, product)                                                                                         \
    __attribute__((target(features))) static void name(int64_t rounds) {                                                                              \
        typedef element vector __attribute__((vector_size(bytes)));                                                                                   \
        vector a = (vector){0} + 1, b = a, t, c0 = {0}, c1 = c0, c2 = c0, c3 = c0, c4 = c0, c5 = c0, c6 = c0, c7 = c0, c8 = c0, c9 = c0, c10 = c0;    \
        vector c11 = c0;                                                                                                                              \
        for (; rounds > 0; rounds--)                                                                                                                  \
            __asm__ volatile(product("0") product("1") product("2") product("3") product("4") product("5") product("6") product("7") product("8")     \
                             product("9") product("10") product("11")                                                                                 \
                             : "+" place(c0), "+" place(c1), "+" place(c2), "+" place(c3), "+" place(c4), "+" place(c5), "+" place(c6), "+" place(c7), \
                               "+" place(c8), "+" place(c9), "+" place(c10), "+" place(c11), "=&" place(t)                                            \
                             : place(a), place(b));                                                                                                   \
    }

typedef struct family {
    const char *type, *isa; /* how a kernel's name ends before and after the space */
    unsigned features;
    dn_probe_loop loop;
} family;
enum { PRODUCTS = 12 };

#if defined(__x86_64__)
#define FMA(n) "vfmadd231ps %13,%14,%" n "\n\t"
#define DOT(n) "vpdpbusd %13,%14,%" n "\n\t"
#define DOT_VEX(n) "%{vex%} vpdpbusd %13,%14,%" n "\n\t"
#define DOT_BF16(n) "vdpbf16ps %13,%14,%" n "\n\t"
#define MADD(n) "vpmaddwd %13,%14,%12\n\tvpaddd %12,%" n ",%" n "\n\t"

PROBE(fma_256, float, 32, "avx2,fma", "x", FMA)
PROBE(fma_512, float, 64, "avx512f", "v", FMA)
PROBE(madd_256, short, 32, "avx2", "x", MADD)
PROBE(dot_256, char, 32, "avx2", "x", DOT_VEX)
PROBE(dot_512, char, 64, "avx512f,avx512bw", "v", DOT)
PROBE(dot_bf16_512, float, 64, "avx512f", "v", DOT_BF16)

static const family families[] = {
    {"s8", "avx2", DN_CPU_AVX2, {madd_256, PRODUCTS * 16}},     {"s8", "avxvnni", DN_CPU_AVXVNNI, {dot_256, PRODUCTS * 32}},
    {"s8", "avx512", DN_CPU_AVX512VNNI, {dot_512, PRODUCTS * 64}}, {"f32", "avx2", DN_CPU_AVX2, {fma_256, PRODUCTS * 8}},
    {"f32", "avx512", DN_CPU_AVX512, {fma_512, PRODUCTS * 16}}, {"bf16", "avx2", DN_CPU_AVX2, {fma_256, PRODUCTS * 8}},
    {"bf16", "avx512", DN_CPU_AVX512, {fma_512, PRODUCTS * 16}}, {"bf16", "avx512bf16", DN_CPU_AVX512BF16, {dot_bf16_512, PRODUCTS * 32}},
};
#elif defined(__aarch64__)
#define FMLA(n) "fmla %" n ".4s, %13.4s, %14.4s\n\t"
#define SDOT(n) "sdot %" n ".4s, %13.16b, %14.16b\n\t"

PROBE(fma_128, float, 16, "+simd", "w", FMLA)
PROBE(dot_128, char, 16, "arch=armv8.2-a+dotprod", "w", SDOT)

static const family families[] = {{"s8", "neondot", DN_CPU_DOTPROD, {dot_128, PRODUCTS * 16}}, {"f32", "neon", DN_CPU_NEON, {fma_128, PRODUCTS * 4}}};
#else
static const family families[] = {{"", "", 0, {NULL, 0}}};
#endif

static bool equals(const char *text, size_t length, const char *word) { return strlen(word) == length && memcmp(text, word, length) == 0; }

dn_probe_loop dn_probe_find(const char *kernel) {
    const size_t slot = strcspn(kernel, " "), skip = slot + (kernel[slot] == ' '), isa = strcspn(kernel + skip, " ");
    size_t type = slot;
    while (type > 0 && kernel[type - 1] != '_') type--;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const family *f = &families[i];
        if (equals(kernel + type, slot - type, f->type) && equals(kernel + skip, isa, f->isa) && (dn_cpu_detect() & f->features)) return f->loop;
    }
    return (dn_probe_loop){0};
}

double dn_probe_time(const dn_probe_loop *loop, int64_t rounds) {
    int64_t start = dn_clock_ns();
    loop->run(rounds);
    return (double)(dn_clock_ns() - start) * 1e-9;
}

/* The fastest of some blocks of about 100 us, after the first ones have woken the vector units up. */
double dn_probe(const char *kernel) {
    enum { BLOCKS = 24, ROUNDS = 30000 };
    const dn_probe_loop loop = dn_probe_find(kernel);
    if (!loop.run) return 0;
    double fastest = 1;
    for (int i = 0; i < BLOCKS; i++) {
        double seconds = dn_probe_time(&loop, ROUNDS);
        if (seconds < fastest) fastest = seconds;
    }
    return loop.macs * ROUNDS / fastest;
}
