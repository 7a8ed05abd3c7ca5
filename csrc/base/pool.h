/* pool.h - one fork-safe pool of spinning workers for the whole process. */
#ifndef DN_BASE_POOL_H
#define DN_BASE_POOL_H

#include <stddef.h>

#include "dynadnn.h"

#define DN_MAX_THREADS 64

/* Does item `item` (of dn_pool_run's `items`); `worker` < threads says whose scratch memory may be used. */
typedef void dn_task(void *context, size_t item, int worker);

/* Runs items 0 .. items-1, each exactly once, on up to `threads` threads (the caller is one of them); which thread takes which item is open, so items must not
 * depend on one another. If the pool is busy, cannot grow or was inherited through fork, the caller does everything itself. With a poll (may be NULL) the caller
 * asks it between items at least every 10 ms; when it returns non-zero the items not yet begun are left out and DN_EINTERRUPTED comes back. */
dn_status dn_pool_run(int threads, size_t items, dn_task *task, void *context, const dn_poll *poll);

#endif
