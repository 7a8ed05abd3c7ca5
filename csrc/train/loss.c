/* loss.c - cross entropy, distillation and mean squared error with their gradients, in double per sample. */
#include <math.h>

#include "base/fpenv.h"
#include "base/status.h"
#include "dynadnn.h"

/* log(sum(exp(x * inverse_t))) and the largest x * inverse_t, without overflow. */
static double log_sum_exp(const float *x, size_t k, double inverse_t) {
    double top = (double)x[0] * inverse_t, sum = 0;
    for (size_t i = 1; i < k; i++) top = (double)x[i] * inverse_t > top ? (double)x[i] * inverse_t : top;
    for (size_t i = 0; i < k; i++) sum += exp((double)x[i] * inverse_t - top);
    return top + log(sum);
}

static double gradient_factor(const float *weight, size_t i, size_t n, float scale) { return (double)scale * (weight ? (double)weight[i] : 1.0) / (double)n; }

static dn_status check(const float *a, const float *b, size_t k, dn_error *err) {
    if (!a || !b) return dn_fail(err, DN_EINVAL, "a loss needs logits, targets and room for its result");
    if (k < 1) return dn_fail(err, DN_EINVAL, "a loss needs at least 1 output, got 0");
    return DN_OK;
}

dn_status dn_loss_cross_entropy(const float *logits, const int64_t *labels, const float *weight, size_t n, size_t k, float smoothing, float scale, float *loss, float *d_logits,
                                dn_error *err) {
    if (n == 0) return DN_OK;
    DN_TRY(check(logits, loss, k, err));
    if (!labels) return dn_fail(err, DN_EINVAL, "cross entropy needs labels");
    if (!(smoothing >= 0 && smoothing < 1)) return dn_fail(err, DN_EINVAL, "label smoothing must be in [0, 1), got %g", (double)smoothing);
    for (size_t i = 0; i < n; i++)
        if (labels[i] < 0 || (uint64_t)labels[i] >= k) return dn_fail(err, DN_EINVAL, "label %zu is %lld, with %zu outputs it must be in 0..%zu", i, (long long)labels[i], k, k - 1);
    dn_fpenv env = dn_fpenv_enter();
    const double rest = (double)smoothing / (double)k, hit = 1.0 - (double)smoothing;
    for (size_t i = 0; i < n; i++) {
        const float *x = logits + i * k;
        size_t label = (size_t)labels[i];
        double lse = log_sum_exp(x, k, 1.0), value = hit * (lse - (double)x[label]);
        if (rest > 0)
            for (size_t j = 0; j < k; j++) value += rest * (lse - (double)x[j]);
        loss[i] = (float)value;
        if (!d_logits) continue;
        double factor = gradient_factor(weight, i, n, scale);
        for (size_t j = 0; j < k; j++) d_logits[i * k + j] = (float)(factor * (exp((double)x[j] - lse) - rest - (j == label ? hit : 0)));
    }
    dn_fpenv_leave(env);
    return DN_OK;
}

dn_status dn_loss_distillation(const float *logits, const float *teacher, const float *weight, size_t n, size_t k, float temperature, float scale, int accumulate, float *loss,
                               float *d_logits, dn_error *err) {
    if (n == 0) return DN_OK;
    DN_TRY(check(logits, loss, k, err));
    if (!teacher) return dn_fail(err, DN_EINVAL, "distillation needs the teacher's logits");
    if (!(temperature > 0) || isinf(temperature)) return dn_fail(err, DN_EINVAL, "the temperature must be positive and finite, got %g", (double)temperature);
    dn_fpenv env = dn_fpenv_enter();
    const double t = (double)temperature, inverse = 1 / t;
    for (size_t i = 0; i < n; i++) {
        const float *s = logits + i * k, *r = teacher + i * k;
        double ls = log_sum_exp(s, k, inverse), lr = log_sum_exp(r, k, inverse), value = 0, factor = gradient_factor(weight, i, n, scale) * t;
        for (size_t j = 0; j < k; j++) {
            double log_r = (double)r[j] * inverse - lr, log_s = (double)s[j] * inverse - ls, p = exp(log_r);
            if (p > 0 || isnan(p)) value += p * (log_r - log_s);
            if (d_logits) d_logits[i * k + j] = (float)((accumulate ? (double)d_logits[i * k + j] : 0) + factor * (exp(log_s) - p));
        }
        loss[i] = (float)(t * t * value);
    }
    dn_fpenv_leave(env);
    return DN_OK;
}

dn_status dn_loss_mse(const float *outputs, const float *targets, const float *weight, size_t n, size_t k, float scale, float *loss, float *d_outputs, dn_error *err) {
    if (n == 0) return DN_OK;
    DN_TRY(check(outputs, loss, k, err));
    if (!targets) return dn_fail(err, DN_EINVAL, "mean squared error needs targets");
    dn_fpenv env = dn_fpenv_enter();
    for (size_t i = 0; i < n; i++) {
        double value = 0, factor = gradient_factor(weight, i, n, scale) * 2 / (double)k;
        for (size_t j = 0; j < k; j++) {
            double d = (double)outputs[i * k + j] - (double)targets[i * k + j];
            value += d * d;
            if (d_outputs) d_outputs[i * k + j] = (float)(factor * d);
        }
        loss[i] = (float)(value / (double)k);
    }
    dn_fpenv_leave(env);
    return DN_OK;
}
