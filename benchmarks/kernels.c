/* kernels.c - times kernels as plans drive them, in turns with the probe of their dot product.
 *
 * Reads cases from standard input, one a line: "ISA TYPE OP SIDE INPUTS OUTPUTS KERNEL STRIDE SECONDS", and answers each with "NAME GIGA SHARE": the kernel that ran, 1e9
 * multiply-accumulates (or elements, where nothing is multiplied) per second, and the share of the probe's speed (0: no probe). "-" where this ISA has no such kernel,
 * "differs" where its outputs are wrong.
 * Networks of one layer, lowered and bound as ever, choose the tiles; their outputs are compared with the reference kernels' (unless that takes long: the kernels are the
 * same), then the one step is repeated. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/probe.h"
#include "base/size.h"
#include "plan/plan.h"

enum { MAX_NODES = 8, MAX_PAIRS = 2000, LEAST_PAIRS = 5 };
static const double BLOCK = 100e-6; /* seconds: long against the clock, short against a time slice */

typedef struct request {
    char isa[16], type[8], op[16];
    int side, inputs, outputs, kernel, stride;
    double seconds;
} request;

typedef struct answer {
    char name[64];
    double giga, share;
    int differs;
} answer;

static void *memory(size_t bytes) {
    void *p = aligned_alloc(64, dn_round_up(bytes + 64, 64));
    if (!p) exit(3);
    memset(p, 0, dn_round_up(bytes + 64, 64));
    return p;
}

static float noise(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }

static float *floats(size_t count, float size) {
    float *p = memory(count * sizeof *p);
    for (size_t i = 0; i < count; i++) p[i] = size * noise();
    return p;
}

/* ---- timing ---- */

typedef struct work {
    void (*run)(const void *context);
    const void *context;
} work;

static double seconds_of(const work *w, int64_t repeats) {
    int64_t start = dn_clock_ns();
    for (int64_t i = 0; i < repeats; i++) w->run(w->context);
    return (double)(dn_clock_ns() - start) * 1e-9;
}

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Blocks of work and probe in the order probe, work, work, probe; the median of the ratios of neighbours. */
static void measure(const work *w, double operations, double limit, answer *out) {
    static double speed[MAX_PAIRS], share[MAX_PAIRS];
    dn_probe_loop loop = dn_probe_find(out->name);
    double once = seconds_of(w, 3) / 3;
    const int64_t repeats = once > BLOCK ? 1 : (int64_t)ceil(BLOCK / once), rounds = loop.run ? (int64_t)ceil(1000 * BLOCK / dn_probe_time(&loop, 1000)) : 0;
    int pairs = 0;
    for (int64_t end = dn_clock_ns() + (int64_t)(limit * 1e9); pairs < MAX_PAIRS && (pairs < LEAST_PAIRS || dn_clock_ns() < end); pairs++) {
        double before = loop.run ? dn_probe_time(&loop, rounds) : 0;
        double time = seconds_of(w, repeats) + seconds_of(w, repeats);
        double probe = before + (loop.run ? dn_probe_time(&loop, rounds) : 0);
        speed[pairs] = operations * (double)(2 * repeats) / time;
        share[pairs] = loop.run ? speed[pairs] * probe / (loop.macs * (double)(2 * rounds)) : 0;
    }
    out->giga = median(speed, pairs) * 1e-9;
    out->share = median(share, pairs);
}

/* ---- networks of one layer ---- */

typedef struct layer {
    dn_node_spec nodes[MAX_NODES];
    int32_t links[MAX_NODES][2];
    int32_t count, target; /* the node that is timed */
} layer;

static int32_t add_node(layer *net, dn_node_spec node, int32_t first, int32_t second) {
    int32_t number = net->count++;
    net->links[number][0] = first;
    net->links[number][1] = second;
    node.name = node.op;
    node.inputs = net->links[number];
    node.input_count = first < 0 ? 0 : second < 0 ? 1 : 2;
    node.stage = -1;
    for (int k = 0; k < 2; k++) {
        node.kernel[k] = node.kernel[k] ? node.kernel[k] : 1;
        node.stride[k] = node.stride[k] ? node.stride[k] : 1;
        node.dilation[k] = 1;
    }
    node.groups = node.groups ? node.groups : 1;
    net->nodes[number] = node;
    return number;
}

