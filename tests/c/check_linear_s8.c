/* check_linear_s8.c - linear layers on planes of nibbles against what conv_s8 makes of the same codes in panels of bytes: equal bits at 8, 4, 3 and 2 bits, nothing read or written beyond
 * what the contract names. An argument is the seed. */
#include "random_s8.h"

#include <math.h>

enum { PANEL = 16, MAX_RUNS = 6 };

/* The same codes twice. */
typedef struct weights {
    guarded high, low, bytes;
    size_t channels; /* per panel */
    int panels;
} weights;

static weights random_weights(size_t channels, int panels, int bits) {
    const int most = bits == 2 ? 95 : bits == 3 ? 111 : 119, kind = guard_below(4);
    const size_t count = channels * (size_t)(panels * PANEL);
    weights w = {guard_alloc(count / 2, 0), guard_alloc(count / 2, 0), guard_alloc(count, 0), channels, panels};
    for (size_t i = 0; i < count; i++) {
        const int code = kind == 0 ? most : kind == 1 ? (guard_below(2) ? most : -127) : kind == 2 ? pick(-20, 20) : pick(-128, most);
        const size_t panel = i / (channels * PANEL), step = i / (4 * PANEL) % (channels / 4), lane = i / 4 % PANEL, c = i % 4;
        const size_t at = (panel * (channels / 4) + step) * DN_PLANE_STEP + lane % 8 * 4 + c;
        const int value = code + DN_PLANE_ZERO, shift = lane < 8 ? 0 : 4;
        w.high.data[at] |= (uint8_t)(value / 16 << shift);
        w.low.data[at] |= (uint8_t)(value % 16 << shift);
        w.bytes.data[i] = (uint8_t)code;
    }
    return w;
}

/* Segments of the input in any order, with gaps, and where their weights stand; returns the elements of the input. */
static size_t random_runs(dn_run *runs, size_t *count, size_t *channels) {
    static const int sizes[] = {4, 8, 12, 16, 28, 32, 36, 60, 64, 68, 128, 260};
    size_t input = 0;
    *count = (size_t)pick(1, MAX_RUNS), *channels = 0;
    for (size_t r = 0; r < *count; r++) {
        const int32_t n = sizes[guard_below(12)];
        runs[r] = (dn_run){(int32_t)input, (int32_t)*channels, n};
        input += (size_t)n + (guard_below(2) ? 4 * (size_t)guard_below(5) : 0);
        *channels += (size_t)n + 4 * (size_t)guard_below(3);
    }
    for (size_t r = 0; r + 1 < *count; r++)
        if (guard_below(2)) {
            const dn_run other = runs[r];
            runs[r] = runs[r + 1];
            runs[r + 1] = other;
        }
    return input;
}

/* The same by conv_s8's reference, a panel at a time. */
static void expect(const dn_linear_s8_job *job, const weights *w, void *output) {
    const dn_conv_s8_variant *v = dn_conv_s8_ref.variants;
    dn_tap taps[MAX_RUNS * 65];
    size_t count = 0;
    for (size_t r = 0; r < job->run_count; r++)
        for (int32_t c = 0; c < job->runs[r].count; c += 4) taps[count++] = (dn_tap){job->runs[r].input + c, (job->runs[r].weight + c) * PANEL};
    const size_t element = job->epilogue.flags & DN_CONV_F32_OUT ? 4 : 1;
    for (int panel = 0; panel < job->panels; panel++) {
        dn_conv_s8_job one = {.input = job->input, .weights = (const int8_t *)w->bytes.data + (size_t)panel * w->channels * PANEL, .taps = taps, .tap_count = count,
                              .output = (uint8_t *)output + (size_t)(panel * PANEL) * element, .last = panel == job->panels - 1 ? job->last : PANEL, .epilogue = job->epilogue};
        one.view_add = job->bits == 8 ? 0 : (int8_t)(1 << (7 - job->bits)), one.view_mask = (int8_t)-(1 << (8 - job->bits));
        one.epilogue.scale += panel * PANEL, one.epilogue.bias += panel * PANEL;
        if (job->residual) one.residual = job->residual + panel * PANEL;
        (job->bits == 8 ? v->run : v->run_view)(&one);
    }
}

