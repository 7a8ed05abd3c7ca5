/* augment.c - flip, crop, shift and cutout of uint8 images: a pure function of (seed, epoch, index of the image). */
#include <string.h>

#include "base/fpenv.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/size.h"
#include "base/status.h"

enum { DRAW_FLIP, DRAW_CROP_Y, DRAW_CROP_X, DRAW_SHIFT_Y, DRAW_SHIFT_X, DRAW_CUT_Y, DRAW_CUT_X };

typedef struct batch {
    const uint8_t *images;
    uint8_t *out;
    const int64_t *index;
    size_t h, w, c;
    const dn_augment *how;
} batch;

static int64_t between(const dn_rng *rng, uint64_t index, uint32_t draw, int32_t reach) {
    return reach > 0 ? (int64_t)dn_rng_below(rng, index, draw, 2 * (uint32_t)reach + 1) - reach : 0;
}

/* Copies one row moved by dx: out[x] = in[x + dx]; the caller flips afterwards. */
static void move_row(const uint8_t *in, uint8_t *out, size_t w, size_t c, int64_t dx, uint8_t fill) {
    size_t left = dx < 0 ? dn_size_min((size_t)-dx, w) : 0, from = dx > 0 ? dn_size_min((size_t)dx, w) : 0;
    size_t count = w - (left > from ? left : from);
    memset(out, fill, left * c);
    memcpy(out + left * c, in + from * c, count * c);
    memset(out + (left + count) * c, fill, (w - left - count) * c);
}

static void flip_row(uint8_t *row, size_t w, size_t c) {
    for (size_t a = 0, b = w - 1; a < b; a++, b--)
        for (size_t k = 0; k < c; k++) {
            uint8_t t = row[a * c + k];
            row[a * c + k] = row[b * c + k];
            row[b * c + k] = t;
        }
}

static int flips(const dn_augment *how, const dn_rng *rng, uint64_t key) { return how->flip && dn_rng_below(rng, key, DRAW_FLIP, 2); }

/* A square whose middle is any pixel; what of it lies outside the image is lost (DeVries and Taylor 2017). */
static void cut_out(const batch *b, const dn_rng *rng, uint64_t key, uint8_t *out) {
    const int64_t side = b->how->cutout, h = (int64_t)b->h, w = (int64_t)b->w;
    int64_t top = (int64_t)dn_rng_below(rng, key, DRAW_CUT_Y, (uint32_t)h) - side / 2, left = (int64_t)dn_rng_below(rng, key, DRAW_CUT_X, (uint32_t)w) - side / 2;
    int64_t bottom = top + side < h ? top + side : h, right = left + side < w ? left + side : w;
    for (int64_t y = top > 0 ? top : 0; y < bottom; y++)
        for (int64_t x = left > 0 ? left : 0; x < right; x++)
            for (size_t k = 0; k < b->c; k++) out[(size_t)(y * w + x) * b->c + k] = b->how->cutout_fill ? b->how->cutout_fill[k] : b->how->fill;
}

/* A random crop out of a border of `crop` pixels is a shift by -crop .. crop, like the shift that may follow it. */
static void augment_one(void *context, size_t item, int worker) {
    (void)worker;
    const batch *b = context;
    const dn_augment *how = b->how;
    const dn_rng rng = {how->seed, DN_STREAM_AUGMENT, how->epoch};
    const uint64_t key = (uint64_t)b->index[item];
    const size_t row = b->w * b->c;
    const uint8_t *image = b->images + (size_t)key * b->h * row;
    uint8_t *whole = b->out + item * b->h * row, *out = whole;
    int64_t dy = between(&rng, key, DRAW_CROP_Y, how->crop) + between(&rng, key, DRAW_SHIFT_Y, how->shift);
    int64_t dx = between(&rng, key, DRAW_CROP_X, how->crop) + between(&rng, key, DRAW_SHIFT_X, how->shift);
    int flip = flips(how, &rng, key);
    for (size_t y = 0; y < b->h; y++, out += row) {
        int64_t from = (int64_t)y + dy;
        if (from < 0 || from >= (int64_t)b->h) {
            memset(out, how->fill, row);
            continue;
        }
        move_row(image + (size_t)from * row, out, b->w, b->c, dx, how->fill);
        if (flip) flip_row(out, b->w, b->c);
    }
    if (how->cutout) cut_out(b, &rng, key, whole);
}

dn_status dn_augment_batch(const uint8_t *images, size_t total, size_t h, size_t w, size_t c, const int64_t *index, size_t n, const dn_augment *how, int32_t threads, uint8_t *out,
                           dn_error *err) {
    if (n == 0) return DN_OK;
    if (!images || !index || !how || !out) return dn_fail(err, DN_EINVAL, "augmentation needs images, an index and room for its result");
    if (h < 1 || w < 1 || c < 1 || h > 32767 || w > 32767) return dn_fail(err, DN_EINVAL, "images of %zu x %zu x %zu cannot be augmented", h, w, c);
    if (how->crop < 0 || how->crop > 32767) return dn_fail(err, DN_EINVAL, "crop must be in 0..32767, got %d", how->crop);
    if (how->shift < 0 || how->shift > 32767) return dn_fail(err, DN_EINVAL, "shift must be in 0..32767, got %d", how->shift);
    if (how->cutout < 0 || how->cutout > 32767) return dn_fail(err, DN_EINVAL, "cutout must be in 0..32767, got %d", how->cutout);
    for (size_t i = 0; i < n; i++)
        if (index[i] < 0 || (uint64_t)index[i] >= total) return dn_fail(err, DN_EINVAL, "index %zu is %lld, with %zu images", i, (long long)index[i], total);
    batch b = {images, out, index, h, w, c, how};
    dn_fpenv env = dn_fpenv_enter();
    (void)dn_pool_run(threads, n, augment_one, &b, NULL);
    dn_fpenv_leave(env);
    return DN_OK;
}

void dn_augment_flips(const int64_t *index, size_t n, const dn_augment *how, uint8_t *out) {
    const dn_rng rng = {how->seed, DN_STREAM_AUGMENT, how->epoch};
    for (size_t i = 0; i < n; i++) out[i] = (uint8_t)flips(how, &rng, (uint64_t)index[i]);
}
