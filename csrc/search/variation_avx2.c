/* variation_avx2.c - the batches of variation.c compiled for AVX2. The same C without contraction: the same bits. */
#if defined(__x86_64__)
#define BATCH_TARGET __attribute__((target("avx2")))
#define BATCH_FUNCTION dn_batch_avx2
#include "search/variation_template.h"
#else
typedef int dn_variation_avx2_is_empty;
#endif
