/* lanes_f32.h - vectors of LANES floats in the compiler's own terms, for bodies that are included once per width; whoever includes it undoes its macros with lanes_f32_end.h. */

#define PASTE2(a, b) a##b /* these two stay: whoever includes the bodies joins names too */
#define PASTE(a, b) PASTE2(a, b)
#define INLINE TARGET static inline __attribute__((always_inline))
#define VEC PASTE(vec, LANES)
#define LOOSE PASTE(loose, LANES)
#define MASK PASTE(mask, LANES)
#define NAME(n) PASTE(n, LANES)
#define EACH _Pragma("GCC unroll 4") for (int k = 0; k < K; k++)

typedef float VEC __attribute__((vector_size(4 * LANES)));
typedef float LOOSE __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t MASK __attribute__((vector_size(4 * LANES)));

INLINE VEC NAME(load)(const float *p) { return (VEC) * (const LOOSE *)p; }
INLINE void NAME(store)(float *p, VEC v) { *(LOOSE *)p = (LOOSE)v; }
INLINE VEC NAME(keep)(MASK m, VEC v) { return (VEC)(m & (MASK)v); }
INLINE VEC NAME(pick)(MASK m, VEC yes, VEC no) { return (VEC)((m & (MASK)yes) | (~m & (MASK)no)); }
