/* run_pixels.c - every step that is not a convolution: input, output, element-wise, pools, copies. One thread: they are short. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "plan/plan.h"

static float *as_f32(void *p) { return p; }

/* ---- input and output ---- */

/* Lanes [begin, end) of `count` pixels from number `first` of the image on: bytes through the preprocessing table, or floats as they are; lanes beyond the channels are zero. */
static inline void image_floats(const dn_run_context *run, size_t first, int32_t count, int32_t channels, int32_t begin, int32_t end, float *out) {
    const float *floats = (const float *)run->input + first * (size_t)channels, *table = run->plan->input_table;
    const uint8_t *bytes = (const uint8_t *)run->input + first * (size_t)channels;
    const int32_t filled = end < channels ? end : channels;
    for (int32_t x = 0; x < count; x++, floats += channels, bytes += channels) {
        if (run->dtype == DN_U8)
            for (int32_t c = begin; c < filled; c++) *out++ = table[256 * c + bytes[c]];
        else
            for (int32_t c = begin; c < filled; c++) *out++ = floats[c];
        for (int32_t c = filled; c < end; c++) *out++ = 0;
    }
}

static void image_part(const dn_run_context *run, size_t first, int32_t count, int32_t channels, int32_t begin, int32_t end, float *out) {
    if (channels == 3 && begin == 0 && end == 4) image_floats(run, first, count, 3, 0, 4, out);
    else image_floats(run, first, count, channels, begin, end, out);
}

static void float_input_row(const dn_run_context *run, const dn_step *step, int32_t y, void *out) {
    enum { PART = 256 };
    const int32_t channels = step->out.channels, lanes = step->out.pixel, width = step->out.width, span = lanes < PART ? lanes : PART, together = PART / span;
    const size_t first = (size_t)y * (size_t)width;
    if (step->out.size != 2) {
        image_part(run, first, width, channels, 0, lanes, out);
        return;
    }
    uint16_t *to = out;
    for (int32_t x = 0; x < width; x += together)
        for (int32_t begin = 0; begin < lanes; begin += span) {
            const int32_t count = width - x < together ? width - x : together, end = lanes - begin < span ? lanes : begin + span, filled = count * (end - begin);
            float part[PART];
            image_part(run, first + (size_t)x, count, channels, begin, end, part);
            for (int32_t i = 0; i < filled; i++) *to++ = dn_bf16_round(part[i]);
        }
}

static void run_input(const dn_run_context *run, const dn_step *step) {
    const dn_pointwise_u8 *kernels = run->plan->kernels.pointwise_u8;
    for (int32_t y = 0; y < step->out.height; y++) {
        uint8_t *out = dn_map_at(run->target, &step->out, y, 0);
        size_t row = (size_t)y * (size_t)step->out.width * (size_t)step->out.channels;
        if (!step->out.u8) float_input_row(run, step, y, out);
        else if (run->dtype == DN_U8)
            kernels->lookup((const uint8_t *)run->input + row, out, step->out.pixel, step->out.width, step->out.channels, run->point->tables + step->extra, 128);
        else kernels->quantize((const float *)run->input + row, out, step->out.pixel, step->out.width, step->out.channels, step->scalars->out_scale, 128);
    }
}

/* The active channels of every pixel, without lanes; the output's spaces are never sliced. */
static void run_output(const dn_run_context *run, const dn_step *step) {
    const dn_plan_op *op = &run->plan->ops[step->op];
    const dn_node *node = &run->plan->graph->nodes[op->output];
    const dn_scalars *s = step->scalars;
    float *out = run->output;
    for (int32_t y = 0; y < step->in.height; y++)
        for (int32_t x = 0; x < step->in.width; x++) {
            const uint8_t *in = dn_map_at(run->arena, &step->in, y, x);
            size_t lane = 0;
            for (int32_t k = 0; k < node->segment_count; k++) {
                size_t count = (size_t)node->segments[k].full;
                if (step->in.u8) run->plan->kernels.pointwise_u8->dequantize(in + lane, step->in.pixel, out, (ptrdiff_t)count, 1, (int32_t)count, s->in_scale, (int32_t)s->in_zero);
                for (size_t c = 0; c < count && !step->in.u8; c++) out[c] = dn_map_float(&step->in, in, (ptrdiff_t)(lane + c));
                out += count;
                lane += dn_round_up(count, 4);
            }
        }
}

