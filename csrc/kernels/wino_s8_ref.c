/* wino_s8_ref.c - the definition of the integer Winograd convolution, written for reading; its sums are those of conv_s8 over the same pixels. */
#include "kernels/ref_s8.h"

enum { PANEL = 16, SIDE = DN_WINO_SIDE, READ = SIDE + 2 };

/* What tiles of one size are made with; for 2 x 2 the first 4 rows and columns of b and h count, and of a 2 rows. */
typedef struct matrices {
    int b[READ][READ], h[READ][3], a[SIDE][READ];
    int divisor;
} matrices;
static const matrices two = {
    .b = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}},
    .h = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}},
    .a = {{1, 1, 1, 0}, {0, 1, -1, -1}},
    .divisor = 4,
};
static const matrices four = {
    .b = {{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0}, {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}},
    .h = {{6, 0, 0}, {-4, -4, -4}, {-4, 4, -4}, {1, 2, 4}, {1, -2, 4}, {0, 0, 12}},
    .a = {{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 2}},
    .divisor = 576,
};
static const matrices *matrices_of(int side) { return side == 4 ? &four : &two; }

void dn_wino_weights(int side, const int8_t kernel[9], int16_t transformed[DN_WINO_POSITIONS]) {
    const matrices *t = matrices_of(side);
    for (int i = 0; i < side + 2; i++) {
        int row[3];
        for (int x = 0; x < 3; x++) row[x] = t->h[i][0] * kernel[x] + t->h[i][1] * kernel[3 + x] + t->h[i][2] * kernel[6 + x];
        for (int j = 0; j < side + 2; j++) transformed[(side + 2) * i + j] = (int16_t)(row[0] * t->h[j][0] + row[1] * t->h[j][1] + row[2] * t->h[j][2]);
    }
}

/* B' d B of one channel of a tile. */
static int transformed_input(const dn_wino_s8_job *job, const uint8_t *d, int position) {
    const matrices *t = matrices_of(job->side);
    const int read = job->side + 2;
    int sum = 0;
    for (int y = 0; y < read; y++)
        for (int x = 0; x < read; x++) sum += t->b[position / read][y] * d[y * job->in_row + x * job->in_step] * t->b[position % read][x];
    return sum;
}

/* The weight of input channel c of a run at one position. */
static int16_t transformed_weight(const dn_wino_s8_job *job, const dn_run *run, int c, int panel, int lane, int position) {
    if (!job->packed)
        return job->weights[(size_t)panel * job->panel_stride + (size_t)position * job->position_stride + (size_t)run->weight + (size_t)(c / 2 * 2 * PANEL + lane * 2 + c % 2)];
    int8_t kernel[9];
    int16_t transformed[DN_WINO_POSITIONS];
    for (int t = 0; t < 9; t++)
        kernel[t] = view_weight(job->packed[(size_t)panel * job->panel_stride + (size_t)t * job->position_stride + (size_t)run->weight + (size_t)(c / 4 * 4 * PANEL + lane * 4 + c % 4)],
                                job->view_add, job->view_mask);
    dn_wino_weights(job->side, kernel, transformed);
    return transformed[position];
}

static int64_t product(const dn_wino_s8_job *job, const uint8_t *d, int panel, int lane, int position) {
    int64_t sum = 0;
    for (size_t r = 0; r < job->run_count; r++)
        for (int c = 0; c < job->runs[r].count; c++)
            sum += transformed_weight(job, &job->runs[r], c, panel, lane, position) * transformed_input(job, d + job->runs[r].input + c, position);
    return sum;
}

static void output(const dn_wino_s8_job *job, int tile, int panel, int lane) {
    const matrices *t = matrices_of(job->side);
    const uint8_t *d = job->input + job->in_offset[tile];
    const int adds = (job->epilogue.flags & DN_EPI_RESIDUAL) != 0, channel = panel * PANEL + lane, read = job->side + 2;
    int64_t m[DN_WINO_POSITIONS];
    for (int i = 0; i < read * read; i++) m[i] = product(job, d, panel, lane, i);
    for (int y = 0; y < job->side; y++)
        for (int x = 0; x < job->side; x++) {
            int64_t sum = 0;
            for (int i = 0; i < read * read; i++) sum += t->a[y][i / read] * m[i] * t->a[x][i % read];
            const uint8_t *residual = adds ? job->residual + job->residual_offset[tile] + y * job->residual_row + x * job->residual_step + channel : NULL;
            store_s8(&job->epilogue, (int32_t)(sum / t->divisor), (size_t)channel, job->output, job->out_offset[tile] + y * job->out_row + x * job->out_step + channel, residual);
        }
}

static void run(const dn_wino_s8_job *job) {
    for (int tile = 0; tile < job->tiles; tile++)
        for (int panel = 0; panel < job->panels; panel++)
            for (int lane = 0; lane < (panel == job->panels - 1 ? job->last : PANEL); lane++) output(job, tile, panel, lane);
}

const dn_wino_s8 dn_wino_s8_ref = {.isa = "ref", .run = run};
