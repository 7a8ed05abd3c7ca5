/* plan.c - makes and frees plans. */
#include "plan/plan.h"

#include <string.h>

#include "base/alloc.h"
#include "base/fpenv.h"
#include "base/status.h"

static dn_status make(dn_plan *plan, const dn_params *params, const float *input_table, dn_error *err) {
    DN_TRY(dn_plan_lower(plan, params, err));
    if (plan->bf16 && plan->has_int8) return dn_fail(err, DN_EINVAL, "bf16 is for float networks; this one has int8 layers");
    DN_TRY(dn_plan_pack(plan, params, err));
    dn_plan_find_groups(plan);
    if (!input_table) return DN_OK;
    size_t entries = 256 * (size_t)plan->graph->nodes[0].channels;
    DN_TRY(DN_NEW(&plan->input_table, entries, err));
    memcpy(plan->input_table, input_table, entries * sizeof *input_table);
    return DN_OK;
}

/* In a bf16 plan whatever is written for the float slots meets bfloat16: their jobs and records are the same. */
static void select_kernels(dn_plan *plan, dn_isa isa) {
    dn_kernels *k = &plan->kernels;
    dn_kernels_select(k, dn_cpu_detect() & dn_isa_features(isa));
    if (!plan->bf16) return;
    k->conv_f32 = k->conv_bf16;
    k->dwconv_f32 = k->dwconv_bf16;
    k->pointwise_f32 = k->pointwise_bf16;
    k->pool_f32 = k->pool_bf16;
}

dn_status dn_plan_new(dn_plan **out, const dn_graph *graph, const dn_params *params, const float *input_table, const dn_plan_options *options, dn_error *err) {
    *out = NULL;
    if (options->threads < 1 || options->threads > 64) return dn_fail(err, DN_EINVAL, "threads is %d: it must be 1 to 64", options->threads);
    if (!dn_isa_available(options->isa)) return dn_fail(err, DN_EINVAL, "this CPU has no %s", dn_isa_name(options->isa));
    if (options->precision != 32 && options->precision != 16) return dn_fail(err, DN_EINVAL, "precision is %d: it must be 32 (fp32) or 16 (bf16)", options->precision);
    if (options->least_bits < 2 || options->least_bits > 8) return dn_fail(err, DN_EINVAL, "least_bits is %d: it must be 2 to 8", options->least_bits);
    dn_fpenv saved = dn_fpenv_enter();
    dn_plan *plan = NULL;
    dn_status status = DN_NEW(&plan, 1, err);
    if (status == DN_OK) {
        plan->graph = graph;
        plan->threads = options->threads;
        plan->least_bits = options->least_bits;
        plan->compact = options->compact != 0;
        plan->bf16 = options->precision == 16;
        select_kernels(plan, options->isa);
        status = make(plan, params, input_table, err);
    }
    if (status == DN_OK) *out = plan;
    else dn_plan_free(plan);
    dn_fpenv_leave(saved);
    return status;
}

void dn_plan_free(dn_plan *plan) {
    if (!plan) return;
    dn_free(plan->ops);
    dn_free(plan->source);
    dn_free(plan->native_u8);
    dn_free(plan->blob);
    dn_free(plan->params);
    dn_free(plan->weight_scale);
    dn_free(plan->input_table);
    dn_free(plan);
}

size_t dn_plan_weight_bytes(const dn_plan *plan) { return plan->blob_bytes + plan->param_count * sizeof(float); }

int dn_plan_is_quantised(const dn_plan *plan) { return plan->has_int8; }