/* Linear layers on planes of nibbles, in a plan that offers 4 bits: "planes8", "planes4"; 0 for other layers. */
static int planes_bits(const request *r) { return strncmp(r->op, "planes", 6) ? 0 : r->op[6] - '0'; }

/* The layer between two activations, so that it reads and writes what it would inside a network. `first` reads the input itself. */
static int describe(layer *net, const request *r) {
    const int pad = r->kernel / 2, is_linear = !strcmp(r->op, "linear") || planes_bits(r);
    memset(net, 0, sizeof *net);
    int32_t x = add_node(net, (dn_node_spec){.op = "input", .height = r->side, .width = r->side, .channels = r->inputs}, -1, -1);
    if (strcmp(r->op, "first")) {
        x = add_node(net, (dn_node_spec){.op = "conv2d", .channels = r->inputs, .groups = r->inputs}, x, -1);
        x = add_node(net, (dn_node_spec){.op = "relu"}, x, -1);
    }
    dn_node_spec node = {.op = r->op, .channels = r->outputs, .kernel = {r->kernel, r->kernel}, .stride = {r->stride, r->stride}, .pad = {pad, pad, pad, pad}};
    if (!strcmp(r->op, "first") || !strcmp(r->op, "conv")) node.op = "conv2d";
    else if (!strcmp(r->op, "dwconv")) node.op = "conv2d", node.groups = r->inputs;
    else if (!strcmp(r->op, "max_pool") || !strcmp(r->op, "avg_pool")) memset(node.pad, 0, sizeof node.pad);
    else if (is_linear) node.op = "linear";
    else if (strcmp(r->op, "add")) return 0;
    int32_t second = strcmp(r->op, "add") ? -1 : add_node(net, (dn_node_spec){.op = "max_pool"}, x, -1);
    net->target = add_node(net, node, x, second);
    if (!strcmp(node.op, "conv2d") || is_linear) (void)add_node(net, (dn_node_spec){.op = "relu"}, net->target, -1);
    return 1;
}

static void fill_params(dn_params *params, const dn_graph *graph, const layer *net, int int8) {
    for (int32_t i = 0; i < net->count; i++) {
        dn_tensor_info info;
        dn_graph_tensor(graph, i, &info);
        if (!info.weights) continue;
        const size_t count = (size_t)info.weights;
        if (!int8) {
            params[i].weight = floats(count, 2 / sqrtf((float)(info.weights / info.channels)));
            continue;
        }
        int8_t *codes = memory(count);
        float *scale = memory((size_t)info.channels * sizeof *scale);
        for (size_t k = 0; k < count; k++) codes[k] = (int8_t)(rand() % 247 - 127); /* all that 4 bits can be offered of */
        for (int32_t k = 0; k < info.channels; k++) scale[k] = 0.02f / sqrtf((float)(info.weights / info.channels));
        params[i].codes = codes;
        params[i].code_scale = scale;
    }
}

typedef struct repeated {
    dn_run_context run;
    const dn_step *step;
} repeated;

static void run_repeated(const void *context) {
    const repeated *r = context;
    dn_run_step(&r->run, r->step);
}

/* Multiply-accumulates that are issued: columns beside the map count, rows above and below it only where they are not left out. */
static double issued(const dn_plan *plan, const dn_step *step) {
    const dn_node *node = &plan->graph->nodes[plan->ops[step->op].node];
    int64_t rows = 0;
    for (int32_t y = 0; y < node->height; y++)
        for (int32_t k = 0; k < node->kernel_h; k++) {
            int32_t row = y * node->stride_h - node->pad_top + k;
            rows += row >= -step->in.top && row < step->in.height + step->in.bottom;
        }
    return (double)step->macs * (double)rows / (double)(node->height * node->kernel_h);
}

