/* fpenv.h - the default floating-point environment (round to nearest even, no flush to zero), whatever the caller has set. */
#ifndef DN_BASE_FPENV_H
#define DN_BASE_FPENV_H

#include <stdint.h>

typedef struct dn_fpenv {
    uint64_t control;
} dn_fpenv;

#if defined(__x86_64__)
#include <xmmintrin.h>
/* 0x1f80: all exceptions masked, nearest even, neither FTZ nor DAZ (Intel SDM 1, 10.2.3). Keeping a value that is already right saves the slow ldmxcsr. */
static inline dn_fpenv dn_fpenv_enter(void) {
    dn_fpenv saved = {_mm_getcsr()};
    if ((saved.control & ~0x3full) != 0x1f80) _mm_setcsr(0x1f80);
    return saved;
}
static inline void dn_fpenv_leave(dn_fpenv saved) {
    if ((saved.control & ~0x3full) != 0x1f80) _mm_setcsr((unsigned)saved.control);
}
#elif defined(__aarch64__)
static inline dn_fpenv dn_fpenv_enter(void) {
    dn_fpenv saved;
    uint64_t standard = 0;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved.control));
    if (saved.control) __asm__ volatile("msr fpcr, %0" : : "r"(standard));
    return saved;
}
static inline void dn_fpenv_leave(dn_fpenv saved) {
    if (saved.control) __asm__ volatile("msr fpcr, %0" : : "r"(saved.control));
}
#else
static inline dn_fpenv dn_fpenv_enter(void) { return (dn_fpenv){0}; }
static inline void dn_fpenv_leave(dn_fpenv saved) { (void)saved; }
#endif

#endif
