/* indicators.c - IGD+, the mean distance from a reference set to what a front leaves undominated of it. */
#include <math.h>

#include "base/fpenv.h"
#include "base/status.h"
#include "search/sort.h"

static dn_status refuse_nan(const double *rows, size_t n, size_t m, const char *name, dn_error *err) {
    size_t i = dn_first_nan(rows, n * m);
    if (i < n * m) return dn_fail(err, DN_EINVAL, "%s: row %zu, objective %zu is NaN; pass only finite or infinite values", name, i / m, i % m);
    return DN_OK;
}

/* Squared length of what point falls short of target; equal infinities fall short by nothing. */
static double shortfall(const double *point, const double *target, size_t m) {
    double sum = 0;
    for (size_t k = 0; k < m; k++) {
        double gap = point[k] - target[k];
        if (gap > 0) sum += gap * gap;
    }
    return sum;
}

dn_status dn_igd_plus(const double *f, size_t n, const double *reference, size_t r, size_t m, double *value, dn_error *err) {
    *value = NAN;
    if (m < 1) return dn_fail(err, DN_EINVAL, "f has no objectives (shape (%zu, 0)); at least 1", n);
    if (r < 1) return dn_fail(err, DN_EINVAL, "ref has no rows; at least 1 reference point");
    DN_TRY(refuse_nan(f, n, m, "f", err));
    DN_TRY(refuse_nan(reference, r, m, "ref", err));
    dn_fpenv env = dn_fpenv_enter();
    double total = 0;
    for (size_t j = 0; j < r; j++) {
        double best = INFINITY;
        for (size_t i = 0; i < n && best > 0; i++) {
            double short_by = shortfall(f + i * m, reference + j * m, m);
            if (short_by < best) best = short_by;
        }
        total += sqrt(best);
    }
    *value = total / (double)r;
    dn_fpenv_leave(env);
    return DN_OK;
}
