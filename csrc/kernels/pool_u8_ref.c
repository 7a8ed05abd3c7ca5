/* pool_u8_ref.c - the definitions of pooling over a clipped window of bytes. */
#include <math.h>

#include "kernels/kernels.h"

static int at(const dn_window *window, int row, int column, int channel) {
    return ((const uint8_t *)window->input)[row * window->in_row + column * window->in_tap + channel];
}

static void max(const dn_window *window, uint8_t *out) {
    for (int c = 0; c < window->channels; c++) {
        int best = 0;
        for (int row = 0; row < window->rows; row++)
            for (int column = 0; column < window->columns; column++) {
                int value = at(window, row, column, c);
                if (value > best) best = value;
            }
        out[c] = (uint8_t)best;
    }
}

static void avg(const dn_window *window, uint8_t *out, float factor, float bias) {
    for (int c = 0; c < window->channels; c++) {
        int32_t sum = 0;
        for (int row = 0; row < window->rows; row++)
            for (int column = 0; column < window->columns; column++) sum += at(window, row, column, c);
        out[c] = (uint8_t)rintf(fminf(fmaxf(fmaf((float)sum, factor, bias), 0), 255));
    }
}

const dn_pool_u8 dn_pool_u8_ref = {.isa = "ref", .max = max, .avg = avg};
