/* wino_f32_template.h - one wino_f32 record: define ISA, ISA_NAME, TARGET (function attributes) and WIDE (lanes of a vector), then include. */
#include <stdint.h>

#include "kernels/kernels.h"

#define KERNEL TARGET static

#define LANES WIDE
#include "kernels/wino_f32_block.h"
#undef LANES
#define LANES 1
#include "kernels/wino_f32_block.h"
#undef LANES

#define W(n) PASTE(n, WIDE)
#define ONE(n) PASTE(n, 1)

/* Runs a body for every whole vector of n channels and then for single ones; c is the channel. */
#define FOR_VECTORS(n, NAME, ...)                          \
    do {                                                   \
        size_t c = 0;                                      \
        for (; c + WIDE <= (n); c += WIDE) W(NAME)(__VA_ARGS__); \
        for (; c < (n); c++) ONE(NAME)(__VA_ARGS__);       \
    } while (0)

KERNEL void input(const float *d, ptrdiff_t row, ptrdiff_t step, size_t channels, size_t tiles, float *to, size_t position) {
    for (; tiles; tiles--, d += 2 * step, to += channels) FOR_VECTORS(channels, input_block, d + c, row, step, to + c, position);
}

KERNEL void output(const float *m, size_t position, size_t lanes, size_t channels, size_t tiles, float *y, ptrdiff_t row, ptrdiff_t step, const float *residual, ptrdiff_t residual_row,
                   ptrdiff_t residual_step, const dn_epilogue *e) {
    if (residual) {
        for (; tiles; tiles--, m += lanes, y += 2 * step, residual += 2 * residual_step)
            FOR_VECTORS(channels, output_block, m + c, position, y + c, row, step, residual + c, residual_row, residual_step, e, c);
    } else {
        for (; tiles; tiles--, m += lanes, y += 2 * step) FOR_VECTORS(channels, output_block, m + c, position, y + c, row, step, NULL, 0, 0, e, c);
    }
}

KERNEL void gradient(const float *dy, ptrdiff_t row, ptrdiff_t step, size_t channels, size_t tiles, float *to, size_t position) {
    for (; tiles; tiles--, dy += 2 * step, to += channels) FOR_VECTORS(channels, gradient_block, dy + c, row, step, to + c, position);
}

KERNEL void weights(const float *g, size_t tap, float *to, size_t position, size_t count) { FOR_VECTORS(count, weights_block, g + c, tap, to + c, position); }

KERNEL void sums(const float *u, size_t position, float *dg, size_t tap, size_t count) { FOR_VECTORS(count, sums_block, u + c, position, dg + c, tap); }

const dn_wino_f32 PASTE(dn_wino_f32_, ISA) = {ISA_NAME, input, output, gradient, weights, sums};
