/* check_wino_s8.c - the integer Winograd kernels against a convolution written out, with guard pages: equal bits for any tiles, segments and widths. */
#include "random_s8.h"

#include <math.h>

enum { PANEL = 16, RUNS = 3 };

/* One random convolution: maps with their corners at element 0. */
typedef struct problem {
    dn_wino_s8_job job;
    dn_run runs[RUNS];
    int32_t in[DN_WINO_TILES], out[DN_WINO_TILES], residual[DN_WINO_TILES];
    int height, width, channels, held; /* outputs; held: input channels of the weights, with gaps */
    int8_t *kernel;                    /* [outputs][held][9], as the view shows it */
    guarded input, weights, scale, bias, output, expected, add, scratch, plain;
} problem;

static void make_runs(problem *p) {
    dn_wino_s8_job *job = &p->job;
    job->runs = p->runs;
    job->side = guard_below(2) ? 4 : 2;
    job->run_count = (size_t)pick(1, RUNS);
    for (size_t r = 0; r < job->run_count; r++) {
        p->runs[r] = (dn_run){job->lanes, p->held * PANEL, 4 * pick(1, guard_below(3) ? 5 : job->side == 4 ? 9 : 20)}; /* so few that 64 * sum fits in 32 bits */
        job->lanes += p->runs[r].count;
        p->held += p->runs[r].count + 4 * guard_below(3);
    }
}

/* Of output o and input channel c. */
static int8_t *kernel_of(const problem *p, int o, int c) { return p->kernel + ((size_t)o * (size_t)p->held + (size_t)c) * 9; }

static void make_transformed(problem *p) {
    dn_wino_s8_job *job = &p->job;
    job->position_stride = (size_t)p->held * PANEL;
    job->panel_stride = (size_t)dn_wino_positions(job->side) * job->position_stride;
    p->weights = guard_alloc((size_t)job->panels * job->panel_stride * sizeof(int16_t), 0);
    int16_t *to = (int16_t *)(void *)p->weights.data;
    for (int o = 0; o < job->panels * PANEL; o++)
        for (int c = 0; c < p->held; c++) {
            int16_t u[DN_WINO_POSITIONS];
            dn_wino_weights(job->side, kernel_of(p, o, c), u);
            for (int i = 0; i < dn_wino_positions(job->side); i++)
                to[(size_t)(o / PANEL) * job->panel_stride + (size_t)i * job->position_stride + (size_t)(c / 2 * 2 * PANEL + o % PANEL * 2 + c % 2)] = u[i];
        }
    job->weights = to;
}

/* Weights as conv_s8 has them; from then on the kernels are what the view shows. */
static void make_packed(problem *p) {
    dn_wino_s8_job *job = &p->job;
    const int bits = (int[]){8, 8, 4, 3, 2}[guard_below(5)];
    job->view_add = bits == 8 ? 0 : (int8_t)(1 << (7 - bits)), job->view_mask = (int8_t)-(1 << (8 - bits));
    job->position_stride = (size_t)p->held * PANEL;
    job->panel_stride = 9 * job->position_stride;
    p->weights = guard_alloc((size_t)job->panels * job->panel_stride, 0);
    for (int o = 0; o < job->panels * PANEL; o++)
        for (int c = 0; c < p->held; c++)
            for (int t = 0; t < 9; t++) {
                int8_t *code = kernel_of(p, o, c) + t;
                const int sum = *code + job->view_add;
                p->weights.data[(size_t)(o / PANEL) * job->panel_stride + (size_t)t * job->position_stride + (size_t)(c / 4 * 4 * PANEL + o % PANEL * 4 + c % 4)] = (uint8_t)*code;
                *code = (int8_t)((sum > 127 ? 127 : sum) & job->view_mask);
            }
    job->packed = (const int8_t *)p->weights.data;
}

static void make_weights(problem *p) {
    dn_wino_s8_job *job = &p->job;
    job->panels = pick(1, 3);
    job->last = pick(1, PANEL);
    p->channels = PANEL * (job->panels - 1) + job->last;
    p->plain = guard_alloc((size_t)job->panels * PANEL * (size_t)p->held * 9, 0);
    fill_weights((int8_t *)p->plain.data, p->plain.bytes);
    p->kernel = (int8_t *)p->plain.data;
    if (guard_below(2)) make_packed(p);
    else make_transformed(p);
}

/* Tiles in rows, the last ones shifted back over outputs that were there before, then repeated up to a whole number of quads. */
static void make_tiles(problem *p) {
    dn_wino_s8_job *job = &p->job;
    const int side = job->side, across = (p->width + side - 1) / side, down = (p->height + side - 1) / side, count = across * down;
    job->tiles = (count + DN_WINO_QUAD - 1) / DN_WINO_QUAD * DN_WINO_QUAD;
    for (int i = 0; i < job->tiles; i++) {
        const int n = i < count ? i : count - 1, row = side * (n / across), column = side * (n % across);
        const int y = row + side <= p->height ? row : p->height - side, x = column + side <= p->width ? column : p->width - side;
        p->in[i] = (int32_t)(y * job->in_row + x * job->in_step);
        p->out[i] = (int32_t)(y * job->out_row + x * job->out_step);
        p->residual[i] = (int32_t)(y * job->residual_row + x * job->residual_step);
    }
    job->in_offset = p->in, job->out_offset = p->out, job->residual_offset = p->residual;
}