static void time_step(const dn_plan *plan, const dn_point *point, const layer *net, const request *r, answer *out) {
    const dn_node *in = &plan->graph->nodes[0], *last = &plan->graph->nodes[net->count - 1];
    uint8_t *arena = memory(point->arena_bytes + 64), *scratch = memory(point->scratch_bytes);
    float *input = floats((size_t)in->height * (size_t)in->width * (size_t)in->channels, 3), *output = memory((size_t)last->height * (size_t)last->width * (size_t)last->channels * 4);
    dn_steps steps;
    if (dn_steps_new(&steps, plan, NULL) != DN_OK) exit(1);
    dn_steps_write(&steps, point);
    repeated timed = {{.plan = plan, .point = point, .steps = steps.steps, .arena = arena, .target = arena, .scratch = scratch, .input = input, .dtype = DN_F32, .output = output, .threads = 1}, NULL};
    for (int32_t k = 0; k < point->step_count; k++) {
        const dn_step *step = &steps.steps[k];
        const dn_plan_op *op = &plan->ops[step->op];
        dn_run_step(&timed.run, step);
        if (op->node != net->target || op->kind == DN_DO_OUTPUT || op->kind == DN_DO_DEQUANTIZE) continue;
        dn_step_info info;
        dn_point_step(point, k, &info);
        snprintf(out->name, sizeof out->name, "%s", info.kernel);
        timed.step = step;
    }
    const char *isa = timed.step ? strchr(out->name, ' ') : NULL;
    const size_t length = strlen(r->isa);
    if (isa && !strncmp(isa + 1, r->isa, length) && (isa[1 + length] == ' ' || !isa[1 + length])) {
        double elements = (double)last->height * last->width * last->channels * r->kernel * r->kernel;
        measure(&(work){run_repeated, &timed}, timed.step->macs ? issued(plan, timed.step) : elements, r->seconds, out);
        if (!timed.step->macs) out->share = 0;
    } else out->name[0] = 0;
    dn_steps_free(&steps);
    free(arena), free(scratch), free(input), free(output);
}

/* The network's outputs at one level; NULL if that fails. */
static float *outputs_of(const dn_graph *graph, const dn_params *params, const dn_subnet *subnet, const dn_tables *tables, const dn_plan_options *options, const float *input, size_t count) {
    dn_plan *plan = NULL;
    dn_point *point = NULL;
    dn_engine *engine = NULL;
    float *output = memory(count * sizeof *output);
    dn_status status = dn_plan_new(&plan, graph, params, NULL, options, NULL);
    if (status == DN_OK) status = dn_point_new(&point, plan, subnet, tables, NULL);
    if (status == DN_OK) status = dn_engine_new(&engine, plan, NULL);
    if (status == DN_OK) status = dn_engine_run(engine, point, input, DN_F32, 1, output, 1, NULL, NULL, NULL);
    if (status != DN_OK) free(output), output = NULL;
    dn_engine_free(engine);
    dn_point_free(point);
    dn_plan_free(plan);
    return output;
}

/* Whether a level gives what the reference gives: the same numbers in int8, 1e-4 of the largest in float. */
static int agrees(const dn_graph *graph, const dn_params *params, const dn_subnet *subnet, const dn_tables *tables, const dn_plan_options *options) {
    dn_plan_options plain = *options;
    plain.isa = DN_ISA_REF;
    const dn_node *in = &graph->nodes[0], *last = &graph->nodes[graph->count - 1];
    const size_t count = (size_t)last->height * (size_t)last->width * (size_t)last->channels;
    float *input = floats((size_t)in->height * (size_t)in->width * (size_t)in->channels, 3), largest = 0, difference = 0;
    float *here = outputs_of(graph, params, subnet, tables, options, input, count), *expected = outputs_of(graph, params, subnet, tables, &plain, input, count);
    for (size_t i = 0; here && expected && i < count; i++) {
        largest = fmaxf(largest, fabsf(expected[i]));
        difference = fmaxf(difference, fabsf(here[i] - expected[i]));
    }
    const int same = here && expected && difference <= (tables->scale ? 0 : 1e-4f * largest);
    free(input), free(here), free(expected);
    return same;
}