/* ---- element-wise ---- */

static dn_epilogue affine_epilogue(const dn_run_context *run, const dn_step *step, const dn_scalars *s) {
    const float *scale = dn_table_at(run->point, step->table) + s->begin;
    return (dn_epilogue){.scale = scale, .bias = scale + step->table_channels, .residual_scale = s->residual_scale, .lo = s->lo, .hi = s->hi,
                         .out_scale = s->out_scale, .out_zero = s->out_zero, .flags = step->flags};
}

static void run_affine(const dn_run_context *run, const dn_step *step) {
    for (int32_t y = 0; y < step->out.height; y++) {
        uint8_t *in = dn_map_at(run->arena, &step->in, y, 0), *out = dn_map_at(run->target, &step->out, y, 0), *residual = dn_map_at(run->arena, &step->second, y, 0);
        for (int32_t g = dn_first_chunk(run, step); g < step->groups; g++) {
            const dn_scalars *s = step->scalars + g;
            dn_epilogue epilogue = affine_epilogue(run, step, s);
            if (step->out.u8)
                run->plan->kernels.pointwise_u8->affine(&(dn_pixels_u8){in + s->begin, out + s->begin, step->has_second ? residual + s->begin : NULL, step->in.pixel, step->out.pixel,
                                                                         step->second.pixel, step->out.width, s->count, epilogue});
            else
                run->plan->kernels.pointwise_f32->affine(
                    &(dn_pixels_f32){in + s->begin * step->in.size, out + s->begin * step->out.size, step->has_second ? residual + s->begin * step->second.size : NULL,
                                     step->in.pixel, step->out.pixel, step->second.pixel, step->out.width, s->count, epilogue});
        }
    }
}

static void activation_f32(const dn_run_context *run, const dn_step *step, const uint8_t *in, uint8_t *out) {
    const dn_node *node = &run->plan->graph->nodes[run->plan->ops[step->op].node];
    const dn_pointwise_f32 *kernels = run->plan->kernels.pointwise_f32;
    int32_t first = dn_first_lane(run, step), lanes = step->out.pixel - first;
    in += first * step->in.size;
    out += first * step->out.size;
    if (node->op == DN_OP_SIGMOID) kernels->sigmoid(in, step->in.pixel, out, step->out.pixel, step->out.width, lanes);
    else if (node->op == DN_OP_HARDSIGMOID) kernels->hardsigmoid(in, step->in.pixel, out, step->out.pixel, step->out.width, lanes);
    else kernels->leaky_relu(in, step->in.pixel, out, step->out.pixel, step->out.width, lanes, node->value);
}

static void run_activation(const dn_run_context *run, const dn_step *step) {
    for (int32_t y = 0; y < step->out.height; y++) {
        uint8_t *in = dn_map_at(run->arena, &step->in, y, 0), *out = dn_map_at(run->target, &step->out, y, 0);
        if (!step->out.u8) activation_f32(run, step, in, out);
        for (int32_t g = dn_first_chunk(run, step); step->out.u8 && g < step->groups; g++) {
            const dn_scalars *s = step->scalars + g;
            run->plan->kernels.pointwise_u8->map(in + s->begin, step->in.pixel, out + s->begin, step->out.pixel, step->out.width, s->count, run->point->tables + step->extra + 256 * g);
        }
    }
}

