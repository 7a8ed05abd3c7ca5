/* version.c - what was built, and with what. */
#include "dynadnn.h"

#ifndef DN_VERSION
#define DN_VERSION "unversioned"
#endif

const char *dn_version(void) { return DN_VERSION; }

const char *dn_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#elif defined(__GNUC__)
    return "gcc " __VERSION__;
#else
    return "unknown compiler";
#endif
}
