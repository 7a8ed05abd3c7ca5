/* calibrate_real.c - the real values of one step: convolutions through their own kernels, the rest by plain loops over dequantised inputs. */
#include <math.h>
#include <string.h>

#include "base/size.h"
#include "plan/calibrate.h"

enum { PANEL = 16 };

dn_run_context dn_calibration_context(const dn_calibration *c, size_t image, int worker) {
    dn_run_context run = c->run;
    run.arena = run.target = c->arenas + image * c->lane_bytes;
    run.scratch = c->scratch + (size_t)worker * run.point->scratch_bytes;
    run.input = (const uint8_t *)c->run.input + image * c->image_bytes;
    return run;
}

static dn_map dense_map(const dn_step *step) {
    dn_map map = step->out;
    map.offset = 0;
    map.row = map.width * map.pixel;
    map.top = map.bottom = map.left = map.right = 0;
    map.u8 = false;
    map.size = sizeof(float);
    return map;
}

/* Scale of the tensor's u8 values for a lane's group; floats are what they are. */
static float scale_at(const dn_calibration *c, int32_t tensor, int32_t lane) {
    const dn_graph *graph = c->run.plan->graph;
    return (float)dn_scale_of(&c->binding, tensor, dn_channel_groups(&c->binding, tensor) > 1 ? lane / (graph->nodes[tensor].channels / graph->groups) : 0);
}

static float real_at(const dn_run_context *run, const dn_map *map, int32_t y, int32_t x, int32_t lane, float scale) {
    const uint8_t *pixel = dn_map_at(run->arena, map, y, x);
    return map->u8 ? (float)(pixel[lane] - map->zero) * scale : dn_map_float(map, pixel, lane);
}

static int32_t clip_view(const dn_step *step, int32_t code) {
    int32_t sum = code + step->view_add;
    return (int8_t)((sum > 127 ? 127 : sum) & step->view_mask);
}

static void depthwise_s8(const dn_calibration *c, const dn_run_context *run, float *out) {
    const dn_step *step = c->step;
    const dn_node *node = &run->plan->graph->nodes[c->op->node];
    const int8_t *weights = (const int8_t *)run->plan->blob + c->op->weight_offset;
    const float *scale = dn_table_at(run->point, step->table), *bias = scale + step->table_channels;
    int32_t taps = node->kernel_h * node->kernel_w;
    for (int32_t y = 0; y < step->out.height; y++)
        for (int32_t x = 0; x < step->out.width; x++)
            for (int32_t lane = 0; lane < step->out.pixel; lane++) {
                int32_t acc = 0;
                for (int32_t t = 0; t < taps; t++) {
                    int32_t iy = y * node->stride_h - node->pad_top + t / node->kernel_w * node->dilation_h, ix = x * node->stride_w - node->pad_left + t % node->kernel_w * node->dilation_w;
                    bool inside = iy >= 0 && iy < step->in.height && ix >= 0 && ix < step->in.width;
                    int32_t a = inside ? dn_map_at(run->arena, &step->in, iy, ix)[lane] : step->in.zero;
                    int32_t channel = c->channel[lane] < 0 ? 0 : c->channel[lane];
                    acc += a * clip_view(step, weights[(channel / PANEL * taps + t) * PANEL + channel % PANEL]);
                }
                *out++ = fmaf((float)acc, scale[lane], bias[lane]);
            }
}

/* A convolution whose output map lies in c->real, with nothing fused. Its scalars and tables have been replaced by raw ones. */
static void weighted_raw(const dn_calibration *c, dn_run_context *run, float *out) {
    dn_step raw = *c->step;
    raw.out = dense_map(c->step);
    raw.has_second = false;
    raw.flags = DN_CONV_F32_OUT;
    run->target = (uint8_t *)out;
    run->threads = 1;
    if (c->op->kind == DN_DO_CONV) dn_run_step(run, &raw);
    else if (c->op->int8) depthwise_s8(c, run, out);
    else dn_run_depthwise(run, &raw);
}

static void input_raw(const dn_calibration *c, const dn_run_context *run, float *out) {
    const dn_map *map = &c->step->out;
    size_t i = 0;
    for (int32_t p = 0; p < map->height * map->width; p++)
        for (int32_t lane = 0; lane < map->pixel; lane++) {
            *out++ = lane >= map->channels ? 0 : run->dtype == DN_U8 ? run->plan->input_table[256 * lane + ((const uint8_t *)run->input)[i]] : ((const float *)run->input)[i];
            i += lane < map->channels;
        }
}

static float activate(const dn_node *node, float x) {
    if (node->op == DN_OP_SIGMOID) return (float)(1 / (1 + exp(-(double)x)));
    if (node->op == DN_OP_HARDSIGMOID) return fminf(fmaxf(fmaf(x, 1 / 6.0f, 0.5f), 0), 1);
    return x < 0 ? x * node->value : x;
}

