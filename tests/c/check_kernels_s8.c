/* check_kernels_s8.c - every int8 and byte kernel this CPU can run, variant by variant, against ref: equal bits, nothing read or written beyond what the contract names. An argument is the seed. */
#include "random_s8.h"

#include <math.h>

/* ---- conv_s8 ---- */

enum { MAX_MR = 32 };

static const dn_conv_s8_variant *ref_variant(int nr) {
    for (size_t i = 0; i < dn_conv_s8_ref.variant_count; i++) {
        const dn_conv_s8_variant *v = &dn_conv_s8_ref.variants[i];
        if (v->mr == 1 && v->nr == nr && v->form == DN_FORM_POINTER && v->steps == 1) return v;
    }
    return NULL;
}

/* The same job by the 1-pixel reference, entries split into single steps. */
static void conv_by_ref(const dn_conv_s8_job *job, const dn_conv_s8_variant *v, void *output, const int32_t *in, const int32_t *out, const int32_t *residual, int view) {
    dn_conv_s8_job one = *job;
    dn_tap *taps = malloc(job->tap_count * (size_t)v->steps * sizeof *taps);
    for (size_t t = 0; t < job->tap_count; t++)
        for (int s = 0; s < v->steps; s++) taps[t * (size_t)v->steps + (size_t)s] = (dn_tap){job->taps[t].input + 4 * s, job->taps[t].weight + 64 * s};
    one.taps = taps;
    one.tap_count *= (size_t)v->steps;
    one.output = output;
    const dn_conv_s8_variant *ref = ref_variant(v->nr);
    for (int i = 0; i < v->mr; i++) {
        one.in_offset = in + i;
        one.out_offset = out + i;
        one.residual_offset = residual + i;
        (view ? ref->run_view : ref->run)(&one);
    }
    free(taps);
}

/* Where every pixel lies: evenly spaced, or anywhere with the last one repeated. Returns elements from 0 to the end of the last. */
static size_t place(const dn_conv_s8_variant *v, int32_t *offset, ptrdiff_t *step, int width, int distinct) {
    int end = 0;
    if (v->form == DN_FORM_POINTER) {
        for (int i = 0; i < v->mr; i++) offset[i] = i < distinct ? 4 * pick(0, 3) + i * ((width + 3) / 4 * 4 + 12) : offset[i - 1];
    } else
        for (int i = 0; i < v->mr; i++) offset[i] = (int32_t)(*step * i);
    for (int i = 0; i < v->mr; i++) end = offset[i] + width > end ? offset[i] + width : end;
    return (size_t)end;
}