static void run_mul(const dn_run_context *run, const dn_step *step) {
    bool broadcast = step->second.height == 1 && step->second.width == 1 && (step->out.height > 1 || step->out.width > 1);
    for (int32_t y = 0; y < step->out.height; y++) {
        uint8_t *a = dn_map_at(run->arena, &step->in, y, 0), *b = dn_map_at(run->arena, &step->second, broadcast ? 0 : y, 0), *out = dn_map_at(run->target, &step->out, y, 0);
        ptrdiff_t b_step = broadcast ? 0 : step->second.pixel;
        int32_t first = dn_first_lane(run, step), at = first * step->out.size; /* all three have elements of one size */
        if (!step->out.u8) run->plan->kernels.pointwise_f32->mul(a + at, step->in.pixel, b + at, b_step, out + at, step->out.pixel, step->out.width, step->out.pixel - first);
        for (int32_t g = dn_first_chunk(run, step); step->out.u8 && g < step->groups; g++) {
            const dn_scalars *s = step->scalars + g;
            run->plan->kernels.pointwise_u8->mul(a + s->begin, step->in.pixel, step->in.zero, b + s->begin, b_step, step->second.zero, out + s->begin, step->out.pixel, step->out.width,
                                                 s->count, s->factor, s->out_zero, s->lo, s->hi);
        }
    }
}

/* ---- pools ---- */

typedef struct span {
    int32_t begin, end;
} span;

/* Input positions of output o along one axis, clipped to the map. */
static span window_of(const dn_node *node, bool horizontal, int32_t o, int32_t in, int32_t out) {
    if (node->op == DN_OP_ADAPTIVE_AVG_POOL) return (span){o * in / out, ((o + 1) * in + out - 1) / out};
    int32_t k = horizontal ? node->kernel_w : node->kernel_h, s = horizontal ? node->stride_w : node->stride_h, before = horizontal ? node->pad_left : node->pad_top;
    span w = {o * s - before, o * s - before + k};
    if (w.begin < 0) w.begin = 0;
    if (w.end > in) w.end = in;
    return w;
}

static void pool_pixel(const dn_run_context *run, const dn_step *step, const dn_window *window, uint8_t *out, bool max) {
    int32_t cells = window->rows * window->columns;
    for (int32_t g = dn_first_chunk(run, step); g < step->groups; g++) {
        const dn_scalars *s = step->scalars + g;
        dn_window part = *window;
        size_t element = (size_t)step->out.size;
        part.input = (const uint8_t *)window->input + (size_t)s->begin * element;
        part.channels = s->count;
        uint8_t *to = out + (size_t)s->begin * element;
        double in_scale = (double)s->in_scale, out_scale = (double)s->out_real;
        if (step->out.u8 && max) run->plan->kernels.pool_u8->max(&part, to);
        else if (step->out.u8)
            run->plan->kernels.pool_u8->avg(&part, to, (float)(in_scale / (cells * out_scale)), (float)((double)s->out_zero - (double)s->in_zero * in_scale / out_scale));
        else if (max) run->plan->kernels.pool_f32->max(&part, to);
        else run->plan->kernels.pool_f32->avg(&part, to, 1.0f / (float)cells);
    }
}

static void run_pool(const dn_run_context *run, const dn_step *step, bool max) {
    const dn_node *node = &run->plan->graph->nodes[run->plan->ops[step->op].node];
    for (int32_t y = 0; y < step->out.height; y++) {
        span rows = window_of(node, false, y, step->in.height, step->out.height);
        for (int32_t x = 0; x < step->out.width; x++) {
            span columns = window_of(node, true, x, step->in.width, step->out.width);
            dn_window window = {dn_map_at(run->arena, &step->in, rows.begin, columns.begin), step->in.row, step->in.pixel, rows.end - rows.begin, columns.end - columns.begin, 0};
            pool_pixel(run, step, &window, dn_map_at(run->target, &step->out, y, x), max);
        }
    }
}

/* ---- copies ---- */