static void check_case(const dn_linear_s8 *record, int outputs, int bits) {
    const uint64_t seed = guard_state;
    dn_run order[MAX_RUNS];
    size_t run_count, channels;
    const size_t inputs = random_runs(order, &run_count, &channels);
    guarded runs = guard_alloc(run_count * sizeof(dn_run), 0), input = guard_alloc(inputs, 0);
    memcpy(runs.data, order, runs.bytes);
    fill_activations(input.data, inputs);
    const int panels = (outputs + PANEL - 1) / PANEL;
    weights w = random_weights(channels, panels, bits);
    guarded scale = guard_alloc((size_t)panels * 64, 0), bias = guard_alloc((size_t)panels * 64, 0), add = guard_alloc((size_t)outputs, 0), nothing = guard_alloc(1, 0);
    fill_random(add);
    dn_linear_s8_job job = {.input = input.data, .high = w.high.data, .low = bits == 4 ? nothing.data + 1 : w.low.data, .runs = (const dn_run *)(const void *)runs.data, .run_count = run_count,
                            .panel_stride = channels * 8, .panels = panels, .last = outputs - PANEL * (panels - 1), .bits = bits};
    fill_epilogue(&job.epilogue, (float *)(void *)scale.data, (float *)(void *)bias.data, PANEL * panels);
    if (guard_below(3) == 0) job.epilogue.flags |= DN_CONV_F32_OUT | (guard_below(2) ? (uint32_t)DN_CONV_ACCUMULATE : 0);
    if (job.epilogue.flags & DN_EPI_RESIDUAL) job.residual = add.data;
    const size_t element = job.epilogue.flags & DN_CONV_F32_OUT ? 4 : 1;
    guarded output = guard_alloc((size_t)outputs * element, 0xa5), expected = guard_alloc((size_t)outputs * element, 0xa5);
    for (size_t i = 0; element == 4 && i < (size_t)outputs; i++) ((float *)(void *)output.data)[i] = ((float *)(void *)expected.data)[i] = guard_float() * 100;
    expect(&job, &w, expected.data);
    job.output = output.data;
    record->run(&job);
    CHECK(same(output, expected), "linear_s8 %s outputs %d inputs %zu runs %zu bits %d flags %u seed %llu", record->isa, outputs, inputs, run_count, bits, job.epilogue.flags,
          (unsigned long long)seed);
    const guarded all[] = {runs, input, w.high, w.low, w.bytes, scale, bias, add, nothing, output, expected};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

/* The largest sums that a layer may have: every product as large as it can be, and 32 bits just hold them without the planes' constant. */
static void check_large(const dn_linear_s8 *record, int bits) {
    enum { CHANNELS = 65000 };
    const size_t bytes = (size_t)CHANNELS * 8;
    guarded high = guard_alloc(bytes, 0), low = guard_alloc(bytes, 0), input = guard_alloc(CHANNELS, 255), scale = guard_alloc(64, 0), bias = guard_alloc(64, 0);
    for (int sign = 0; sign < 2; sign++) {
        const int code = sign ? 92 : -127;
        memset(high.data, (code + DN_PLANE_ZERO) / 16 * 0x11, bytes);
        memset(low.data, (code + DN_PLANE_ZERO) % 16 * 0x11, bytes);
        const dn_run run = {0, 0, CHANNELS};
        float output[2][PANEL];
        for (int i = 0; i < PANEL; i++) ((float *)(void *)scale.data)[i] = 1;
        dn_linear_s8_job job = {.input = input.data, .high = high.data, .low = low.data, .runs = &run, .run_count = 1, .panel_stride = bytes, .panels = 1, .last = PANEL, .bits = bits, .output = output[0]};
        job.epilogue = (dn_epilogue){.scale = (float *)(void *)scale.data, .bias = (float *)(void *)bias.data, .flags = DN_CONV_F32_OUT};
        dn_linear_s8_ref.run(&job);
        job.output = output[1];
        record->run(&job);
        CHECK(!memcmp(output[0], output[1], sizeof output[0]), "linear_s8 %s bits %d codes %d: %g for %g", record->isa, bits, code, (double)output[1][0], (double)output[0][0]);
    }
    const guarded all[] = {high, low, input, scale, bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

static void check_record(const dn_linear_s8 *record) {
    static const int outputs[] = {1, 3, 4, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 40, 64, 100}, bits[] = {8, 4, 3, 2};
    printf("linear_s8 %s\n", record->isa);
    for (size_t b = 0; b < 4; b++) {
        for (size_t o = 0; o < sizeof outputs / sizeof *outputs; o++)
            for (int i = 0; i < 12; i++) check_case(record, outputs[o], bits[b]);
        check_large(record, bits[b]);
    }
}

/* Slots that have a program of their own. */
#define RUN_conv_s8(record)
#define RUN_wino_s8(record)
#define RUN_dwconv_s8(record)
#define RUN_pointwise_u8(record)
#define RUN_pool_u8(record)
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
#define RUN_linear_s8(record) check_record(record)

int main(int argc, char **argv) {
    guard_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    const unsigned cpu = dn_cpu_detect();
#define DN_KERNEL(slot, isa, needed) \
    if ((cpu & (needed)) == (needed)) { RUN_##slot(&dn_##slot##_##isa); }
#include "kernels/kernels.inc"
#undef DN_KERNEL
    return guard_finish("check_linear_s8");
}
