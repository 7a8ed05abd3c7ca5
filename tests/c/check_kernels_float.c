/* check_kernels_float.c - every float and bfloat16 kernel this CPU can run gives the bits of `ref`, and touches nothing it was not given.
 *
 * check_kernels_float [seed [cases]]. Each buffer ends (or, one in four, begins) at a page that faults. Numbers are random; in one case of four NaN, infinities, zeros of both signs
 * and subnormals are among them. Only the sign and payload of a NaN may differ, and subnormals where the CPU's bfloat16 instructions take them for zero. */
#include "guard.h"

#include <math.h>
#include <stdbool.h>

#include "base/bf16.h"
#include "kernels/kernels.h"

enum { MAX_PIXELS = 32, MAX_RUNS = 5 };

static int cases = 300;
static const char *kernel; /* what is being checked */
static bool special;       /* the present case has special numbers */
static bool normal;        /* no subnormals among them */
static size_t element;     /* bytes of an activation or weight: 4, or 2 in a bf16 slot */

/* ---- buffers ---- */

typedef struct buffer {
    guarded memory;
    float *data; /* of floats */
    size_t count, size;
    int fill;
} buffer;

static int between(int low, int high) { return low + guard_below(high - low + 1); }

static float random_value(void) {
    static const float odd[] = {1e-40f, -1e-45f, 0.0f, -0.0f, 3e38f, -3e38f, 6.0f, -3.0f, INFINITY, -INFINITY, NAN};
    if (special && guard_below(40) == 0) return odd[between(normal ? 2 : 0, (int)(sizeof odd / sizeof *odd) - 1)];
    return guard_float();
}

static void *place(const void *base, ptrdiff_t elements, size_t size) { return (uint8_t *)(uintptr_t)base + elements * (ptrdiff_t)size; }

static float value_at(const void *data, size_t i, size_t size) { return size == 2 ? dn_bf16_widen(((const uint16_t *)data)[i]) : ((const float *)data)[i]; }

static buffer new_sized(size_t count, size_t size) {
    buffer b = {.count = count, .size = size, .fill = 1 + guard_below(255)};
    b.memory = guard_alloc(count * size, b.fill);
    if (guard_below(4) == 0) b.memory.data = (uint8_t *)b.memory.map + sysconf(_SC_PAGESIZE);
    b.data = (float *)(void *)b.memory.data;
    for (size_t i = 0; i < count; i++) {
        float value = random_value();
        if (size == 2) ((uint16_t *)(void *)b.data)[i] = dn_bf16_round(value);
        else b.data[i] = value;
    }
    return b;
}

/* Tables are floats; activations and weights are elements. */
static buffer new_floats(size_t count) { return new_sized(count, sizeof(float)); }
static buffer new_buffer(size_t count) { return new_sized(count, element); }

static buffer copy_buffer(const buffer *from) {
    buffer b = new_sized(from->count, from->size);
    memcpy(b.data, from->data, from->count * from->size);
    return b;
}

/* The floats that elements stand for. */
static buffer widen_buffer(const buffer *from) {
    buffer b = new_floats(from->count);
    for (size_t i = 0; i < from->count; i++) b.data[i] = value_at(from->data, i, from->size);
    return b;
}

static bool same(float a, float b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }

