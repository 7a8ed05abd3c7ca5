/* status.h - making and forwarding errors. */
#ifndef DN_BASE_STATUS_H
#define DN_BASE_STATUS_H

#include "dynadnn.h"

/* Fills *err (which may be NULL) and returns status, so that a check reads: if (bad) return dn_fail(err, DN_EINVAL, ...). */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
dn_status dn_fail(dn_error *err, dn_status status, const char *format, ...);

/* Forwards a failure from a function that owns nothing yet. */
#define DN_TRY(call) \
    do { \
        dn_status dn_try_status = (call); \
        if (dn_try_status != DN_OK) return dn_try_status; \
    } while (0)

/* Forwards a failure through the caller's cleanup label `done`; needs a local `dn_status status`. */
#define DN_GO(call) \
    do { \
        status = (call); \
        if (status != DN_OK) goto done; \
    } while (0)

#endif
