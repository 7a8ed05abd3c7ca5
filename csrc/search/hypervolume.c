/* hypervolume.c - exact hypervolume: sweeps for two and three objectives, WFG above.
 *
 * Two objectives: sort by the first, add rectangles. Three: sweep along the third with the staircase of the first two kept sorted (Fonseca, Paquete, Lopez-Ibanez,
 * CEC 2006), an array here, since moving a few kilobytes costs less than a tree. Above: points from worst to best in the last objective; each adds its box less what
 * later points cover of it, and since these are no worse in the last objective, that is a problem with one objective less (While, Bradstreet, Barone, IEEE TEC 16(1),
 * 2012). Everything is measured from the reference point: x = ref - f > 0, larger is better. */
#include <math.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/size.h"
#include "base/status.h"
#include "search/sort.h"

typedef struct solver {
    uint64_t *sorting, *scratch;
    double (*steps)[2]; /* [rows + 2] staircase of the three-objective sweep */
    double **points; /* [objectives + 1]: [rows][k] the points of the present problem with k objectives */
    double **sorted; /* [objectives + 1]: [rows][k] the same from worst to best in the last objective */
    double *block;   /* what points and sorted point into */
} solver;

static dn_status solver_init(solver *s, size_t n, size_t m, dn_error *err) {
    size_t total;
    *s = (solver){0};
    if (n > INT32_MAX) return dn_fail(err, DN_EINVAL, "%zu rows, the most is %d", n, INT32_MAX);
    if (m > 1000) return dn_fail(err, DN_EINVAL, "%zu objectives, the most is 1000", m);
    if (!dn_size_mul(m * (m + 1), n, &total)) /* k values a row, twice, for k = 1 .. m */
        return dn_fail(err, DN_ENOMEM, "%zu rows of %zu objectives do not fit in memory", n, m);
    DN_TRY(DN_NEW(&s->sorting, n, err));
    DN_TRY(DN_NEW(&s->scratch, n, err));
    DN_TRY(DN_NEW(&s->steps, n + 2, err));
    DN_TRY(DN_NEW(&s->points, m + 1, err));
    DN_TRY(DN_NEW(&s->sorted, m + 1, err));
    DN_TRY(DN_NEW(&s->block, total, err));
    double *next = s->block;
    for (size_t k = 1; k <= m; k++) {
        s->points[k] = next;
        s->sorted[k] = next + n * k;
        next += 2 * n * k;
    }
    return DN_OK;
}

static void solver_free(solver *s) {
    void *owned[] = {s->sorting, s->scratch, s->steps, s->points, s->sorted, s->block};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++) dn_free(owned[i]);
}

static double area(solver *s, size_t n) {
    const double *x = s->points[2];
    uint64_t mask = dn_sort_rows(s->sorting, s->scratch, x, n, 2, 1);
    double sum = 0, height = 0;
    for (size_t i = n; i-- > 0;) { /* best first objective first */
        const double *p = x + 2 * (s->sorting[i] & mask);
        if (p[1] <= height) continue;
        sum += p[0] * (p[1] - height);
        height = p[1];
    }
    return sum;
}

/* First step whose first objective is >= x. */
static size_t find_step(const double (*steps)[2], size_t count, double x) {
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (steps[middle][0] < x) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Puts (p, q) on a staircase whose steps ascend in the first objective and descend in the second, between sentinels (0, inf) and (inf, 0); returns the area it adds.
 * Between two steps the covered height is that of the right one. */
static double add_step(double (*steps)[2], size_t *count, double p, double q) {
    size_t end = find_step((const double(*)[2])steps, *count, p), j = end;
    double gained = 0;
    for (double right = p; steps[j][1] < q; j--) {
        gained += (right - steps[j - 1][0]) * (q - steps[j][1]);
        right = steps[j - 1][0];
    }
    if (j == end) return 0; /* dominated */
    size_t first = j + 1, rest = end + (steps[end][0] == p); /* first .. rest-1 now lie below (p, q) */
    memmove(steps + first + 1, steps + rest, (*count - rest) * sizeof *steps);
    steps[first][0] = p;
    steps[first][1] = q;
    *count = *count + first + 1 - rest;
    return gained;
}

static double volume(solver *s, size_t n) {
    const double *x = s->points[3];
    double sum = 0, covered = 0, depth = 0; /* area under the staircase; third objective of the last point */
    size_t count = 2;
    s->steps[0][0] = 0;
    s->steps[0][1] = INFINITY;
    s->steps[1][0] = INFINITY;
    s->steps[1][1] = 0;
    uint64_t mask = dn_sort_rows(s->sorting, s->scratch, x + 2, n, 3, 1);
    for (size_t i = n; i-- > 0;) { /* best third objective first */
        const double *p = x + 3 * (s->sorting[i] & mask);
        sum += covered * (depth - p[2]);
        depth = p[2];
        covered += add_step(s->steps, &count, p[0], p[1]);
    }
    return sum + covered * depth;
}

static bool covers(const double *a, const double *b, size_t k) {
    for (size_t c = 0; c < k; c++) {
        if (a[c] < b[c]) return false;
    }
    return true;
}

/* Drops points that another one covers; returns how many are left. */
static size_t keep_best(double *x, size_t n, size_t k) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        const double *p = x + i * k;
        bool covered = false;
        for (size_t j = 0; j < kept && !covered; j++) covered = covers(x + j * k, p, k);
        if (covered) continue;
        for (size_t j = 0; j < kept;) {
            if (covers(p, x + j * k, k)) memmove(x + j * k, x + --kept * k, k * sizeof *x);
            else j++;
        }
        memmove(x + kept++ * k, p, k * sizeof *x);
    }
    return kept;
}

