/* guard.h - what the C tests share: memory that faults one byte past its end, a small random source, failure counting. */
#ifndef DN_TEST_GUARD_H
#define DN_TEST_GUARD_H

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int guard_failures;

#define CHECK(condition, ...)                                         \
    do {                                                              \
        if (!(condition)) {                                           \
            guard_failures++;                                         \
            if (guard_failures <= 20) {                               \
                printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
                printf(__VA_ARGS__);                                  \
                printf("\n");                                         \
            }                                                         \
        }                                                             \
    } while (0)

/* `bytes` bytes that end exactly at a page nobody may touch (and begin after another), filled with `fill`. Free with guard_free. */
typedef struct guarded {
    uint8_t *data;
    size_t bytes;
    void *map;
    size_t map_bytes;
} guarded;

static inline guarded guard_alloc(size_t bytes, int fill) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    guarded g = {.bytes = bytes, .map_bytes = body + 2 * page};
    g.map = mmap(NULL, g.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect((char *)g.map + page, body, PROT_READ | PROT_WRITE)) {
        perror("guard_alloc");
        exit(2);
    }
    g.data = (uint8_t *)g.map + page + body - bytes;
    memset((uint8_t *)g.map + page, fill, body);
    return g;
}

static inline void guard_free(guarded g) { munmap(g.map, g.map_bytes); }

/* splitmix64 */
static uint64_t guard_state = 1;
static inline uint64_t guard_random(void) {
    uint64_t z = (guard_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline int guard_below(int n) { return (int)(guard_random() % (uint64_t)n); }
static inline float guard_float(void) { return (float)((double)(guard_random() >> 11) * 0x1p-53 * 2 - 1); }

static inline int guard_finish(const char *what) {
    if (guard_failures) printf("%s: %d failures\n", what, guard_failures);
    else printf("%s: ok\n", what);
    return guard_failures != 0;
}

#endif
