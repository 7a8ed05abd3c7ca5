/* status.c - formats error messages. */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

dn_status dn_fail(dn_error *err, dn_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        (void)vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return status;
}