static void time_layer(const request *r, dn_isa isa, answer *out) {
    enum { MOST_COMPARED = 20000000 };
    layer net;
    if (!describe(&net, r)) return;
    const int int8 = !strcmp(r->type, "s8");
    dn_error err = {0};
    dn_graph *graph = NULL;
    dn_plan *plan = NULL;
    dn_point *point = NULL;
    dn_params params[MAX_NODES] = {0};
    float scale[MAX_NODES], nothing = 0;
    int32_t active[MAX_NODES] = {0};
    for (int i = 0; i < MAX_NODES; i++) scale[i] = 0.02f;
    const dn_plan_options options = {.threads = 1, .isa = isa, .precision = 32, .least_bits = planes_bits(r) ? 4 : 8};
    dn_status status = dn_graph_new(&graph, net.nodes, net.count, net.count - 1, 1, &err);
    if (status == DN_OK) {
        fill_params(params, graph, &net, int8);
        for (int32_t s = 0; s < dn_graph_spaces(graph) && s < MAX_NODES; s++) {
            dn_space_info info;
            dn_graph_space(graph, s, &info);
            active[s] = info.full;
        }
        status = dn_plan_new(&plan, graph, params, NULL, &options, &err);
    }
    int8_t bits[MAX_NODES];
    memset(bits, planes_bits(r), sizeof bits);
    const dn_subnet subnet = {.active = active, .bits = planes_bits(r) ? bits : NULL};
    const dn_tables tables = {.mean = &nothing, .variance = &nothing, .scale = int8 ? scale : NULL};
    int64_t macs[MAX_NODES] = {0};
    if (status == DN_OK) status = dn_point_new(&point, plan, &subnet, &tables, &err);
    if (status == DN_OK) status = dn_graph_cost(graph, &subnet, macs, NULL, &err);
    if (status == DN_OK && macs[net.target] <= MOST_COMPARED && !agrees(graph, params, &subnet, &tables, &options)) out->differs = 1;
    if (status == DN_OK) time_step(plan, point, &net, r, out);
    else fprintf(stderr, "%s: %s\n", r->op, err.message);
    dn_point_free(point);
    dn_plan_free(plan);
    dn_graph_free(graph);
    for (int i = 0; i < MAX_NODES; i++) free((void *)params[i].weight), free((void *)params[i].codes), free((void *)params[i].code_scale);
}

/* ---- kernels of training, called as they are ---- */

typedef struct training {
    const dn_train_f32 *kernels;
    dn_convgrad_f32_job gradient;
    void (*tile)(const dn_convgrad_f32_job *job);
    dn_norm_job norm;
    dn_actgrad_job actgrad;
    dn_normgrad_job normgrad;
    float *out;
    size_t pixels, channels;
} training;

static void run_gradient(const void *context) { ((const training *)context)->tile(&((const training *)context)->gradient); }
static void run_norm(const void *context) { ((const training *)context)->kernels->norm(&((const training *)context)->norm); }
static void run_actgrad(const void *context) { ((const training *)context)->kernels->actgrad(&((const training *)context)->actgrad); }
static void run_normgrad(const void *context) { ((const training *)context)->kernels->normgrad(&((const training *)context)->normgrad); }
static void run_sums(const void *context) {
    const training *t = context;
    t->kernels->sums(t->actgrad.z, t->pixels, t->channels, t->out);
}

/* The tile of most sums that does not exceed the layer. */
static int choose_gradient(training *t, const dn_convgrad_f32 *record, const request *r) {
    int most = 0;
    for (size_t i = 0; i < record->variant_count; i++) {
        const dn_convgrad_f32_variant *v = &record->variants[i];
        if (v->mr * v->nr <= most || v->mr > r->inputs || 16 * v->nr > r->outputs) continue;
        most = v->mr * v->nr;
        t->tile = v->run;
        t->gradient.channels = v->mr;
        t->gradient.panel_stride = (size_t)v->mr * 16;
    }
    return most;
}