static void run_concat(const dn_run_context *run, const dn_step *step) {
    const dn_concat_part *parts = step->inputs;
    size_t element = (size_t)step->out.size;
    for (int32_t k = 0; k < step->parts; k++) {
        const dn_map *in = &parts[k].in;
        const float *scale = dn_table_at(run->point, parts[k].table);
        dn_epilogue epilogue = {.scale = scale, .bias = scale + in->pixel, .hi = 255};
        for (int32_t y = 0; y < step->out.height; y++) {
            const uint8_t *from = dn_map_at(run->arena, in, y, 0);
            uint8_t *to = dn_map_at(run->target, &step->out, y, 0) + (size_t)parts[k].lane * element;
            if (!parts[k].copy) {
                run->plan->kernels.pointwise_u8->affine(&(dn_pixels_u8){from, to, NULL, in->pixel, step->out.pixel, 0, in->width, in->pixel, epilogue});
                continue;
            }
            for (int32_t x = 0; x < in->width; x++) memcpy(to + (size_t)(x * step->out.pixel) * element, from + (size_t)(x * in->pixel) * element, (size_t)in->pixel * element);
        }
    }
}

/* A row of zeros, from lane `first` of every pixel on. */
static void clear_row(uint8_t *to, const dn_map *map, int32_t first) {
    size_t pixel = (size_t)map->pixel * (size_t)map->size, skip = (size_t)first * (size_t)map->size;
    int zero = map->u8 ? map->zero : 0;
    if (first == 0) memset(to, zero, (size_t)map->width * pixel);
    for (int32_t x = 0; first > 0 && x < map->width; x++) memset(to + (size_t)x * pixel + skip, zero, pixel - skip);
}

/* Lanes [to, to + count) of the output are lanes [from, ...) of the input. */
typedef struct lane_run {
    int32_t to, from, count;
} lane_run;
enum { LANE_RUNS = 8 };

/* The runs that a map of lanes consists of, as many as there is room for; *lane: the first lane behind them. */
static int32_t find_runs(const int32_t *map, int32_t lanes, int32_t *lane, lane_run runs[LANE_RUNS]) {
    int32_t count = 0, to = *lane;
    for (; to < lanes; to++) {
        if (map[to] < 0) continue;
        lane_run *last = count > 0 ? &runs[count - 1] : NULL;
        if (last && last->to + last->count == to && last->from + last->count == map[to]) last->count++;
        else if (count == LANE_RUNS) break;
        else runs[count++] = (lane_run){to, map[to], 1};
    }
    *lane = to;
    return count;
}

/* Lanes of a pixel are too few for a call of memcpy. */
static void copy_lanes(uint8_t *to, const uint8_t *from, size_t size) {
    for (; size >= 16; to += 16, from += 16, size -= 16) memcpy(to, from, 16);
    for (; size >= 4; to += 4, from += 4, size -= 4) memcpy(to, from, 4);
    for (; size > 0; size--) *to++ = *from++;
}

static void copy_runs(const dn_run_context *run, const dn_step *step, const lane_run *runs, int32_t count) {
    const dn_node *node = &run->plan->graph->nodes[run->plan->ops[step->op].node];
    const size_t size = (size_t)step->out.size;
    for (int32_t y = 0; y < step->out.height; y++)
        for (int32_t x = 0; x < step->out.width; x++) {
            const uint8_t *in = dn_map_at(run->arena, &step->in, y * node->stride_h, x * node->stride_w);
            uint8_t *out = dn_map_at(run->target, &step->out, y, x);
            for (int32_t r = 0; r < count; r++) copy_lanes(out + (size_t)runs[r].to * size, in + (size_t)runs[r].from * size, (size_t)runs[r].count * size);
        }
}

