/* alloc.c - aligned allocation with a live count and a fail-the-n-th hook (dn_alloc_fail_at) for tests; large blocks in huge pages. */
#define _GNU_SOURCE
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/status.h"

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <sys/mman.h>
#endif

/* Blocks come zeroed and, if large, untouched, so that a page costs time only when it is used. What to give back stands before the aligned pointer. */
enum { ALIGNMENT = 64 };

typedef struct owner {
    void *block;
    size_t mapped; /* bytes of a mapping, 0 if from calloc */
} owner;

static atomic_llong fail_countdown; /* 0: never; n: the n-th allocation from now fails */
static atomic_llong live_blocks;

void dn_alloc_fail_at(int64_t n) { atomic_store(&fail_countdown, n > 0 ? n : 0); }

int64_t dn_alloc_fail_left(void) { return atomic_load(&fail_countdown); }

int64_t dn_alloc_live(void) { return atomic_load(&live_blocks); }

static int must_fail(void) {
    long long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    return left > 0 && atomic_fetch_sub(&fail_countdown, 1) == 1;
}

#ifdef MADV_HUGEPAGE
/* Weights that every image reads once miss the look-aside buffer at each 4 KiB: in pages of 2 MiB, float networks of 9 to 100 MB take .92 to .98 of the time. A smaller block
 * would leave much of a huge page unused. */
enum { HUGE_PAGE = 2 << 20, LARGE = 4 << 20, ANY_PAGE = 64 << 10 };

/* Zeroed bytes from the system that begin a huge page, NULL if it has none. */
static void *map_large(size_t bytes, size_t *mapped) {
    size_t whole = dn_round_up(bytes, ANY_PAGE) + HUGE_PAGE;
    char *start = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    char *block = (char *)dn_round_up((uintptr_t)start, HUGE_PAGE);
    *mapped = whole - HUGE_PAGE;
    if (block > start) munmap(start, (size_t)(block - start));
    if (block < start + HUGE_PAGE) munmap(block + *mapped, (size_t)(start + HUGE_PAGE - block));
    madvise(block, *mapped, MADV_HUGEPAGE); /* advice: where it is not taken, pages are small */
    return block;
}

static void *get_block(size_t bytes, size_t *mapped) {
    *mapped = 0;
    return bytes < LARGE ? calloc(1, bytes) : map_large(bytes, mapped);
}

static void give_back(owner o) {
    if (o.mapped) munmap(o.block, o.mapped);
    else free(o.block);
}
#else
static void *get_block(size_t bytes, size_t *mapped) {
    *mapped = 0;
    return calloc(1, bytes);
}

static void give_back(owner o) { free(o.block); }
#endif

dn_status dn_alloc(void **out, size_t count, size_t size, dn_error *err) {
    *out = NULL;
    size_t bytes;
    if (!dn_size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return dn_fail(err, DN_ENOMEM, "%zu items of %zu bytes do not fit in memory", count, size);
    owner o;
    o.block = must_fail() ? NULL : get_block(dn_round_up(bytes, ALIGNMENT) + ALIGNMENT + sizeof o, &o.mapped);
    if (!o.block) return dn_fail(err, DN_ENOMEM, "out of memory: %zu bytes", bytes);
    char *aligned = (char *)dn_round_up((uintptr_t)o.block + sizeof o, ALIGNMENT);
    memcpy(aligned - sizeof o, &o, sizeof o);
    atomic_fetch_add(&live_blocks, 1);
    *out = aligned;
    return DN_OK;
}

void dn_free(void *p) {
    if (!p) return;
    owner o;
    memcpy(&o, (char *)p - sizeof o, sizeof o);
    atomic_fetch_sub(&live_blocks, 1);
    give_back(o);
}