static void check_conv_case(const char *isa, const dn_conv_s8_variant *v, int view, int large) {
    const uint64_t seed = guard_state;
    const int channels = 4 * v->steps, tap_count = large ? pick(4608 / channels, 6000 / channels) : pick(1, 40), last = pick(1, 16), stored = 16 * (v->nr - 1) + last;
    dn_conv_s8_job job = {.tap_count = (size_t)tap_count, .last = last};
    ptrdiff_t steps[3] = {v->in_step ? v->in_step : 4 * pick(0, 20), (stored + 3) / 4 * 4 + 4 * pick(0, 3), (stored + 3) / 4 * 4 + 4 * pick(0, 3)};
    int32_t in[MAX_MR], out[MAX_MR], residual[MAX_MR];
    const int distinct = pick(1, v->mr);

    guarded taps = guard_alloc((size_t)tap_count * sizeof(dn_tap), 0);
    dn_tap *tap = (dn_tap *)taps.data;
    const int weight_steps = v->steps * tap_count, reach = large ? 8000 : 300;
    int low = 0, high = 0;
    for (int t = 0; t < tap_count; t++) {
        tap[t] = (dn_tap){4 * pick(-reach / 4, reach / 4), t * v->steps * 64};
        if (guard_below(4) == 0) tap[t].weight = guard_below(tap_count) * v->steps * 64;
        low = tap[t].input < low ? tap[t].input : low;
        high = tap[t].input > high ? tap[t].input : high;
    }
    const size_t input_bytes = (size_t)(high - low) + place(v, in, &steps[0], channels, v->mr);
    guarded input = guard_alloc(input_bytes, 7);
    fill_activations(input.data, input_bytes);
    const size_t panel = (size_t)weight_steps * 64 + 64 * (size_t)guard_below(3);
    guarded weights = guard_alloc(panel * (size_t)(v->nr - 1) + (size_t)weight_steps * 64, 0);
    fill_weights((int8_t *)weights.data, weights.bytes);
    guarded scale = guard_alloc((size_t)v->nr * 64, 0), bias = guard_alloc((size_t)v->nr * 64, 0);
    fill_epilogue(&job.epilogue, (float *)scale.data, (float *)bias.data, 16 * v->nr);
    if (guard_below(4) == 0) job.epilogue.flags |= DN_CONV_F32_OUT | (guard_below(2) ? (uint32_t)DN_CONV_ACCUMULATE : 0);

    const int accumulates = (job.epilogue.flags & DN_CONV_ACCUMULATE) != 0;
    const size_t element = job.epilogue.flags & DN_CONV_F32_OUT ? 4 : 1;
    guarded output = guard_alloc(place(v, out, &steps[1], stored, accumulates ? v->mr : distinct) * element, 0xa5);
    if (element == 4)
        for (size_t i = 0; i < output.bytes / 4; i++) ((float *)output.data)[i] = guard_float() * 100;
    guarded expected = twin(output);
    memset((uint8_t *)expected.map + sysconf(_SC_PAGESIZE), 0xa5, (size_t)(expected.data - (uint8_t *)expected.map) - (size_t)sysconf(_SC_PAGESIZE));
    guarded add = guard_alloc(place(v, residual, &steps[2], stored, distinct), 0);
    fill_random(add);

    job.input = input.data - low;
    job.weights = (const int8_t *)weights.data;
    job.output = output.data;
    job.residual = add.data;
    job.taps = tap;
    job.panel_stride = panel;
    fill_view(&job.view_add, &job.view_mask);
    /* Repeated pixels must agree in all three maps. */
    if (v->form == DN_FORM_POINTER && !accumulates)
        for (int i = distinct; i < v->mr; i++) in[i] = in[distinct - 1];
    job.in_offset = in, job.out_offset = out, job.residual_offset = residual;
    conv_by_ref(&job, v, expected.data, in, out, residual, view);
    if (v->form == DN_FORM_ROW) {
        job.in_offset = job.out_offset = job.residual_offset = NULL;
        job.in_step = steps[0], job.out_step = steps[1], job.residual_step = steps[2];
    }
    if (!(job.epilogue.flags & DN_EPI_RESIDUAL)) job.residual = NULL, job.residual_offset = NULL;
    (view ? v->run_view : v->run)(&job);
    CHECK(same(output, expected), "conv_s8 %s %dx%d steps %d form %d in_step %d view %d flags %u taps %d last %d seed %llu", isa, v->mr, v->nr, v->steps, v->form, v->in_step,
          view, job.epilogue.flags, tap_count, last, (unsigned long long)seed);
    const guarded all[] = {taps, input, weights, scale, bias, output, expected, add};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_conv_s8(const dn_conv_s8 *record) {
    for (size_t k = 0; k < record->variant_count; k++) {
        const dn_conv_s8_variant *v = &record->variants[k];
        CHECK(v->mr <= MAX_MR && v->nr <= 4, "conv_s8 %s variant %zu", record->isa, k);
        for (int i = 0; i < 16; i++) {
            check_conv_case(record->isa, v, 0, 0);
            check_conv_case(record->isa, v, 1, 0);
        }
        check_conv_case(record->isa, v, (int)k & 1, k % 8 == 0);
    }
}

/* ---- dwconv_s8 ---- */

static void check_dwconv_case(const dn_dwconv_s8 *record) {
    const uint64_t seed = guard_state;
    static const int kernels[][2] = {{3, 3}, {3, 3}, {5, 5}, {1, 1}, {7, 7}, {2, 3}, {1, 9}, {4, 2}, {12, 11}};
    const int *kernel = kernels[guard_below(9)], kh = kernel[0], kw = kernel[1], channels = guard_below(2) ? pick(1, 80) : 16 * pick(1, 5), width = pick(1, 21), rows = pick(1, 3);
    const int lanes = (channels + 3) / 4 * 4, blocks = (channels + 15) / 16, stride = pick(1, 2), dilation = pick(1, 2), step = lanes + 4 * pick(0, 2);
    dn_dwconv_s8_job job = {.kernel_h = kh, .kernel_w = kw, .rows = rows, .width = width, .channels = channels, .in_step = (ptrdiff_t)stride * step, .in_tap = (ptrdiff_t)dilation * step};
    job.kh_begin = pick(0, kh - 1), job.kh_end = pick(job.kh_begin + 1, kh);
    if (guard_below(2)) job.kh_begin = 0, job.kh_end = kh;
    job.in_row = job.in_step * (width - 1) + job.in_tap * (kw - 1) + lanes + 4 * pick(0, 3);
    job.out_step = channels + pick(0, 5), job.residual_step = channels + pick(0, 5);
    job.in_next = stride * job.in_row, job.out_next = job.out_step * width + pick(0, 9), job.residual_next = job.residual_step * width + pick(0, 9);
    /* Only the rows that may be read exist. */
    const size_t bytes = (size_t)(job.in_next * (rows - 1) + job.in_row * (job.kh_end - 1 - job.kh_begin) + job.in_tap * (kw - 1) + job.in_step * (width - 1) + lanes);
    guarded input = guard_alloc(bytes, 7), weights = guard_alloc((size_t)(blocks * kh * kw * 16), 0), scale = guard_alloc((size_t)blocks * 64, 0), bias = guard_alloc((size_t)blocks * 64, 0);
    fill_activations(input.data, bytes);
    fill_weights((int8_t *)weights.data, weights.bytes);
    fill_epilogue(&job.epilogue, (float *)scale.data, (float *)bias.data, 16 * blocks);
    guarded output = guard_alloc((size_t)(job.out_next * (rows - 1) + job.out_step * (width - 1) + channels), 0xa5), expected = guard_alloc(output.bytes, 0xa5);
    guarded add = guard_alloc((size_t)(job.residual_next * (rows - 1) + job.residual_step * (width - 1) + channels), 0);
    fill_random(add);
    job.view_mask = -1;
    if (guard_below(2)) fill_view(&job.view_add, &job.view_mask);
    job.input = (const uint8_t *)((uintptr_t)input.data - (uintptr_t)(job.in_row * job.kh_begin));
    job.weights = (const int8_t *)weights.data;
    job.residual = job.epilogue.flags & DN_EPI_RESIDUAL ? add.data : NULL;
    job.output = expected.data;
    dn_dwconv_s8_ref.run(&job);
    job.output = output.data;
    record->run(&job);
    CHECK(same(output, expected), "dwconv_s8 %s %dx%d rows %d..%d stride %d dilation %d channels %d rows %d width %d flags %u view %d %d seed %llu", record->isa, kh, kw, job.kh_begin,
          job.kh_end, stride, dilation, channels, rows, width, job.epilogue.flags, job.view_add, job.view_mask, (unsigned long long)seed);
    const guarded all[] = {input, weights, scale, bias, output, expected, add};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_dwconv_s8(const dn_dwconv_s8 *record) {
    for (int i = 0; i < 800; i++) check_dwconv_case(record);
}

/* ---- pointwise_u8 ---- */

static size_t span(ptrdiff_t step, int width, int channels) { return (size_t)(step * (width - 1) + channels); }

static void check_affine(const dn_pointwise_u8 *record) {
    const int channels = 4 * pick(1, 20), width = pick(1, 20), tables = (channels + 15) / 16 * 16;
    dn_pixels_u8 job = {.width = width, .channels = channels, .in_step = channels + 4 * pick(0, 2), .out_step = channels + 4 * pick(0, 2), .residual_step = channels + 4 * pick(0, 2)};
    guarded input = guard_alloc(span(job.in_step, width, channels), 0), add = guard_alloc(span(job.residual_step, width, channels), 0);
    guarded output = guard_alloc(span(job.out_step, width, channels), 0xa5), expected = guard_alloc(output.bytes, 0xa5);
    guarded scale = guard_alloc((size_t)tables * 4, 0), bias = guard_alloc((size_t)tables * 4, 0);
    fill_random(input);
    fill_random(add);
    fill_epilogue(&job.epilogue, (float *)scale.data, (float *)bias.data, tables);
    if (guard_below(2))
        for (int i = 0; i < tables; i++) ((float *)scale.data)[i] = guard_float();
    job.input = input.data;
    job.residual = job.epilogue.flags & DN_EPI_RESIDUAL ? add.data : NULL;
    job.output = expected.data;
    dn_pointwise_u8_ref.affine(&job);
    job.output = output.data;
    record->affine(&job);
    CHECK(same(output, expected), "affine %s width %d channels %d flags %u", record->isa, width, channels, job.epilogue.flags);
    const guarded all[] = {input, add, output, expected, scale, bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_quantize(const dn_pointwise_u8 *record) {
    const int channels = guard_below(2) ? 3 : pick(1, 40), width = pick(1, 40), lanes = (channels + 3) / 4 * 4;
    const ptrdiff_t step = lanes + 4 * pick(0, 2);
    const float inverse = guard_below(2) ? 0.5f : guard_float() * 50, zero = (float)guard_below(256);
    guarded x = guard_alloc((size_t)(width * channels) * 4, 0), bytes = guard_alloc((size_t)(width * channels), 0), table = guard_alloc((size_t)channels * 256, 0);
    guarded output = guard_alloc(span(step, width, lanes), 0xa5), expected = guard_alloc(output.bytes, 0xa5);
    for (int i = 0; i < width * channels; i++) {
        static const float odd[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, -0.0f, 1e-40f};
        ((float *)x.data)[i] = guard_below(16) == 0 ? choose(odd, 7) : guard_below(2) ? (float)pick(-300, 300) : 4 * guard_float();
    }
    dn_pointwise_u8_ref.quantize((const float *)x.data, expected.data, step, width, channels, inverse, zero);
    record->quantize((const float *)x.data, output.data, step, width, channels, inverse, zero);
    CHECK(same(output, expected), "quantize %s width %d channels %d", record->isa, width, channels);
    fill_random(bytes);
    fill_random(table);
    dn_pointwise_u8_ref.lookup(bytes.data, expected.data, step, width, channels, table.data, 77);
    record->lookup(bytes.data, output.data, step, width, channels, table.data, 77);
    CHECK(same(output, expected), "lookup %s width %d channels %d", record->isa, width, channels);
    const guarded all[] = {x, bytes, table, output, expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_dequantize(const dn_pointwise_u8 *record) {
    const int channels = pick(1, 50), width = pick(1, 20), zero = guard_below(256);
    const ptrdiff_t in_step = channels + pick(0, 5), out_step = channels + pick(0, 5);
    const float scale = guard_float();
    guarded x = guard_alloc(span(in_step, width, channels), 0), output = guard_alloc(span(out_step, width, channels) * 4, 0xa5), expected = guard_alloc(output.bytes, 0xa5);
    fill_random(x);
    dn_pointwise_u8_ref.dequantize(x.data, in_step, (float *)expected.data, out_step, width, channels, scale, zero);
    record->dequantize(x.data, in_step, (float *)output.data, out_step, width, channels, scale, zero);
    CHECK(same(output, expected), "dequantize %s width %d channels %d", record->isa, width, channels);
    const guarded all[] = {x, output, expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_mul_map(const dn_pointwise_u8 *record) {
    const int channels = 4 * pick(1, 20), width = pick(1, 20), za = guard_below(256), zb = guard_below(256);
    const ptrdiff_t a_step = channels + 4 * pick(0, 2), b_step = guard_below(2) ? 0 : channels + 4 * pick(0, 2), out_step = channels + 4 * pick(0, 2);
    guarded a = guard_alloc(span(a_step, width, channels), 0), b = guard_alloc(span(b_step, width, channels), 0), table = guard_alloc(256, 0);
    guarded output = guard_alloc(span(out_step, width, channels), 0xa5), expected = guard_alloc(output.bytes, 0xa5);
    fill_random(a);
    fill_random(b);
    fill_random(table);
    const float factor = guard_below(2) ? 0.5f : guard_float() * 0.02f, zero = (float)guard_below(256), lo = (float)guard_below(128), hi = (float)pick(128, 255);
    dn_pointwise_u8_ref.mul(a.data, a_step, za, b.data, b_step, zb, expected.data, out_step, width, channels, factor, zero, lo, hi);
    record->mul(a.data, a_step, za, b.data, b_step, zb, output.data, out_step, width, channels, factor, zero, lo, hi);
    CHECK(same(output, expected), "mul %s width %d channels %d b_step %td", record->isa, width, channels, b_step);
    dn_pointwise_u8_ref.map(a.data, a_step, expected.data, out_step, width, channels, table.data);
    record->map(a.data, a_step, output.data, out_step, width, channels, table.data);
    CHECK(same(output, expected), "map %s width %d channels %d", record->isa, width, channels);
    const guarded all[] = {a, b, table, output, expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_pointwise_u8(const dn_pointwise_u8 *record) {
    for (int i = 0; i < 200; i++) {
        check_affine(record);
        check_quantize(record);
        check_dequantize(record);
        check_mul_map(record);
    }
}

/* ---- pool_u8 ---- */

static void check_pool_u8(const dn_pool_u8 *record) {
    for (int i = 0; i < 300; i++) {
        const int full = i % 50 == 0; /* more pixels of 255 than 16-bit sums hold */
        const int channels = 4 * pick(1, 40), global = guard_below(4) == 0, rows = full ? 16 : pick(1, global ? 16 : 3), columns = full ? 33 : pick(1, global ? 33 : 3);
        const ptrdiff_t tap = channels + 4 * pick(0, 2), row = tap * columns + 4 * pick(0, 2);
        guarded x = guard_alloc((size_t)(row * (rows - 1) + tap * (columns - 1) + channels), 0), output = guard_alloc((size_t)channels, 0xa5), expected = guard_alloc((size_t)channels, 0xa5);
        fill_activations(x.data, x.bytes);
        if (full) memset(x.data, 255, x.bytes);
        const dn_window window = {.input = x.data, .in_row = row, .in_tap = tap, .rows = rows, .columns = columns, .channels = channels};
        dn_pool_u8_ref.max(&window, expected.data);
        record->max(&window, output.data);
        CHECK(same(output, expected), "pool max %s %dx%d channels %d", record->isa, rows, columns, channels);
        const float factor = full || guard_below(2) ? 1.0f / (float)(rows * columns) : guard_below(2) ? 0.5f : guard_float(), bias = guard_below(2) ? 0 : 128 * guard_float();
        dn_pool_u8_ref.avg(&window, expected.data, factor, bias);
        record->avg(&window, output.data, factor, bias);
        CHECK(same(output, expected), "pool avg %s %dx%d channels %d", record->isa, rows, columns, channels);
        guard_free(x), guard_free(output), guard_free(expected);
    }
}

/* Slots of the float kernels have a program of their own. */
#define RUN_conv_f32(record)
#define RUN_dwconv_f32(record)
#define RUN_pointwise_f32(record)
#define RUN_pool_f32(record)
#define RUN_conv_bf16(record)
#define RUN_dwconv_bf16(record)
#define RUN_pointwise_bf16(record)
#define RUN_pool_bf16(record)
#define RUN_convgrad_f32(record)
#define RUN_train_f32(record)
#define RUN_wino_f32(record)
#define RUN_product_f32(record)
#define RUN_conv_s8(record) printf("conv_s8 %s\n", (record)->isa), check_conv_s8(record)
#define RUN_wino_s8(record)
#define RUN_linear_s8(record)
#define RUN_dwconv_s8(record) printf("dwconv_s8 %s\n", (record)->isa), check_dwconv_s8(record)
#define RUN_pointwise_u8(record) printf("pointwise_u8 %s\n", (record)->isa), check_pointwise_u8(record)
#define RUN_pool_u8(record) printf("pool_u8 %s\n", (record)->isa), check_pool_u8(record)

int main(int argc, char **argv) {
    guard_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const unsigned cpu = dn_cpu_detect();
#define DN_KERNEL(slot, isa, needed) \
    if ((cpu & (needed)) == (needed)) { RUN_##slot(&dn_##slot##_##isa); }
#include "kernels/kernels.inc"
#undef DN_KERNEL
    return guard_finish("check_kernels_s8");
}
