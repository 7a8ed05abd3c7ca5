/* nsga2_state.c - the search as bytes and back.
 *
 * Layout, in the byte order of the machine: header, x [vectors][variables], f [size][objectives], g [size][constraints], rank [size]. Vectors are the population, or before
 * the first tell the start vectors if some were given. All else follows from these. Bytes are not trusted: length, fingerprint, checksum, then every value. */
#include <math.h>
#include <stddef.h>

#include "base/fpenv.h"
#include "base/status.h"
#include "search/nsga2.h"

typedef struct header {
    uint64_t magic, checksum; /* checksum: of everything after it */
    uint64_t fingerprint;
    int64_t generation;
    uint64_t size, vectors;
} header;

static const uint64_t MAGIC = 0x01326167736e6e64u; /* "dnnsga2", version 1; also tells the byte order */

static size_t length_for(const dn_nsga2 *s, size_t size, size_t vectors) {
    return sizeof(header) + vectors * s->d * sizeof *s->x + size * (s->m * sizeof *s->f + s->c * sizeof *s->g + sizeof *s->rank);
}

static size_t vectors_of(const dn_nsga2 *s) { return s->size ? s->size : s->seeded ? s->n : 0; }

static uint64_t checksum(const uint8_t *bytes, size_t size) {
    const size_t skip = offsetof(header, fingerprint);
    uint64_t hash = size, word;
    for (size_t at = skip; at < size; at += 8) {
        size_t left = size - at < 8 ? size - at : 8;
        word = 0;
        memcpy(&word, bytes + at, left);
        hash = (hash ^ word ^ hash >> 32) * 0xff51afd7ed558ccdu;
    }
    return hash ^ hash >> 32;
}

/* Copies to or from the running position and moves it. */
static void put(uint8_t **at, const void *from, size_t bytes) {
    if (bytes) memcpy(*at, from, bytes);
    *at += bytes;
}

static void get(const uint8_t **at, void *to, size_t bytes) {
    if (bytes) memcpy(to, *at, bytes);
    *at += bytes;
}

size_t dn_nsga2_state_bytes(const dn_nsga2 *s) { return length_for(s, s->size, vectors_of(s)); }

void dn_nsga2_get_state(const dn_nsga2 *s, uint8_t *bytes) {
    header h = {.magic = MAGIC, .fingerprint = s->fingerprint, .generation = s->generation, .size = s->size, .vectors = vectors_of(s)};
    uint8_t *at = bytes;
    put(&at, &h, sizeof h);
    put(&at, s->x, vectors_of(s) * s->d * sizeof *s->x);
    put(&at, s->f, s->size * s->m * sizeof *s->f);
    put(&at, s->g, s->size * s->c * sizeof *s->g);
    put(&at, s->rank, s->size * sizeof *s->rank);
    h.checksum = checksum(bytes, dn_nsga2_state_bytes(s));
    memcpy(bytes, &h, sizeof h);
}

static dn_status check_header(const dn_nsga2 *s, const uint8_t *bytes, size_t size, header *h, dn_error *err) {
    if (size < sizeof *h) return dn_fail(err, DN_EINVAL, "state: %zu bytes, a header alone has %zu", size, sizeof *h);
    memcpy(h, bytes, sizeof *h);
    if (h->magic != MAGIC) return dn_fail(err, DN_EINVAL, "state: not a search state of this version and byte order");
    if (h->fingerprint != s->fingerprint) return dn_fail(err, DN_EINVAL, "state: of a search with other options or another seed");
    int begun = h->generation > 0;
    if (h->generation < 0 || h->generation > INT64_MAX / 2 || h->size != (begun ? s->n : 0))
        return dn_fail(err, DN_EINVAL, "state: %llu rows after %lld generations", (unsigned long long)h->size, (long long)h->generation);
    if (h->vectors != s->n && (begun || h->vectors != 0)) return dn_fail(err, DN_EINVAL, "state: %llu vectors, the population is %zu", (unsigned long long)h->vectors, s->n);
    size_t wanted = length_for(s, (size_t)h->size, (size_t)h->vectors);
    if (size != wanted) return dn_fail(err, DN_EINVAL, "state: %zu bytes, %zu expected", size, wanted);
    if (h->checksum != checksum(bytes, size)) return dn_fail(err, DN_EINVAL, "state: damaged, the checksum is wrong");
    return DN_OK;
}

static int vector_is_possible(const dn_nsga2 *s, const double *x) {
    for (size_t k = 0; k < s->d; k++) {
        if (!(x[k] >= s->lower[k] && x[k] <= s->upper[k])) return 0;
        if (s->integer[k] && x[k] != floor(x[k])) return 0;
    }
    return 1;
}

/* Checks, in aligned copies above the live rows (they are scratch until the next ask), what arithmetic and indices rely on. */
static dn_status check_values(const dn_nsga2 *s, const header *h, const double *x, const double *f, const int32_t *rank, dn_error *err) {
    for (size_t i = 0; i < h->vectors; i++) {
        if (!vector_is_possible(s, x + i * s->d)) return dn_fail(err, DN_EINVAL, "state: vector %zu lies outside the bounds", i);
    }
    for (size_t i = 0; i < h->size * s->m; i++) {
        if (isinf(f[i])) return dn_fail(err, DN_EINVAL, "state: row %zu has an infinite objective", i / s->m);
    }
    for (size_t i = 0; i < h->size; i++) {
        if (rank[i] < 0 || (size_t)rank[i] >= 2 * s->n) return dn_fail(err, DN_EINVAL, "state: row %zu has rank %d", i, rank[i]);
    }
    return DN_OK;
}

static void adopt(dn_nsga2 *s, const header *h) {
    s->generation = h->generation;
    s->size = (size_t)h->size;
    memmove(s->x, s->x + s->n * s->d, (size_t)h->vectors * s->d * sizeof *s->x);
    memmove(s->f, s->f + s->n * s->m, s->size * s->m * sizeof *s->f);
    if (s->c) memmove(s->g, s->g + s->n * s->c, s->size * s->c * sizeof *s->g);
    memcpy(s->rank, s->kept_rank, s->size * sizeof *s->rank);
    for (size_t i = 0; i < h->vectors; i++) s->hash[i] = dn_row_hash(s->x + i * s->d, s->d);
    s->seeded = h->size == 0 && h->vectors > 0;
    s->prepared = s->seeded;
    if (s->size) dn_nsga2_crowd(s);
}

dn_status dn_nsga2_set_state(dn_nsga2 *s, const uint8_t *bytes, size_t size, dn_error *err) {
    header h;
    dn_status status = check_header(s, bytes, size, &h, err);
    if (status != DN_OK) return status;
    dn_fpenv env = dn_fpenv_enter();
    const uint8_t *at = bytes + sizeof h;
    get(&at, s->x + s->n * s->d, (size_t)h.vectors * s->d * sizeof *s->x);
    get(&at, s->f + s->n * s->m, (size_t)h.size * s->m * sizeof *s->f);
    get(&at, s->g + s->n * s->c, (size_t)h.size * s->c * sizeof *s->g);
    get(&at, s->kept_rank, (size_t)h.size * sizeof *s->rank);
    status = check_values(s, &h, s->x + s->n * s->d, s->f + s->n * s->m, s->kept_rank, err);
    if (status == DN_OK) adopt(s, &h);
    else if (s->size) s->prepared = 0; /* the children were overwritten; ask makes the same ones again */
    dn_fpenv_leave(env);
    return status;
}