static void make_maps(problem *p) {
    dn_wino_s8_job *job = &p->job;
    const int stored = (p->channels + 3) / 4 * 4, side = job->side;
    do p->height = pick(side, 3 * side), p->width = pick(side, 4 * side);
    while (((p->height + side - 1) / side) * ((p->width + side - 1) / side) > DN_WINO_TILES);
    job->in_step = job->lanes + 4 * guard_below(3), job->out_step = stored + 4 * guard_below(3), job->residual_step = stored + 4 * guard_below(3);
    job->in_row = (p->width + 2) * job->in_step, job->out_row = p->width * job->out_step, job->residual_row = p->width * job->residual_step;
    p->input = guard_alloc((size_t)((p->height + 1) * job->in_row + (p->width + 1) * job->in_step + job->lanes), 7);
    fill_activations(p->input.data, p->input.bytes);
    const size_t element = job->epilogue.flags & DN_CONV_F32_OUT ? 4 : 1;
    p->output = guard_alloc((size_t)((p->height - 1) * job->out_row + (p->width - 1) * job->out_step + p->channels) * element, 0xa5);
    p->expected = guard_alloc(p->output.bytes, 0xa5);
    p->add = guard_alloc((size_t)((p->height - 1) * job->residual_row + (p->width - 1) * job->residual_step + p->channels), 0);
    fill_random(p->add);
    make_tiles(p);
    p->scratch = guard_alloc((dn_wino_scratch(job->side, job->tiles, job->lanes, job->packed != NULL) + 63) / 64 * 64, 0x5a);
    job->input = p->input.data, job->output = p->output.data, job->residual = p->add.data, job->scratch = p->scratch.data;
}

/* What conv_s8 computes: a 1-pixel job of the reference with nothing but one entry, whose sum is already known. */
static int32_t direct(const problem *p, int y, int x, int o) {
    const dn_wino_s8_job *job = &p->job;
    int32_t sum = 0;
    for (size_t r = 0; r < job->run_count; r++)
        for (int c = 0; c < p->runs[r].count; c++)
            for (int t = 0; t < 9; t++)
                sum += kernel_of(p, o, p->runs[r].weight / PANEL + c)[t]
                       * p->input.data[(y + t / 3) * job->in_row + (x + t % 3) * job->in_step + p->runs[r].input + c];
    return sum;
}

static void expect(problem *p) {
    const dn_wino_s8_job *job = &p->job;
    const dn_epilogue *e = &job->epilogue;
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++)
            for (int o = 0; o < p->channels; o++) {
                const ptrdiff_t at = y * job->out_row + x * job->out_step + o;
                float v = fmaf((float)direct(p, y, x, o), e->scale[o], e->bias[o]);
                if (e->flags & DN_EPI_RESIDUAL) v = fmaf((float)p->add.data[y * job->residual_row + x * job->residual_step + o], e->residual_scale, v);
                if (e->flags & DN_CONV_F32_OUT) {
                    ((float *)(void *)p->expected.data)[at] = v;
                    continue;
                }
                if (e->flags & DN_EPI_HARDSWISH) {
                    float t = fminf(fmaxf(fmaf(v, 1 / 6.0f, 0.5f), 0), 1);
                    v = fmaf(v * t, e->out_scale, e->out_zero);
                }
                p->expected.data[at] = (uint8_t)rintf(fminf(fmaxf(v, e->lo), e->hi));
            }
}

static void check_case(const dn_wino_s8 *record) {
    const uint64_t seed = guard_state;
    problem p = {0};
    make_runs(&p);
    make_weights(&p);
    p.scale = guard_alloc((size_t)p.job.panels * 64, 0), p.bias = guard_alloc((size_t)p.job.panels * 64, 0);
    fill_epilogue(&p.job.epilogue, (float *)(void *)p.scale.data, (float *)(void *)p.bias.data, PANEL * p.job.panels);
    if (guard_below(4) == 0) p.job.epilogue.flags |= DN_CONV_F32_OUT;
    make_maps(&p);
    expect(&p);
    if (!(p.job.epilogue.flags & DN_EPI_RESIDUAL)) p.job.residual = NULL, p.job.residual_offset = NULL;
    record->run(&p.job);
    CHECK(same(p.output, p.expected), "wino_s8 %s%s side %d %dx%d lanes %d runs %zu outputs %d flags %u seed %llu", record->isa, p.job.packed ? " packed" : "", p.job.side, p.height, p.width, p.job.lanes, p.job.run_count, p.channels,
          p.job.epilogue.flags, (unsigned long long)seed);
    const guarded all[] = {p.input, p.weights, p.scale, p.bias, p.output, p.expected, p.add, p.scratch, p.plain};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) guard_free(all[i]);
}

int main(void) {
    const dn_wino_s8 *records[] = {&dn_wino_s8_ref,
#if defined(__x86_64__)
                                   dn_cpu_detect() & DN_CPU_AVX2 ? &dn_wino_s8_avx2 : NULL
#endif
    };
    for (size_t r = 0; r < sizeof records / sizeof *records; r++)
        for (int i = 0; records[r] && i < 300; i++) check_case(records[r]);
    return guard_finish("check_wino_s8");
}