static void run_shortcut(const dn_run_context *run, const dn_step *step) {
    const int32_t *map = (const int32_t *)(const void *)(run->point->tables + step->extra);
    const int32_t first = dn_first_lane(run, step);
    lane_run runs[LANE_RUNS];
    for (int32_t y = 0; y < step->out.height; y++) clear_row(dn_map_at(run->target, &step->out, y, 0), &step->out, first);
    for (int32_t lane = first; lane < step->out.pixel;) {
        int32_t count = find_runs(map, step->out.pixel, &lane, runs);
        copy_runs(run, step, runs, count);
    }
}

/* The lanes from `first` on of a row: zero points, and from column `left` on the pixels of a row of the input. */
static void pad_row(uint8_t *to, const dn_map *map, const uint8_t *from, int32_t width, int32_t left, int32_t first) {
    size_t size = (size_t)map->size, pixel = (size_t)map->pixel * size, skip = (size_t)first * size;
    for (int32_t x = 0; x < map->width; x++, to += pixel) {
        bool inside = from && x >= left && x < left + width;
        if (inside) memcpy(to + skip, from + (size_t)(x - left) * pixel + skip, pixel - skip);
        else memset(to + skip, map->u8 ? map->zero : 0, pixel - skip);
    }
}

static void run_pad(const dn_run_context *run, const dn_step *step) {
    const dn_node *node = &run->plan->graph->nodes[run->plan->ops[step->op].node];
    for (int32_t y = 0; y < step->out.height; y++) {
        int32_t from = y - node->pad_top;
        const uint8_t *row = from < 0 || from >= step->in.height ? NULL : dn_map_at(run->arena, &step->in, from, 0);
        pad_row(dn_map_at(run->target, &step->out, y, 0), &step->out, row, step->in.width, node->pad_left, dn_first_lane(run, step));
    }
}

static void run_conversion(const dn_run_context *run, const dn_step *step) {
    const dn_pointwise_u8 *kernels = run->plan->kernels.pointwise_u8;
    for (int32_t y = 0; y < step->out.height; y++) {
        uint8_t *in = dn_map_at(run->arena, &step->in, y, 0), *out = dn_map_at(run->target, &step->out, y, 0);
        for (int32_t g = dn_first_chunk(run, step); g < step->groups; g++) {
            const dn_scalars *s = step->scalars + g;
            if (!step->out.u8) {
                kernels->dequantize(in + s->begin, step->in.pixel, as_f32(out) + s->begin, step->out.pixel, step->out.width, s->count, s->in_scale, (int32_t)s->in_zero);
                continue;
            }
            for (int32_t x = 0; x < step->out.width; x++) /* quantize reads contiguous pixels; here they have lanes and groups */
                kernels->quantize(as_f32(in) + x * step->in.pixel + s->begin, out + x * step->out.pixel + s->begin, step->out.pixel, 1, s->count, s->out_scale, s->out_zero);
        }
    }
}

void dn_run_pixels(const dn_run_context *run, const dn_step *step) {
    switch (run->plan->ops[step->op].kind) {
    case DN_DO_INPUT: run_input(run, step); break;
    case DN_DO_AFFINE: run_affine(run, step); break;
    case DN_DO_ACTIVATION: run_activation(run, step); break;
    case DN_DO_MUL: run_mul(run, step); break;
    case DN_DO_CONCAT: run_concat(run, step); break;
    case DN_DO_MAX_POOL: run_pool(run, step, true); break;
    case DN_DO_AVG_POOL: run_pool(run, step, false); break;
    case DN_DO_SHORTCUT: run_shortcut(run, step); break;
    case DN_DO_PAD: run_pad(run, step); break;
    case DN_DO_QUANTIZE:
    case DN_DO_DEQUANTIZE: run_conversion(run, step); break;
    case DN_DO_OUTPUT: run_output(run, step); return;
    case DN_DO_CONV:
    case DN_DO_DEPTHWISE: return; /* dn_run_step sends them elsewhere */
    }
    if (run->target == run->arena) dn_fill_halo(run->target, &step->out, 0, step->out.height);
}
