/* halting.c - when to stop training, the trainee and the teacher: pure functions of the history of losses. */
#include "dynadnn.h"

static double best_of(const double *loss, size_t begin, size_t end) {
    double best = loss[begin];
    for (size_t i = begin + 1; i < end; i++)
        if (loss[i] < best || best != best) best = loss[i];
    return best;
}

/* True if the best of the last `patience` losses is not below the best before them by min_gain per epoch, relative to that best. NaN never counts as a gain. */
static int stalled(const dn_halting *rule, const double *loss, size_t epochs) {
    if (rule->patience < 1 || epochs < 2 || epochs <= (size_t)rule->patience) return 0;
    size_t window = (size_t)rule->patience;
    double before = best_of(loss, 0, epochs - window), after = best_of(loss, epochs - window, epochs);
    double size = before < 0 ? -before : before;
    return !(before - after >= rule->min_gain * size * (double)window && before - after > 0);
}

int dn_halt_training(const dn_halting *rule, const double *student_loss, size_t epochs) { return stalled(rule, student_loss, epochs); }

int dn_halt_trainee(const dn_halting *rule, const double *student_loss, const double *trainee_loss, size_t epochs) {
    if (epochs == 0) return 0;
    if (student_loss[epochs - 1] <= trainee_loss[epochs - 1]) return 1;
    return stalled(rule, trainee_loss, epochs);
}

int dn_halt_teacher(const dn_halting *rule, const double *teacher_change, size_t epochs) {
    if (rule->patience < 1 || epochs < (size_t)rule->patience) return 0;
    for (size_t i = epochs - (size_t)rule->patience; i < epochs; i++)
        if (!(teacher_change[i] < rule->min_gain)) return 0;
    return 1;
}
