/* pool_f32_ref.c - float pooling of one window, written for reading. */
#include "kernels/ref_f32.h"

static float at(const dn_window *window, int32_t row, int32_t column, int32_t channel) {
    return ((const float *)window->input)[row * window->in_row + column * window->in_tap + channel];
}

/* A NaN anywhere in the window is the result: what a network loses must not be hidden by its neighbours. */
static void max(const dn_window *window, float *out) {
    for (int32_t c = 0; c < window->channels; c++) {
        float m = at(window, 0, 0, c);
        for (int32_t row = 0; row < window->rows; row++)
            for (int32_t column = 0; column < window->columns; column++)
                if (!isnan(m)) m = larger(m, at(window, row, column, c));
        out[c] = m;
    }
}

static void avg(const dn_window *window, float *out, float factor) {
    for (int32_t c = 0; c < window->channels; c++) {
        float sum = 0;
        for (int32_t row = 0; row < window->rows; row++)
            for (int32_t column = 0; column < window->columns; column++) sum += at(window, row, column, c);
        out[c] = sum * factor;
    }
}

const dn_pool_f32 dn_pool_f32_ref = {"ref", max, avg};
