/* alloc.h - the one way to get memory: aligned to a cache line, zeroed, overflow-checked, and able to fail on request. */
#ifndef DN_BASE_ALLOC_H
#define DN_BASE_ALLOC_H

#include <stddef.h>

#include "dynadnn.h"

/* Sets *out to count * size zeroed bytes aligned to 64 (never NULL on DN_OK, also for zero bytes), or to NULL with DN_ENOMEM. */
dn_status dn_alloc(void **out, size_t count, size_t size, dn_error *err);
/* Frees what dn_alloc gave; NULL is legal. */
void dn_free(void *p);

/* DN_NEW(&pointer, count, err): typed form of dn_alloc. */
#define DN_NEW(pp, count, err) dn_alloc((void **)(pp), (count), sizeof **(pp), (err))

#endif