static void time_training(const request *r, dn_isa isa, answer *out) {
    dn_kernels kernels = {0};
    dn_kernels_select(&kernels, dn_cpu_detect() & dn_isa_features(isa));
    const int is_gradient = !strcmp(r->op, "convgrad");
    const char *record = is_gradient ? kernels.convgrad_f32->isa : kernels.train_f32->isa;
    if (strcmp(record, r->isa)) return;
    const size_t side = (size_t)r->side, channels = (size_t)r->inputs, pixels = side * side, count = pixels * (size_t)(r->inputs + r->outputs);
    float *z = floats(count, 1), *y = floats(count, 1), *g = floats(count, 1), *table = floats(dn_round_up(channels, 16), 1), *made = memory((count + 4096) * sizeof *made);
    training t = {.kernels = kernels.train_f32, .pixels = pixels, .channels = channels, .out = made};
    t.gradient = (dn_convgrad_f32_job){.x = z, .dy = y, .dw = made, .x_row = (ptrdiff_t)(side * channels), .x_step = (ptrdiff_t)channels, .dy_row = (ptrdiff_t)side * r->outputs,
                                       .dy_step = r->outputs, .rows = r->side, .columns = r->side, .last = 16};
    t.norm = (dn_norm_job){z, NULL, made, side, side, channels, (ptrdiff_t)(side * channels), table, table, table, DN_ACT_RELU, 0};
    t.actgrad = (dn_actgrad_job){g, NULL, z, NULL, y, made, pixels, channels, table, table, table, made + count, DN_ACT_RELU, 0};
    t.normgrad = (dn_normgrad_job){g, z, made, side, side, channels, (ptrdiff_t)(side * channels), table, table, table, table};
    const struct {
        const char *op;
        void (*run)(const void *);
    } passes[] = {{"norm", run_norm}, {"actgrad", run_actgrad}, {"normgrad", run_normgrad}, {"sums", run_sums}};
    if (is_gradient) {
        const int tile = choose_gradient(&t, kernels.convgrad_f32, r);
        snprintf(out->name, sizeof out->name, "convgrad_f32 %s %dx%d", record, t.gradient.channels, t.gradient.channels ? 16 * tile / t.gradient.channels : 0);
        if (tile) measure(&(work){run_gradient, &t}, 16.0 * tile * (double)pixels, r->seconds, out);
        else out->name[0] = 0;
    }
    for (size_t i = 0; i < sizeof passes / sizeof *passes; i++) {
        if (strcmp(passes[i].op, r->op)) continue;
        snprintf(out->name, sizeof out->name, "train_f32 %s", record);
        measure(&(work){passes[i].run, &t}, (double)(pixels * channels), r->seconds, out);
        out->share = 0;
    }
    free(z), free(y), free(g), free(table), free(made);
}

int main(int count, char **arguments) {
    srand(count > 1 ? (unsigned)atoi(arguments[1]) : 0);
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        request r;
        if (sscanf(line, "%15s %7s %15s %d %d %d %d %d %lf", r.isa, r.type, r.op, &r.side, &r.inputs, &r.outputs, &r.kernel, &r.stride, &r.seconds) != 9) return 2;
        dn_isa isa = DN_ISA_REF;
        while (isa < DN_ISA_BEST && strcmp(dn_isa_name(isa), r.isa)) isa++;
        answer out = {0};
        if (isa == DN_ISA_BEST || !dn_isa_available(isa)) out.name[0] = 0;
        else if (!strcmp(r.type, "train")) time_training(&r, isa, &out);
        else time_layer(&r, isa, &out);
        if (out.name[0] && out.differs) puts("differs");
        else if (out.name[0]) printf("%s\t%.4f\t%.4f\n", out.name, out.giga, out.share);
        else puts("-");
        fflush(stdout);
    }
    return 0;
}