/* Whole buffers are compared, so whatever a kernel should have left alone is too; what surrounds them in their pages must still hold its fill. */
static void compare(const char *what, const buffer *expected, const buffer *found) {
    for (size_t i = 0; i < expected->count; i++) {
        float a = value_at(expected->data, i, expected->size), b = value_at(found->data, i, found->size);
        if (!same(a, b)) {
            CHECK(false, "%s: %s, element %zu is %a, ref has %a", kernel, what, i, (double)b, (double)a);
            return;
        }
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const uint8_t *from = (const uint8_t *)found->memory.map + page, *to = (const uint8_t *)found->memory.map + found->memory.map_bytes - page;
    for (const uint8_t *p = from; p < to; p++)
        if ((p < found->memory.data || p >= found->memory.data + found->memory.bytes) && *p != found->fill) {
            CHECK(false, "%s: %s, written outside", kernel, what);
            return;
        }
}

static void free_buffers(buffer *buffers, int count) {
    for (int i = 0; i < count; i++) guard_free(buffers[i].memory);
}

static int lanes(int channels) { return (channels + 3) / 4 * 4; }

static dn_epilogue random_epilogue(const buffer *scale, const buffer *bias, uint32_t flags) {
    static const float low[] = {-INFINITY, 0, -1.5f, -0.0f}, high[] = {INFINITY, 6, 1, 255};
    return (dn_epilogue){
        .scale = scale->data, .bias = bias->data, .residual_scale = guard_float(), .lo = low[guard_below(4)], .hi = high[guard_below(4)],
        .out_scale = guard_float() * 9, .out_zero = guard_float(), .flags = flags & (uint32_t)guard_random(),
    };
}

/* ---- conv ---- */

/* A tile as `ref` makes it from elements: pixel by pixel, panel by panel. */
static void conv_by_ones(const dn_conv_f32 *ref, const dn_conv_f32_job *job, int mr, int nr, int form) {
    void (*one)(const dn_conv_f32_job *) = NULL;
    for (size_t v = 0; v < ref->variant_count; v++)
        if (ref->variants[v].mr == 1 && ref->variants[v].nr == 1) one = ref->variants[v].run;
    size_t out_size = job->epilogue.flags & DN_CONV_F32_OUT ? sizeof(float) : element;
    for (int i = 0; i < mr; i++)
        for (int j = 0; j < nr; j++) {
            bool row = form == DN_FORM_ROW;
            dn_conv_f32_job part = *job;
            part.input = place(part.input, row ? i * job->in_step : job->in_offset[i], element);
            part.output = place(part.output, (row ? i * job->out_step : job->out_offset[i]) + 16 * j, out_size);
            if (job->epilogue.flags & DN_EPI_RESIDUAL) part.residual = place(part.residual, (row ? i * job->residual_step : job->residual_offset[i]) + 16 * j, element);
            part.weights = place(part.weights, j * (ptrdiff_t)job->panel_stride, element);
            part.epilogue.scale += 16 * j;
            part.epilogue.bias += 16 * j;
            part.last = j == nr - 1 ? job->last : 16;
            one(&part);
        }
}

/* Weights as variants that read floats have them: pairs of channels taken apart. */
static buffer widen_weights(const buffer *weights) {
    buffer wide = widen_buffer(weights);
    for (size_t i = 0; i < weights->count && element == 2; i++) wide.data[i / 32 * 32 + i % 2 * 16 + i % 32 / 2] = value_at(weights->data, i, 2);
    return wide;
}

/* Random entries; sets what of the input and of a panel they reach. */
static size_t random_runs(dn_run runs[MAX_RUNS], size_t *input, size_t *weights) {
    size_t count = (size_t)between(1, MAX_RUNS);
    *input = *weights = 0;
    for (size_t r = 0; r < count; r++) {
        int step = element == 2 ? 2 : 1; /* channels that stand together */
        runs[r] = (dn_run){4 * guard_below(20), (int32_t)*weights + 16 * step * guard_below(3), between(1, 21)};
        *weights = (size_t)(runs[r].weight + 16 * ((runs[r].count + step - 1) / step * step));
        size_t reach = (size_t)(runs[r].input + runs[r].count);
        if (reach > *input) *input = reach;
    }
    return count;
}

static void check_conv_variant(const dn_conv_f32 *ref, const dn_conv_f32_variant *variant) {
    int mr = variant->mr, nr = variant->nr, last = between(1, 16), width = 16 * (nr - 1) + last;
    bool row = variant->form == DN_FORM_ROW;
    dn_run runs[MAX_RUNS];
    size_t reach, panel;
    dn_conv_f32_job job = {.runs = runs, .last = last};
    job.run_count = random_runs(runs, &reach, &panel);
    job.panel_stride = panel + (size_t)(32 * guard_below(3));
    job.in_step = 4 * guard_below(10);
    job.out_step = lanes(width) + 4 * guard_below(3);
    job.residual_step = lanes(width) + 4 * guard_below(3);
    int32_t in_offset[MAX_PIXELS], out_offset[MAX_PIXELS], residual_offset[MAX_PIXELS], used = between(1, mr), shift = guard_below(used);
    for (int i = 0; i < mr; i++) {
        int pixel = row ? i : ((i < used ? i : used - 1) + shift) % used; /* out of order, the last one repeated */
        in_offset[i] = (int32_t)(pixel * job.in_step);
        out_offset[i] = (int32_t)(pixel * job.out_step);
        residual_offset[i] = (int32_t)(pixel * job.residual_step);
    }
    size_t behind = (size_t)((row ? mr : used) - 1);
    enum { INPUT, WEIGHTS, SCALE, BIAS, RESIDUAL, OUTPUT, EXPECTED, WIDE_INPUT, WIDE_WEIGHTS, BUFFERS };
    buffer b[BUFFERS];
    b[INPUT] = new_buffer(behind * (size_t)job.in_step + reach);
    b[WEIGHTS] = new_buffer((size_t)(nr - 1) * job.panel_stride + panel);
    b[SCALE] = new_floats((size_t)nr * 16);
    b[BIAS] = new_floats((size_t)nr * 16);
    b[RESIDUAL] = new_buffer(behind * (size_t)job.residual_step + (size_t)width);
    uint32_t flags = DN_EPI_RESIDUAL | DN_EPI_HARDSWISH | DN_CONV_F32_OUT;
    if (row || used == mr) flags |= DN_CONV_ACCUMULATE;
    job.input = b[INPUT].data;
    job.weights = b[WEIGHTS].data;
    job.epilogue = random_epilogue(&b[SCALE], &b[BIAS], guard_below(3) ? flags : DN_EPI_RESIDUAL);
    if (element == 2 && !(job.epilogue.flags & DN_CONV_F32_OUT)) job.epilogue.flags &= ~(uint32_t)DN_CONV_ACCUMULATE;
    b[OUTPUT] = new_sized(behind * (size_t)job.out_step + (size_t)width, job.epilogue.flags & DN_CONV_F32_OUT ? sizeof(float) : element);
    b[EXPECTED] = copy_buffer(&b[OUTPUT]);
    b[WIDE_INPUT] = widen_buffer(&b[INPUT]);
    b[WIDE_WEIGHTS] = widen_weights(&b[WEIGHTS]);
    if (job.epilogue.flags & DN_EPI_RESIDUAL) job.residual = b[RESIDUAL].data;
    if (!row) {
        job.in_offset = in_offset;
        job.out_offset = out_offset;
        job.residual_offset = residual_offset;
        job.in_step = job.out_step = job.residual_step = 0;
    }
    job.output = b[EXPECTED].data;
    conv_by_ones(ref, &job, mr, nr, variant->form);
    job.output = b[OUTPUT].data;
    if (variant->floats) job.input = b[WIDE_INPUT].data, job.weights = b[WIDE_WEIGHTS].data;
    variant->run(&job);
    char what[80];
    snprintf(what, sizeof what, "%dx%d %s, last %d, flags %u", mr, nr, row ? "row" : "pointer", last, job.epilogue.flags);
    compare(what, &b[EXPECTED], &b[OUTPUT]);
    free_buffers(b, BUFFERS);
}

static void check_conv(const dn_conv_f32 *ref, const dn_conv_f32 *record) {
    for (size_t v = 0; v < record->variant_count; v++)
        for (int i = 0; i < cases; i++) {
            special = i % 4 == 3;
            check_conv_variant(ref, &record->variants[v]);
        }
}

static void check_widen(const dn_conv_bf16 *record) {
    for (int i = 0; i < cases; i++) {
        special = i % 4 == 3;
        size_t channels = (size_t)between(1, 45), filled = (channels + 1) / 2 * 2;
        buffer x = new_buffer(channels), w = new_buffer(filled * 16), wide[2] = {new_floats(channels), new_floats(channels * 16)};
        buffer expected[2] = {copy_buffer(&wide[0]), copy_buffer(&wide[1])};
        dn_conv_bf16_ref.widen((const uint16_t *)(const void *)x.data, expected[0].data, channels);
        record->widen((const uint16_t *)(const void *)x.data, wide[0].data, channels);
        compare("widen", &expected[0], &wide[0]);
        dn_conv_bf16_ref.widen_weights((const uint16_t *)(const void *)w.data, expected[1].data, channels);
        record->widen_weights((const uint16_t *)(const void *)w.data, wide[1].data, channels);
        compare("widen_weights", &expected[1], &wide[1]);
        buffer all = widen_weights(&w);
        CHECK(memcmp(all.data, expected[1].data, channels * 16 * sizeof(float)) == 0, "%s: widened weights stand elsewhere", kernel);
        buffer used[] = {x, w, wide[0], wide[1], expected[0], expected[1], all};
        free_buffers(used, sizeof used / sizeof *used);
    }
}

static void check_conv_f32(const dn_conv_f32 *record) { check_conv(&dn_conv_f32_ref, record); }
static void check_conv_bf16(const dn_conv_bf16 *record) {
    normal = strcmp(record->isa, "avx512bf16") == 0;
    check_conv(&dn_conv_bf16_ref, record);
    normal = false;
    if (record->widen) check_widen(record);
}

/* ---- dwconv ---- */

static void check_dwconv_case(const dn_dwconv_f32 *ref, const dn_dwconv_f32 *record) {
    int channels = between(1, 80), step = lanes(channels), height = between(1, 5), width = between(1, 5), pixels = between(1, 11), rows = between(1, 3);
    dn_dwconv_f32_job job = {.kernel_h = height, .kernel_w = width, .rows = rows, .width = pixels, .channels = channels};
    job.kh_begin = guard_below(height);
    job.kh_end = between(job.kh_begin + 1, height);
    job.in_tap = step * between(1, 2);
    job.in_step = step * between(1, 2);
    job.in_row = 4 * between(1, 200);
    job.out_step = step + 4 * guard_below(2);
    job.residual_step = step + 4 * guard_below(2);
    job.in_next = 4 * guard_below(200);
    job.out_next = job.out_step * pixels + 4 * guard_below(3);
    job.residual_next = 4 * guard_below(100);
    enum { INPUT, WEIGHTS, SCALE, BIAS, RESIDUAL, OUTPUT, EXPECTED, BUFFERS };
    buffer b[BUFFERS];
    size_t table = (size_t)(channels + 15) / 16 * 16, behind = (size_t)(pixels - 1), below = (size_t)(rows - 1);
    b[INPUT] = new_buffer(below * (size_t)job.in_next + (size_t)((job.kh_end - job.kh_begin - 1) * job.in_row + (width - 1) * job.in_tap) + behind * (size_t)job.in_step + (size_t)step);
    b[WEIGHTS] = new_buffer(table * (size_t)(height * width));
    b[SCALE] = new_floats(table);
    b[BIAS] = new_floats(table);
    b[RESIDUAL] = new_buffer(below * (size_t)job.residual_next + behind * (size_t)job.residual_step + (size_t)step);
    job.input = place(b[INPUT].data, -job.kh_begin * job.in_row, element);
    job.weights = b[WEIGHTS].data;
    job.epilogue = random_epilogue(&b[SCALE], &b[BIAS], guard_below(4) ? DN_EPI_RESIDUAL | DN_EPI_HARDSWISH : DN_EPI_RESIDUAL | DN_CONV_F32_OUT);
    b[OUTPUT] = new_sized(below * (size_t)job.out_next + behind * (size_t)job.out_step + (size_t)channels, job.epilogue.flags & DN_CONV_F32_OUT ? sizeof(float) : element);
    b[EXPECTED] = copy_buffer(&b[OUTPUT]);
    if (job.epilogue.flags & DN_EPI_RESIDUAL) job.residual = b[RESIDUAL].data;
    job.output = b[EXPECTED].data;
    ref->run(&job);
    job.output = b[OUTPUT].data;
    record->run(&job);
    char what[80];
    snprintf(what, sizeof what, "%dx%d, %d channels, %d rows of %d pixels, flags %u", height, width, channels, rows, pixels, job.epilogue.flags);
    compare(what, &b[EXPECTED], &b[OUTPUT]);
    free_buffers(b, BUFFERS);
}

static void check_dwconv(const dn_dwconv_f32 *ref, const dn_dwconv_f32 *record) {
    for (int i = 0; i < 4 * cases; i++) {
        special = i % 4 == 3;
        check_dwconv_case(ref, record);
    }
}

static void check_dwconv_f32(const dn_dwconv_f32 *record) { check_dwconv(&dn_dwconv_f32_ref, record); }
static void check_dwconv_bf16(const dn_dwconv_bf16 *record) {
    normal = strcmp(record->isa, "avx512bf16") == 0;
    check_dwconv(&dn_dwconv_bf16_ref, record);
    normal = false;
}

/* ---- pointwise ---- */

enum { AFFINE, MUL, SIGMOID, HARDSIGMOID, LEAKY_RELU, OPERATIONS };
static const char *const operation_names[] = {"affine", "mul", "sigmoid", "hardsigmoid", "leaky_relu"};

static void run_pointwise(const dn_pointwise_f32 *record, int operation, dn_pixels_f32 *job, void *output, float slope) {
    const void *x = job->input, *y = job->residual;
    switch (operation) {
    case AFFINE:
        job->output = output;
        record->affine(job);
        break;
    case MUL: record->mul(x, job->in_step, y, job->residual_step, output, job->out_step, job->width, job->channels); break;
    case SIGMOID: record->sigmoid(x, job->in_step, output, job->out_step, job->width, job->channels); break;
    case HARDSIGMOID: record->hardsigmoid(x, job->in_step, output, job->out_step, job->width, job->channels); break;
    case LEAKY_RELU: record->leaky_relu(x, job->in_step, output, job->out_step, job->width, job->channels, slope); break;
    default: break;
    }
}

static void check_pointwise_case(const dn_pointwise_f32 *ref, const dn_pointwise_f32 *record, int operation) {
    int channels = operation == AFFINE ? 4 * between(1, 13) : between(1, 50), width = between(1, 9), step = lanes(channels);
    bool dense = guard_below(2), broadcast = operation == MUL && guard_below(2);
    dn_pixels_f32 job = {.width = width, .channels = channels};
    job.in_step = dense ? channels : step + 4 * guard_below(3);
    job.out_step = dense ? channels : step + 4 * guard_below(3);
    job.residual_step = broadcast ? 0 : step;
    enum { INPUT, SCALE, BIAS, RESIDUAL, OUTPUT, EXPECTED, BUFFERS };
    buffer b[BUFFERS];
    size_t table = (size_t)(channels + 15) / 16 * 16, behind = (size_t)(width - 1);
    b[INPUT] = new_buffer(behind * (size_t)job.in_step + (size_t)channels);
    if (guard_below(2)) /* sigmoids have long tails */
        for (size_t i = 0; i < b[INPUT].count; i++) {
            float far = value_at(b[INPUT].data, i, element) * 100;
            if (element == 2) ((uint16_t *)(void *)b[INPUT].data)[i] = dn_bf16_round(far);
            else b[INPUT].data[i] = far;
        }
    b[SCALE] = new_floats(table);
    b[BIAS] = new_floats(table);
    b[RESIDUAL] = new_buffer(behind * (size_t)job.residual_step + (size_t)channels);
    b[OUTPUT] = new_buffer(behind * (size_t)job.out_step + (size_t)channels);
    b[EXPECTED] = copy_buffer(&b[OUTPUT]);
    job.input = b[INPUT].data;
    job.epilogue = random_epilogue(&b[SCALE], &b[BIAS], DN_EPI_RESIDUAL | DN_EPI_HARDSWISH);
    if (operation == MUL || job.epilogue.flags & DN_EPI_RESIDUAL) job.residual = b[RESIDUAL].data;
    float slope = guard_float() * 2;
    run_pointwise(ref, operation, &job, b[EXPECTED].data, slope);
    run_pointwise(record, operation, &job, b[OUTPUT].data, slope);
    char what[80];
    snprintf(what, sizeof what, "%s, %d channels, %d pixels, flags %u", operation_names[operation], channels, width, job.epilogue.flags);
    compare(what, &b[EXPECTED], &b[OUTPUT]);
    free_buffers(b, BUFFERS);
}

static void check_pointwise(const dn_pointwise_f32 *ref, const dn_pointwise_f32 *record) {
    for (int operation = 0; operation < OPERATIONS; operation++)
        for (int i = 0; i < 2 * cases; i++) {
            special = i % 4 == 3;
            check_pointwise_case(ref, record, operation);
        }
}

static void check_pointwise_f32(const dn_pointwise_f32 *record) { check_pointwise(&dn_pointwise_f32_ref, record); }
static void check_pointwise_bf16(const dn_pointwise_bf16 *record) { check_pointwise(&dn_pointwise_bf16_ref, record); }

/* ---- pool ---- */

static void check_pool_case(const dn_pool_f32 *ref, const dn_pool_f32 *record, bool average) {
    int channels = 4 * between(1, 25);
    dn_window window = {.rows = between(1, 5), .columns = between(1, 5), .channels = channels};
    window.in_tap = channels + 4 * guard_below(3);
    window.in_row = 4 * guard_below(300);
    enum { INPUT, OUTPUT, EXPECTED, BUFFERS };
    buffer b[BUFFERS];
    b[INPUT] = new_buffer((size_t)((window.rows - 1) * window.in_row + (window.columns - 1) * window.in_tap + channels));
    b[OUTPUT] = new_buffer((size_t)channels);
    b[EXPECTED] = copy_buffer(&b[OUTPUT]);
    window.input = b[INPUT].data;
    if (average) {
        float factor = guard_float();
        ref->avg(&window, b[EXPECTED].data, factor);
        record->avg(&window, b[OUTPUT].data, factor);
    } else {
        ref->max(&window, b[EXPECTED].data);
        record->max(&window, b[OUTPUT].data);
    }
    char what[80];
    snprintf(what, sizeof what, "%s %dx%d, %d channels", average ? "avg" : "max", window.rows, window.columns, channels);
    compare(what, &b[EXPECTED], &b[OUTPUT]);
    free_buffers(b, BUFFERS);
}

static void check_pool(const dn_pool_f32 *ref, const dn_pool_f32 *record) {
    for (int i = 0; i < 4 * cases; i++) {
        special = i % 4 >= 2;
        check_pool_case(ref, record, i % 2);
    }
}

static void check_pool_f32(const dn_pool_f32 *record) { check_pool(&dn_pool_f32_ref, record); }
static void check_pool_bf16(const dn_pool_bf16 *record) { check_pool(&dn_pool_bf16_ref, record); }

/* ---- convgrad_f32 ---- */

/* One channel, one panel at a time, through the smallest tile of `ref`. */
static void convgrad_by_ones(const dn_convgrad_f32_job *job, int nr) {
    const dn_convgrad_f32_variant *narrow = &dn_convgrad_f32_ref.variants[0];
    for (size_t v = 0; v < dn_convgrad_f32_ref.variant_count; v++)
        if (dn_convgrad_f32_ref.variants[v].nr == 1) narrow = &dn_convgrad_f32_ref.variants[v];
    for (int c = 0; c < job->channels; c++)
        for (int j = 0; j < nr; j++) {
            dn_convgrad_f32_job part = *job;
            part.x += c;
            part.dy += 16 * j;
            part.dw += 16 * c + (ptrdiff_t)((size_t)j * job->panel_stride);
            part.channels = 1;
            part.last = j == nr - 1 ? job->last : 16;
            narrow->run(&part);
        }
}

static void check_convgrad_variant(const dn_convgrad_f32_variant *variant) {
    int nr = variant->nr, last = between(1, 16), channels = between(1, variant->mr), outputs = 16 * (nr - 1) + last;
    dn_convgrad_f32_job job = {.rows = between(1, 4), .columns = between(1, 7), .channels = channels, .last = last};
    job.panel_stride = (size_t)(16 * between(channels, channels + 3));
    job.x_step = 4 * guard_below(9);
    job.x_row = 4 * guard_below(99);
    job.dy_step = 4 * guard_below(9);
    job.dy_row = 4 * guard_below(99);
    enum { X, DY, DW, EXPECTED, BUFFERS };
    buffer b[BUFFERS];
    size_t down = (size_t)(job.rows - 1), across = (size_t)(job.columns - 1);
    b[X] = new_buffer(down * (size_t)job.x_row + across * (size_t)job.x_step + (size_t)channels);
    b[DY] = new_buffer(down * (size_t)job.dy_row + across * (size_t)job.dy_step + (size_t)outputs);
    b[DW] = new_buffer((size_t)(nr - 1) * job.panel_stride + (size_t)channels * 16);
    b[EXPECTED] = copy_buffer(&b[DW]);
    job.x = b[X].data;
    job.dy = b[DY].data;
    job.dw = b[EXPECTED].data;
    convgrad_by_ones(&job, nr);
    job.dw = b[DW].data;
    variant->run(&job);
    char what[80];
    snprintf(what, sizeof what, "%dx%d, %d channels, last %d", variant->mr, nr, channels, last);
    compare(what, &b[EXPECTED], &b[DW]);
    free_buffers(b, BUFFERS);
}

static void check_convgrad_f32(const dn_convgrad_f32 *record) {
    for (size_t v = 0; v < record->variant_count; v++)
        for (int i = 0; i < 3 * cases; i++) {
            special = i % 4 == 3;
            check_convgrad_variant(&record->variants[v]);
        }
}

/* ---- product_f32 ---- */

/* What product_f32 is, written down once more. */
static void product_by_hand(const dn_product_f32_job *job, int nr) {
    for (int32_t row = 0; row < job->rows; row++) {
        float sums[16 * MAX_RUNS] = {0};
        for (int c = 0; c < 16 * nr; c++)
            for (size_t r = 0; r < job->run_count; r++)
                for (int32_t k = 0; k < job->runs[r].count; k++)
                    sums[c] = fmaf(job->x[row * job->in_step + job->runs[r].input + k], job->weights[(size_t)(c / 16) * job->panel_stride + (size_t)(job->runs[r].weight + 16 * k + c % 16)], sums[c]);
        memcpy(job->out + row * job->out_step, sums, sizeof(float) * 16 * (size_t)nr);
    }
}

static void check_product_variant(const dn_product_f32_variant *variant) {
    const int nr = variant->nr, outputs = 16 * nr;
    const bool in_place = guard_below(2);
    int channels = in_place ? outputs : between(1, 70), first = guard_below(channels), between_runs = guard_below(5);
    const dn_run runs[] = {{0, 0, first}, {first, 16 * (first + between_runs), channels - first}};
    const size_t panel = (size_t)(16 * (channels + between_runs)), rows = (size_t)between(1, 3 * variant->mr);
    dn_product_f32_job job = {.rows = (int32_t)rows, .in_step = channels + (in_place ? 0 : guard_below(3)), .panel_stride = panel, .runs = runs + (first == 0), .run_count = 1 + (first > 0)};
    job.out_step = in_place ? job.in_step : outputs + guard_below(3);
    buffer weights = new_floats((size_t)nr * panel), x = new_floats((rows - 1) * (size_t)job.in_step + (size_t)channels);
    buffer out = in_place ? copy_buffer(&x) : new_floats((rows - 1) * (size_t)job.out_step + (size_t)outputs), expected = copy_buffer(&out);
    job.x = x.data;
    job.weights = weights.data;
    job.out = expected.data;
    product_by_hand(&job, nr);
    job.out = out.data;
    if (in_place) job.x = out.data;
    variant->run(&job);
    char what[80];
    snprintf(what, sizeof what, "%dx%d, %zu rows of %d channels%s", variant->mr, nr, rows, channels, in_place ? ", in place" : "");
    compare(what, &expected, &out);
    buffer all[] = {weights, x, out, expected};
    free_buffers(all, (int)(sizeof all / sizeof *all));
}

static void check_product_f32(const dn_product_f32 *record) {
    for (size_t v = 0; v < record->variant_count; v++)
        for (int i = 0; i < 2 * cases; i++) {
            special = i % 4 == 3;
            check_product_variant(&record->variants[v]);
        }
}

/* ---- wino_f32 ---- */

/* What a transform is called on: maps of some tiles and 16 positions of channels, and what a tile of 2 x 2 outputs ends with. */
typedef struct wino_case {
    size_t channels, tiles, lanes, position;
    ptrdiff_t step, row;
    dn_epilogue epilogue;
    bool add;
    buffer in, residual;
} wino_case;

enum { WINO_INPUT, WINO_OUTPUT, WINO_GRADIENT, WINO_WEIGHTS, WINO_SUMS, WINO_KINDS };

static void run_wino(const dn_wino_f32 *record, int kind, const wino_case *c, float *out) {
    const float *in = c->in.data;
    switch (kind) {
    case WINO_INPUT: record->input(in, c->row, c->step, c->channels, c->tiles, out, c->position); break;
    case WINO_OUTPUT: record->output(in, c->position, c->lanes, c->channels, c->tiles, out, c->row, c->step, c->add ? c->residual.data : NULL, c->row, c->step, &c->epilogue); break;
    case WINO_GRADIENT: record->gradient(in, c->row, c->step, c->channels, c->tiles, out, c->position); break;
    case WINO_WEIGHTS: record->weights(in, c->position, out, c->position, c->channels); break;
    case WINO_SUMS: record->sums(in, c->position, out, c->position, c->channels); break;
    default: break;
    }
}

/* Tile by tile. */
static void wino_by_ones(int kind, const wino_case *c, float *out) {
    wino_case one = *c;
    const bool to_positions = kind == WINO_INPUT || kind == WINO_GRADIENT;
    for (size_t t = 0; t < c->tiles; t++) {
        ptrdiff_t pixels = 2 * (ptrdiff_t)t * c->step;
        one.tiles = 1;
        one.in.data = c->in.data + (to_positions ? pixels : (ptrdiff_t)(t * c->lanes));
        one.residual.data = c->residual.data + pixels;
        run_wino(&dn_wino_f32_ref, kind, &one, out + (to_positions ? (ptrdiff_t)(t * c->channels) : pixels));
    }
}

static void check_wino_case(const dn_wino_f32 *record, int kind) {
    static const char *const names[WINO_KINDS] = {"input", "output", "gradient", "weights", "sums"};
    wino_case c = {.channels = (size_t)between(1, 40), .tiles = 1};
    if (kind == WINO_INPUT || kind == WINO_OUTPUT || kind == WINO_GRADIENT) c.tiles = (size_t)between(1, 4);
    c.lanes = c.channels + (kind == WINO_OUTPUT ? (size_t)guard_below(9) : 0);
    c.position = c.tiles * c.lanes + (size_t)guard_below(9);
    c.step = (ptrdiff_t)c.channels + guard_below(5);
    c.row = (2 + 2 * (ptrdiff_t)c.tiles) * c.step + guard_below(9);
    const ptrdiff_t side = kind == WINO_INPUT ? 4 : 2;
    const size_t pixels = (size_t)((side - 1) * (c.row + c.step) + 2 * (ptrdiff_t)(c.tiles - 1) * c.step) + c.channels, taps = 8 * c.position + c.channels;
    const size_t positions = 15 * c.position + (c.tiles - 1) * c.lanes + c.channels;
    buffer scale = new_floats(c.channels), bias = new_floats(c.channels);
    c.add = guard_below(2);
    c.epilogue = (dn_epilogue){.scale = scale.data, .bias = bias.data, .residual_scale = guard_float(), .lo = guard_below(2) ? 0 : -INFINITY, .hi = guard_below(2) ? 0.5f : INFINITY,
                               .out_scale = 1, .flags = guard_below(3) ? 0 : DN_EPI_HARDSWISH};
    c.in = new_floats(kind == WINO_INPUT || kind == WINO_GRADIENT ? pixels : kind == WINO_WEIGHTS ? taps : positions);
    c.residual = new_floats(pixels);
    buffer expected = new_floats(kind == WINO_OUTPUT ? pixels : kind == WINO_SUMS ? taps : positions), found = copy_buffer(&expected);
    wino_by_ones(kind, &c, expected.data);
    run_wino(record, kind, &c, found.data);
    char what[80];
    snprintf(what, sizeof what, "%s, %zu tiles of %zu channels%s", names[kind], c.tiles, c.channels, c.add ? ", residual" : "");
    compare(what, &expected, &found);
    buffer all[] = {scale, bias, c.in, c.residual, expected, found};
    free_buffers(all, (int)(sizeof all / sizeof *all));
}

static void check_wino_f32(const dn_wino_f32 *record) {
    for (int kind = 0; kind < WINO_KINDS; kind++)
        for (int i = 0; i < cases; i++) {
            special = i % 4 == 3;
            check_wino_case(record, kind);
        }
}

/* ---- all of kernels.inc ---- */

/* Rounding to bfloat16 against what it means: the nearer of two neighbours, the even one where both are as near. */
static void check_rounding(void) {
    kernel = "dn_bf16_round";
    for (int i = 0; i < 1000 * cases; i++) {
        uint32_t bits = (uint32_t)guard_random();
        if (i % 3 == 0) bits = (bits & 0xffff0000) | 0x8000;
        float x;
        memcpy(&x, &bits, sizeof x);
        uint16_t found = dn_bf16_round(x), below = (uint16_t)(bits >> 16);
        if (isnan(x)) {
            CHECK(isnan(dn_bf16_widen(found)), "%s: NaN %08x is %04x", kernel, bits, found);
            continue;
        }
        int32_t rest = (int32_t)(bits & 0xffff);
        uint16_t expected = (uint16_t)(below + (rest > 0x8000 || (rest == 0x8000 && below % 2)));
        CHECK(found == expected, "%s: %08x is %04x", kernel, bits, found);
    }
}

/* The sigmoid is the one approximation: `ref` itself is held against libm. */
static void check_sigmoid_accuracy(void) {
    kernel = "pointwise_f32 ref";
    for (int i = -8600; i <= 8600; i++) {
        float x = (float)i * 0.01f, found;
        dn_pointwise_f32_ref.sigmoid(&x, 4, &found, 4, 1, 1);
        double expected = 1 / (1 + exp(-(double)x));
        CHECK(fabs(found - expected) <= 2.5e-7 * expected, "%s: sigmoid(%g) is %g", kernel, (double)x, (double)found);
    }
}

#define check_conv_s8(record) ((void)(record))
#define check_wino_s8(record) ((void)(record))
#define check_linear_s8(record) ((void)(record))
#define check_dwconv_s8(record) ((void)(record))
#define check_pointwise_u8(record) ((void)(record))
#define check_pool_u8(record) ((void)(record))
#define check_train_f32(record) ((void)(record))

int main(int argc, char **argv) {
    guard_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
    if (argc > 2) cases = atoi(argv[2]);
    printf("seed %llu, %d cases\n", (unsigned long long)guard_state, cases);
    unsigned features = dn_cpu_detect();
    check_sigmoid_accuracy();
    check_rounding();
#define DN_KERNEL(slot, isa, needed)                             \
    if ((features & (unsigned)(needed)) == (unsigned)(needed)) { \
        kernel = #slot " " #isa;                                 \
        element = strstr(kernel, "bf16") ? 2 : 4;                \
        if (strstr(kernel, "f32") || element == 2) printf("%s\n", kernel); \
        check_##slot(&dn_##slot##_##isa);                        \
    }
#include "kernels/kernels.inc"
#undef DN_KERNEL
    return guard_finish("check_kernels_float");
}