/* Writes to points[k - 1] what each of p's n successors covers of p; false if one of them covers it all. */
static bool limit_to(double *out, const double *p, size_t n, size_t k) {
    for (size_t i = 1; i <= n; i++, out += k - 1) {
        for (size_t c = 0; c + 1 < k; c++) out[c] = p[i * k + c] < p[c] ? p[i * k + c] : p[c];
        if (covers(out, p, k - 1)) return false;
    }
    return true;
}

static double best(const double *x, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* Of the n points in points[k], which it uses up. Recursion is k - 3 deep. */
static double measure(solver *s, size_t n, size_t k) {
    if (n == 0) return 0;
    if (k == 1) return best(s->points[1], n);
    if (k == 2) return area(s, n);
    if (k == 3) return volume(s, n);
    double *sorted = s->sorted[k], sum = 0;
    n = keep_best(s->points[k], n, k);
    uint64_t mask = dn_sort_rows(s->sorting, s->scratch, s->points[k] + k - 1, n, k, 1);
    for (size_t i = 0; i < n; i++) memcpy(sorted + i * k, s->points[k] + (s->sorting[i] & mask) * k, k * sizeof *sorted);
    for (size_t i = 0; i < n; i++) {
        const double *p = sorted + i * k;
        if (!limit_to(s->points[k - 1], p, n - 1 - i, k)) continue;
        double box = 1;
        for (size_t c = 0; c + 1 < k; c++) box *= p[c];
        double own = box - measure(s, n - 1 - i, k - 1);
        if (own > 0) sum += own * p[k - 1];
    }
    return sum;
}

/* Fills points[m] with the rows better than ref in every objective; *infinite if one of them is infinitely better in one. */
static size_t take_rows(solver *s, const double *f, size_t n, size_t m, const double *ref, bool *infinite) {
    double *x = s->points[m];
    size_t taken = 0;
    *infinite = false;
    for (size_t i = 0; i < n; i++) {
        double *row = x + taken * m;
        size_t k = 0;
        while (k < m && f[i * m + k] < ref[k]) k++;
        if (k < m) continue;
        for (k = 0; k < m; k++) {
            row[k] = ref[k] - f[i * m + k];
            if (isinf(row[k])) *infinite = true;
        }
        taken++;
    }
    return taken;
}

/* Brings every objective's largest value into [1, 2) by a power of two, so that no product overflows early; returns the exponent to undo it. */
static int scale_rows(double *x, size_t n, size_t m) {
    int total = 0;
    for (size_t k = 0; k < m && n > 0; k++) {
        double most = 0;
        for (size_t i = 0; i < n; i++) most = x[i * m + k] > most ? x[i * m + k] : most;
        int exponent = ilogb(most);
        for (size_t i = 0; i < n; i++) x[i * m + k] = scalbn(x[i * m + k], -exponent);
        total += exponent;
    }
    return total;
}

static dn_status check(const double *f, size_t n, size_t m, const double *ref, dn_error *err) {
    if (m < 1) return dn_fail(err, DN_EINVAL, "f has no objectives (shape (%zu, 0)); at least 1", n);
    for (size_t k = 0; k < m; k++) {
        if (ref[k] != ref[k]) return dn_fail(err, DN_EINVAL, "ref: objective %zu is NaN", k);
    }
    size_t i = dn_first_nan(f, n * m);
    if (i < n * m) return dn_fail(err, DN_EINVAL, "f: row %zu, objective %zu is NaN; pass only rows that were evaluated", i / m, i % m);
    return DN_OK;
}

dn_status dn_hypervolume(const double *f, size_t n, size_t m, const double *ref, double *result, dn_error *err) {
    *result = NAN;
    DN_TRY(check(f, n, m, ref, err));
    dn_fpenv env = dn_fpenv_enter();
    solver s;
    dn_status status = solver_init(&s, n, m, err);
    if (status == DN_OK) {
        bool infinite;
        size_t taken = take_rows(&s, f, n, m, ref, &infinite);
        if (infinite) {
            *result = INFINITY;
        } else {
            int exponent = scale_rows(s.points[m], taken, m);
            *result = scalbn(measure(&s, taken, m), exponent);
        }
    }
    solver_free(&s);
    dn_fpenv_leave(env);
    return status;
}
