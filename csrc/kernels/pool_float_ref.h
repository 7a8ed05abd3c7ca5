/* pool_float_ref.h - float pooling of one window, written for reading; needs elements (elem_*_ref.h). */

static float at(const dn_window *window, int32_t row, int32_t column, int32_t channel) {
    return widen_one(((const elem *)window->input)[row * window->in_row + column * window->in_tap + channel]);
}

/* A NaN anywhere in the window is the result: what a network loses must not be hidden by its neighbours. */
static void max(const dn_window *window, void *out) {
    for (int32_t c = 0; c < window->channels; c++) {
        float m = at(window, 0, 0, c);
        for (int32_t row = 0; row < window->rows; row++)
            for (int32_t column = 0; column < window->columns; column++)
                if (!isnan(m)) m = larger(m, at(window, row, column, c));
        ((elem *)out)[c] = narrow(m);
    }
}

static void avg(const dn_window *window, void *out, float factor) {
    for (int32_t c = 0; c < window->channels; c++) {
        float sum = 0;
        for (int32_t row = 0; row < window->rows; row++)
            for (int32_t column = 0; column < window->columns; column++) sum += at(window, row, column, c);
        ((elem *)out)[c] = narrow(sum * factor);
    }
}