static float average(const dn_calibration *c, const dn_run_context *run, int32_t y, int32_t x, int32_t lane, float scale) {
    const dn_node *node = &run->plan->graph->nodes[c->op->node];
    const dn_map *in = &c->step->in, *out = &c->step->out;
    bool adaptive = node->op == DN_OP_ADAPTIVE_AVG_POOL;
    int32_t y0 = adaptive ? y * in->height / out->height : y * node->stride_h - node->pad_top, x0 = adaptive ? x * in->width / out->width : x * node->stride_w - node->pad_left;
    int32_t y1 = adaptive ? ((y + 1) * in->height + out->height - 1) / out->height : y0 + node->kernel_h;
    int32_t x1 = adaptive ? ((x + 1) * in->width + out->width - 1) / out->width : x0 + node->kernel_w;
    float sum = 0;
    int32_t cells = 0;
    for (int32_t iy = y0 < 0 ? 0 : y0; iy < y1 && iy < in->height; iy++)
        for (int32_t ix = x0 < 0 ? 0 : x0; ix < x1 && ix < in->width; ix++, cells++) sum += real_at(run, in, iy, ix, lane, scale);
    return sum / (float)cells;
}

/* One value of an element-wise step, a pool or a copy. */
static float plain_value(const dn_calibration *c, const dn_run_context *run, int32_t y, int32_t x, int32_t lane) {
    const dn_node *node = &run->plan->graph->nodes[c->op->node];
    const dn_step *step = c->step;
    float scale = scale_at(c, dn_op_input(run->plan, c->op), lane);
    if (c->op->kind == DN_DO_AVG_POOL) return average(c, run, y, x, lane, scale);
    float a = real_at(run, &step->in, y, x, lane, scale);
    if (c->op->kind == DN_DO_ACTIVATION) return activate(node, a);
    if (c->op->kind != DN_DO_MUL) return a;
    bool broadcast = step->second.height == 1 && step->second.width == 1;
    return a * real_at(run, &step->second, broadcast ? 0 : y, broadcast ? 0 : x, lane, scale_at(c, node->inputs[1], lane));
}

static void concat_raw(const dn_calibration *c, const dn_run_context *run, float *out) {
    const dn_concat_part *parts = c->step->inputs;
    const dn_node *node = &run->plan->graph->nodes[c->op->node];
    for (int32_t k = 0; k < c->step->parts; k++)
        for (int32_t y = 0; y < c->step->out.height; y++)
            for (int32_t x = 0; x < c->step->out.width; x++)
                for (int32_t lane = 0; lane < parts[k].in.pixel; lane++)
                    out[(y * c->step->out.width + x) * c->step->out.pixel + parts[k].lane + lane] = real_at(run, &parts[k].in, y, x, lane, scale_at(c, node->inputs[k], lane));
}

void dn_real_raw(const dn_calibration *c, size_t image, int worker) {
    dn_run_context run = dn_calibration_context(c, image, worker);
    float *out = c->real + image * c->real_stride;
    if (c->op->kind == DN_DO_CONV || c->op->kind == DN_DO_DEPTHWISE) weighted_raw(c, &run, out);
    else if (c->op->kind == DN_DO_INPUT) input_raw(c, &run, out);
    else if (c->op->kind == DN_DO_CONCAT) concat_raw(c, &run, out);
    else
        for (int32_t y = 0; y < c->step->out.height; y++)
            for (int32_t x = 0; x < c->step->out.width; x++)
                for (int32_t lane = 0; lane < c->step->out.pixel; lane++) *out++ = c->channel[lane] < 0 ? 0 : plain_value(c, &run, y, x, lane);
}

/* gamma / sqrt(variance + epsilon) and beta - mean * that, per lane. */
static void norm_lines(const dn_calibration *c, int32_t lane, float *k, float *shift) {
    const dn_plan *plan = c->run.plan;
    *k = 1;
    *shift = 0;
    int32_t channel = c->channel[lane];
    if (c->op->norm < 0 || channel < 0) return;
    const dn_node *norm = &plan->graph->nodes[c->op->norm];
    size_t at = (size_t)norm->norm_offset + (size_t)channel;
    double slope = (double)dn_gamma_of(plan, c->tables, c->op->norm)[channel] / sqrt((double)c->tables->variance[at] + (double)norm->value);
    *k = (float)slope;
    *shift = (float)((double)dn_beta_of(plan, c->tables, c->op->norm)[channel] - (double)c->tables->mean[at] * slope);
}

static float finish(const dn_calibration *c, float v) {
    if (c->op->act < 0) return v;
    dn_op act = c->run.plan->graph->nodes[c->op->act].op;
    if (act == DN_OP_HARDSWISH) return v * fminf(fmaxf(fmaf(v, 1 / 6.0f, 0.5f), 0), 1);
    return act == DN_OP_RELU6 ? fminf(fmaxf(v, 0), 6) : fmaxf(v, 0);
}

void dn_real_finish(const dn_calibration *c, size_t image) {
    dn_run_context run = dn_calibration_context(c, image, 0);
    const dn_step *step = c->step;
    for (int32_t lane = 0; lane < step->out.pixel; lane++) {
        float k, shift, scale = c->op->residual >= 0 ? scale_at(c, c->op->residual, lane) : 1, *out = c->real + image * c->real_stride + lane;
        norm_lines(c, lane, &k, &shift);
        for (int32_t y = 0; y < step->out.height; y++)
            for (int32_t x = 0; x < step->out.width; x++, out += step->out.pixel) {
                float v = c->channel[lane] < 0 ? 0 : fmaf(*out, k, shift);
                if (c->op->residual >= 0 && c->channel[lane] >= 0) v += real_at(&run, &step->second, y, x, lane, scale);
                *out = c->channel[lane] < 0 ? 0 : finish(c, v);
            }
    }
}
