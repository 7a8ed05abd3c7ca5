/* wino_s8_ref.c - the definition of the integer Winograd convolution, written for reading; its sums are those of conv_s8 over the same pixels. */
#include "kernels/ref_s8.h"

enum { PANEL = 16, SIDE = 4 };

/* The matrices: B' and A' are Winograd's, H is twice his G. */
static const int b_rows[SIDE][SIDE] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
static const int h_rows[SIDE][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
static const int a_rows[2][SIDE] = {{1, 1, 1, 0}, {0, 1, -1, -1}};

void dn_wino_weights(const int8_t kernel[9], int16_t transformed[DN_WINO_POSITIONS]) {
    for (int i = 0; i < SIDE; i++)
        for (int j = 0; j < SIDE; j++) {
            int sum = 0;
            for (int y = 0; y < 3; y++)
                for (int x = 0; x < 3; x++) sum += h_rows[i][y] * kernel[3 * y + x] * h_rows[j][x];
            transformed[SIDE * i + j] = (int16_t)sum;
        }
}

/* B' d B of one channel of a tile. */
static int transformed_input(const dn_wino_s8_job *job, const uint8_t *d, int position) {
    int sum = 0;
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) sum += b_rows[position / SIDE][y] * d[y * job->in_row + x * job->in_step] * b_rows[position % SIDE][x];
    return sum;
}

static int32_t product(const dn_wino_s8_job *job, const uint8_t *d, const int16_t *panel, int lane, int position) {
    int32_t sum = 0;
    for (size_t r = 0; r < job->run_count; r++) {
        const dn_run *run = &job->runs[r];
        const int16_t *w = panel + (size_t)position * job->position_stride + run->weight + lane * 2;
        for (int c = 0; c < run->count; c++) sum += w[c / 2 * 2 * PANEL + c % 2] * transformed_input(job, d + run->input + c, position);
    }
    return sum;
}

static void output(const dn_wino_s8_job *job, int tile, int panel, int lane) {
    const uint8_t *d = job->input + job->in_offset[tile];
    const int adds = (job->epilogue.flags & DN_EPI_RESIDUAL) != 0, channel = panel * PANEL + lane;
    int32_t m[DN_WINO_POSITIONS];
    for (int i = 0; i < DN_WINO_POSITIONS; i++) m[i] = product(job, d, job->weights + (size_t)panel * job->panel_stride, lane, i);
    for (int y = 0; y < 2; y++)
        for (int x = 0; x < 2; x++) {
            int32_t sum = 0;
            for (int i = 0; i < DN_WINO_POSITIONS; i++) sum += a_rows[y][i / SIDE] * m[i] * a_rows[x][i % SIDE];
            const uint8_t *residual = adds ? job->residual + job->residual_offset[tile] + y * job->residual_row + x * job->residual_step + channel : NULL;
            store_s8(&job->epilogue, sum / 4, (size_t)channel, job->output, job->out_offset[tile] + y * job->out_row + x * job->out_step + channel, residual);
        }
}

static void run(const dn_wino_s8_job *job) {
    for (int tile = 0; tile < job->tiles; tile++)
        for (int panel = 0; panel < job->panels; panel++)
            for (int lane = 0; lane < (panel == job->panels - 1 ? job->last : PANEL); lane++) output(job, tile, panel, lane);
}

const dn_wino_s8 dn_wino_s8_ref = {.isa = "ref", .run = run};
