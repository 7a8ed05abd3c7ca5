/* alloc.c - aligned allocation with a live count and a fail-the-n-th hook (dn_alloc_fail_at) for tests. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/status.h"

/* calloc gets large blocks from the system zeroed and untouched, so that a page costs time only when it is used; the pointer to give back stands before the aligned one. */
enum { ALIGNMENT = 64 };

static atomic_llong fail_countdown; /* 0: never; n: the n-th allocation from now fails */
static atomic_llong live_blocks;

void dn_alloc_fail_at(int64_t n) { atomic_store(&fail_countdown, n > 0 ? n : 0); }

int64_t dn_alloc_fail_left(void) { return atomic_load(&fail_countdown); }

int64_t dn_alloc_live(void) { return atomic_load(&live_blocks); }

static int must_fail(void) {
    long long left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    return left > 0 && atomic_fetch_sub(&fail_countdown, 1) == 1;
}

dn_status dn_alloc(void **out, size_t count, size_t size, dn_error *err) {
    *out = NULL;
    size_t bytes;
    if (!dn_size_mul(count, size, &bytes) || bytes > SIZE_MAX / 2) return dn_fail(err, DN_ENOMEM, "%zu items of %zu bytes do not fit in memory", count, size);
    char *block = must_fail() ? NULL : calloc(1, dn_round_up(bytes, 64) + ALIGNMENT + sizeof(void *));
    if (!block) return dn_fail(err, DN_ENOMEM, "out of memory: %zu bytes", bytes);
    char *aligned = (char *)dn_round_up((uintptr_t)block + sizeof(void *), ALIGNMENT);
    memcpy(aligned - sizeof(void *), &block, sizeof block);
    atomic_fetch_add(&live_blocks, 1);
    *out = aligned;
    return DN_OK;
}

void dn_free(void *p) {
    if (!p) return;
    void *block;
    memcpy(&block, (char *)p - sizeof block, sizeof block);
    atomic_fetch_sub(&live_blocks, 1);
    free(block);
}
