/* kernels.h - arithmetic on pointers. Kernels never allocate and never fail; whoever calls them has checked everything.
 *
 * A slot is one family of kernels; a record is one implementation of it: functions, the tiles they compute, how weights are packed. kernels.inc lists (slot, ISA, CPU
 * features); that one list declares the records, selects them, and drives the tests and benchmarks. `ref` is the definition, and every record equals it bit for bit: the float
 * ones because each sum takes one fma per product in the order given below; only sign and payload of a NaN are open.
 *
 * Memory. A map is rows of pixels; a pixel is its active channels (each segment's rounded up to 4 elements: "lanes"), lanes beyond them hold the zero point (0 in float).
 * Offsets and strides of activations count elements (1 byte in u8, 4 in f32, 2 in bf16); every stride is a multiple of 4. Panels are 16 output channels wide.
 *
 * f32 and bf16 share jobs and records: in a bf16 slot activations and weights are bfloat16, sums, tables and the whole epilogue are float, and what is stored is rounded to
 * nearest even once. */
#ifndef DN_KERNELS_KERNELS_H
#define DN_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu.h"

/* ---- epilogue, the same for every kernel that makes activations ----
 * v = fma((float)acc, scale[c], bias[c]);            float kernels: acc is float
 * if (residual) v = fma((float)r, residual_scale, v);
 * DN_EPI_HARDSWISH: t = min(max(fma(v, 1/6f, .5f), 0), 1); y = v * t; v = fma(y, out_scale, out_zero)
 * v = min(max(v, lo), hi);
 * u8 and bf16 output: round to nearest even.
 * Here and above max(v, a) is a > v ? a : v and min(v, a) is a < v ? a : v (maxps, minps with v second): a NaN stays a NaN, and of two zeros v's is kept. */
enum {
    DN_EPI_RESIDUAL = 1,
    DN_EPI_HARDSWISH = 2,
    DN_EPI_BOUNDED = 4 /* u8 output without hardswish: lo is 0, hi is whole, and |v| < 2^31 whatever acc is. Then limits may as well be applied to rounded integers: packing them
                        * into bytes, which saturates, costs nothing more. Kernels may ignore it. */
};
typedef struct dn_epilogue {
    const float *scale, *bias; /* from the first channel the kernel writes; readable up to the next multiple of 16 */
    float residual_scale, lo, hi;
    float out_scale, out_zero; /* hardswish only */
    uint32_t flags;
} dn_epilogue;

/* ---- conv_s8: u8 x s8 -> s32 -> u8 (or f32) ---- */

/* Nested precision: what `bits` of a weight's 8-bit code are worth. Kernels add and mask as dn_view_add and dn_view_mask say. */
static inline int8_t dn_view_add(int32_t bits) { return bits == 8 ? 0 : (int8_t)(1 << (7 - bits)); }
static inline int8_t dn_view_mask(int32_t bits) { return (int8_t)(0xff << (8 - bits)); }
static inline int32_t dn_view_code(int32_t code, int32_t bits) {
    int32_t sum = code + dn_view_add(bits);
    return (int8_t)((sum > 127 ? 127 : sum) & dn_view_mask(bits));
}

/* One entry of the flat list that any kernel size, dilation, group and concat expands to. */
typedef struct dn_tap {
    int32_t input;  /* elements from the pixel's base, may be negative */
    int32_t weight; /* elements from the panel's start */
} dn_tap;

enum {
    DN_CONV_F32_OUT = 16,   /* output is float. s8: v is stored unclamped and unrounded after fma(acc, scale, bias) and the residual. bf16: v is stored unrounded. f32: ignored */
    DN_CONV_ACCUMULATE = 32 /* with F32_OUT: v = fma(acc, scale, output) in place of the bias */
};

/* mr pixels x nr panels. Weights: P16, [panel][tap][channel / 4][16 outputs][4 channels], so one step of a panel is 64 bytes. */
typedef struct dn_conv_s8_job {
    const uint8_t *input; /* base of the first pixel */
    const int8_t *weights;
    void *output; /* u8 or f32, first pixel, first channel */
    const uint8_t *residual;
    const dn_tap *taps;
    size_t tap_count;    /* each entry covers the variant's `steps` steps: 4 * steps channels, contiguous in input and weights */
    size_t panel_stride; /* bytes from one panel to the next */
    ptrdiff_t in_step, out_step, residual_step;               /* row form: elements from pixel to pixel */
    const int32_t *in_offset, *out_offset, *residual_offset; /* pointer form: [mr] elements from the bases */
    int32_t last;           /* channels of the last panel to store, 1..16 */
    int8_t view_add, view_mask; /* nested precision: weight = saturating_add(w, view_add) & view_mask */
    dn_epilogue epilogue;   /* flags may also hold DN_CONV_* */
} dn_conv_s8_job;

enum { DN_FORM_ROW, DN_FORM_POINTER };
typedef struct dn_conv_s8_variant {
    void (*run)(const dn_conv_s8_job *job);
    void (*run_view)(const dn_conv_s8_job *job); /* through the bit view */
    int8_t mr, nr, steps, form;
    int16_t in_step; /* 0: any; else the only in_step this variant is for (compile-time constant) */
} dn_conv_s8_variant;

typedef struct dn_conv_s8 {
    const char *isa;
    int winograd;     /* its products cost as much as 16-bit ones, so wino_s8 pays where it can be used */
    int32_t a_offset; /* what the kernel subtracts from every activation: 0 in all records. Another value moves the zero point's share of a sum into the rounded bias, so that
                       * results are no longer those of `ref` bit for bit; kernels of signed products restore the sum instead. */
    const dn_conv_s8_variant *variants;
    size_t variant_count;
} dn_conv_s8;

/* ---- wino_s8: 3 x 3, stride 1, u8 x s8 -> s32 -> u8 (or f32), by Winograd's F(2 x 2, 3 x 3) and F(4 x 4, 3 x 3): 16 products for 4 outputs, or 36 for 16, in place of 9 each ----
 * Exact: the matrices of Lavin & Gray (2015) with their fractions cleared. Tiles of 2 x 2: H = 2G is whole, and the sums are (A' [(H g H') * (B' d B)] A) / 4 without a remainder.
 * Tiles of 4 x 4: H = 24G but for its last row, which is 12 times that of G, so that A counts it twice; / 576. Transformed inputs are -510..1020 or -8160..17340, transformed
 * weights at most 9 * 127 or 144 * 127: all fit in 16 bits. Products may be added modulo 2^32: 4 * sum must fit in 32 bits, or 64 * sum, for 576 = 9 * 64 and division by 9 is a
 * multiplication modulo 2^32. */

enum { DN_WINO_SIDE = 4, DN_WINO_POSITIONS = 36, DN_WINO_TILES = 32, DN_WINO_QUAD = 4 }; /* the most; side: 2 or 4 outputs */
/* Bits by which the division makes a sum longer. */
static inline int dn_wino_bits(int side) { return side == 4 ? 6 : 2; }
static inline int dn_wino_positions(int side) { return (side + 2) * (side + 2); }
typedef struct dn_run {
    int32_t input, weight, count;
} dn_run;
/* Tiles of side x side outputs, anywhere and overlapping. Weights: [panel][position][channel / 2][16 outputs][2 channels] in 16 bits, or those of conv_s8, which are then
 * transformed on the way, a few channels at a time. */
typedef struct dn_wino_s8_job {
    const uint8_t *input;   /* tile i reads a square of side + 2 pixels from input + in_offset[i] on */
    const int16_t *weights; /* first panel, NULL: */
    const int8_t *packed;   /* first panel, P16 */
    void *output;           /* u8 or f32 */
    const uint8_t *residual;
    uint8_t *scratch; /* dn_wino_scratch(side, tiles, lanes) bytes, aligned to 64 */
    const dn_run *runs; /* segments: first lane, offset in a position's (a tap's) weights (elements), lanes */
    size_t run_count, panel_stride, position_stride; /* strides in elements of the weights; packed: position_stride from tap to tap */
    ptrdiff_t in_row, in_step, out_row, out_step, residual_row, residual_step;
    const int32_t *in_offset, *out_offset, *residual_offset; /* [tiles] elements from the bases */
    int32_t side;         /* 2 or 4 */
    int32_t tiles;        /* a multiple of DN_WINO_QUAD, at most DN_WINO_TILES */
    int32_t lanes;        /* input channels, a multiple of 4 */
    int32_t panels, last; /* channels of the last panel to store, 1..16 */
    int8_t view_add, view_mask; /* packed: as in conv_s8 */
    dn_epilogue epilogue; /* flags may also hold DN_CONV_F32_OUT */
} dn_wino_s8_job;
typedef struct dn_wino_s8 {
    const char *isa;
    void (*run)(const dn_wino_s8_job *job);
} dn_wino_s8;
/* One kernel's 9 weights (rows first) as its transformed ones; that of the second row and column is a multiple of their sum. */
void dn_wino_weights(int side, const int8_t kernel[9], int16_t transformed[DN_WINO_POSITIONS]);
static inline int dn_wino_sum_position(int side) { return side + 3; }
static inline int dn_wino_sum_factor(int side) { return side == 4 ? 16 : 1; }
/* Elements from one position to the next of the transformed inputs (16 bits) and of one panel's products (32 bits): a cache line more than they fill, since strides of a power
 * of two would let positions push one another out of the cache. */
static inline size_t dn_wino_input_stride(int32_t tiles, int32_t lanes) { return (size_t)tiles * (size_t)lanes + 32; }
static inline size_t dn_wino_product_stride(int32_t tiles) { return (size_t)tiles * 16 + 16; }
/* Packed weights are transformed for a part of so many channels at a time. Inputs then stand part by part, [position][tile][DN_WINO_PART]. */
enum { DN_WINO_PART = 16 };
static inline size_t dn_wino_part_stride(void) { return DN_WINO_PART * 16 + 32; }
static inline size_t dn_wino_scratch(int side, int32_t tiles, int32_t lanes, bool packed) {
    size_t inputs = packed ? (size_t)tiles * (size_t)(lanes + DN_WINO_PART) + dn_wino_part_stride() : dn_wino_input_stride(tiles, lanes);
    return (size_t)dn_wino_positions(side) * (inputs * sizeof(int16_t) + dn_wino_product_stride(tiles) * sizeof(int32_t));
}

/* ---- linear_s8: one pixel, weights as two planes of nibbles ---- */

/* A code q, -136..119, stands as q + 136 = 16 * high + low, and all high nibbles stand apart from all low ones. 8 bits read both planes, 4 bits read `high` alone: half the bytes.
 * What b = 4, 3 or 2 bits see of a code is 2^(8-b) * n - 128, where n is a function of its nibbles: dn_plane_view. Codes must be at most 119, 111 or 95 for the fewest bits asked for,
 * so that n does not exceed its b bits. Each plane: [panel][channel / 4][8 outputs][4 channels], 32 bytes a step; the low half of a byte belongs to outputs 0-7, the high half to
 * outputs 8-15. Padding is the code 0: bytes of 0x88. */
enum { DN_PLANE_ZERO = 136, DN_PLANE_STEP = 32, DN_PLANE_PADDING = 0x88 };
static inline int32_t dn_plane_view(int32_t high, int32_t low, int32_t bits) {
    return bits == 4 ? high : bits == 3 ? (high + (low >> 3)) >> 1 : (high + (low >> 3) + 1) >> 2;
}
typedef struct dn_linear_s8_job {
    const uint8_t *input;
    const uint8_t *high, *low; /* of the first panel */
    void *output;              /* u8 or f32 */
    const uint8_t *residual;
    const dn_run *runs; /* elements from `input`; channels from a panel's start; channels: all multiples of 4 */
    size_t run_count;
    size_t panel_stride; /* bytes in each plane from one panel to the next */
    int32_t panels, last; /* channels of the last panel to store, 1..16 */
    int32_t bits;         /* 8, 4, 3 or 2 */
    dn_epilogue epilogue; /* flags may also hold DN_CONV_* */
} dn_linear_s8_job;
typedef struct dn_linear_s8 {
    const char *isa;
    void (*run)(const dn_linear_s8_job *job);
} dn_linear_s8;

/* ---- dwconv_s8: output rows of a depthwise convolution that see the same rows of the window ---- */

/* Weights: [channel / 16][kernel_h * kernel_w][16]. Reads input rows kh_begin <= kh < kh_end of the window (others are outside the image and count as a_offset = 0). */
typedef struct dn_dwconv_s8_job {
    const uint8_t *input; /* tap (0, 0) of the first output pixel; may lie outside the image where kh_begin > 0 */
    const int8_t *weights;
    uint8_t *output;
    const uint8_t *residual;
    ptrdiff_t in_row, in_tap, in_step, out_step, residual_step; /* elements: per kh, per kw, per output pixel */
    ptrdiff_t in_next, out_next, residual_next;                 /* per output row */
    int32_t kernel_h, kernel_w, kh_begin, kh_end;
    int32_t rows, width, channels; /* output rows and pixels; channels to store (weights and tables are readable up to a multiple of 16, inputs up to a multiple of 4 only) */
    int8_t view_add, view_mask;
    dn_epilogue epilogue;
} dn_dwconv_s8_job;
/* Row y of a job, as a job. */
static inline dn_dwconv_s8_job dn_dwconv_s8_row(const dn_dwconv_s8_job *job, int32_t y) {
    dn_dwconv_s8_job row = *job;
    row.rows = 1;
    row.input += y * job->in_next;
    row.output += y * job->out_next;
    if (row.residual) row.residual += y * job->residual_next;
    return row;
}
typedef struct dn_dwconv_s8 {
    const char *isa;
    void (*run)(const dn_dwconv_s8_job *job);
} dn_dwconv_s8;

/* ---- pointwise_u8: a row of pixels at a time ---- */

typedef struct dn_pixels_u8 {
    const uint8_t *input;
    uint8_t *output;
    const uint8_t *residual;
    ptrdiff_t in_step, out_step, residual_step;
    int32_t width, channels; /* channels to store: a multiple of 4 */
    dn_epilogue epilogue;
} dn_pixels_u8;
typedef struct dn_pointwise_u8 {
    const char *isa;
    /* The epilogue with acc = input: stand-alone add, batch norm, activation, requantisation. */
    void (*affine)(const dn_pixels_u8 *job);
    /* x [width][channels] float, contiguous -> out: rne(clamp(fma(x, inverse_scale, zero), 0, 255)); lanes from channels up to the next multiple of 4 get zero. */
    void (*quantize)(const float *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, float inverse_scale, float zero);
    /* The same for bytes through a table [channels][256] that was made with that formula. */
    void (*lookup)(const uint8_t *x, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t *table, uint8_t zero);
    /* out = (float)(q - zero) * scale, channels elements per pixel. */
    void (*dequantize)(const uint8_t *x, ptrdiff_t in_step, float *out, ptrdiff_t out_step, int32_t width, int32_t channels, float scale, int32_t zero);
    /* out = clamp(fma((float)((a - za) * (b - zb)), factor, zero), lo, hi) rounded; b_step 0 broadcasts one pixel. */
    void (*mul)(const uint8_t *a, ptrdiff_t a_step, int32_t za, const uint8_t *b, ptrdiff_t b_step, int32_t zb, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels,
                float factor, float zero, float lo, float hi);
    /* out[i] = table[x[i]]. */
    void (*map)(const uint8_t *x, ptrdiff_t in_step, uint8_t *out, ptrdiff_t out_step, int32_t width, int32_t channels, const uint8_t table[256]);
} dn_pointwise_u8;

/* ---- pool_u8: one output pixel row; the window is clipped by the caller per pixel ---- */

typedef struct dn_window {
    const void *input; /* first pixel of the clipped window */
    ptrdiff_t in_row, in_tap; /* elements */
    int32_t rows, columns; /* of the clipped window, >= 1 */
    int32_t channels;      /* multiple of 4 */
} dn_window;
typedef struct dn_pool_u8 {
    const char *isa;
    void (*max)(const dn_window *window, uint8_t *out);
    /* int32 sum of the window, then clamp(fma((float)sum, factor, bias), 0, 255) rounded. */
    void (*avg)(const dn_window *window, uint8_t *out, float factor, float bias);
} dn_pool_u8;

/* ---- conv_f32, conv_bf16 ---- */

/* Like conv_s8 with run-length entries: each entry is `count` channels. Forms, steps and epilogue as there; accumulation order is entries in order, channels in order (bf16: the
 * second of each pair before the first), one fma each, starting from 0. Weights: f32 [panel][tap][channel][16]; bf16 [panel][tap][channel / 2][16][2], where an entry begins at an
 * even channel and, ending at an odd one, leaves its partner alone. A CPU's own bfloat16 instructions take subnormal numbers for zero. */
typedef struct dn_conv_f32_job {
    const void *input;
    const void *weights;
    void *output; /* elements, or float with DN_CONV_F32_OUT */
    const void *residual;
    const dn_run *runs;
    size_t run_count;
    size_t panel_stride; /* elements */
    ptrdiff_t in_step, out_step, residual_step;
    const int32_t *in_offset, *out_offset, *residual_offset;
    int32_t last;
    dn_epilogue epilogue; /* DN_CONV_ACCUMULATE: v = fma(acc, scale, output), then as ever; the tile's output pixels must then be different ones, else one may be repeated */
} dn_conv_f32_job;
typedef struct dn_conv_f32_variant {
    void (*run)(const dn_conv_f32_job *job);
    int8_t mr, nr, form;
    bool floats; /* reads input and weights as the f32 slot does, also in bf16: whoever calls it has widened them */
} dn_conv_f32_variant;
typedef struct dn_conv_f32 {
    const char *isa;
    const dn_conv_f32_variant *variants;
    size_t variant_count;
    /* bf16 with variants that read floats only: `count` activations to floats; `channels` channels of a panel's weights, from an even one on, to [channel][16] floats. */
    void (*widen)(const uint16_t *x, float *out, size_t count);
    void (*widen_weights)(const uint16_t *weights, float *out, size_t channels);
} dn_conv_f32;
typedef dn_conv_f32 dn_conv_bf16;

/* ---- dwconv, pointwise and pool in f32 and bf16: as their u8 twins, weights [channel / 16][tap][16], no zero point ---- */

typedef struct dn_dwconv_f32_job {
    const void *input;
    const void *weights;
    void *output; /* elements, or float with DN_CONV_F32_OUT */
    const void *residual;
    ptrdiff_t in_row, in_tap, in_step, out_step, residual_step;
    ptrdiff_t in_next, out_next, residual_next; /* per output row */
    int32_t kernel_h, kernel_w, kh_begin, kh_end, rows, width, channels;
    dn_epilogue epilogue;
} dn_dwconv_f32_job;
/* Moves a job on by an output row of elements of `size` bytes. */
static inline void dn_dwconv_f32_advance(dn_dwconv_f32_job *job, ptrdiff_t size) {
    job->input = (const uint8_t *)job->input + job->in_next * size;
    job->output = (uint8_t *)job->output + job->out_next * (job->epilogue.flags & DN_CONV_F32_OUT ? (ptrdiff_t)sizeof(float) : size);
    if (job->residual) job->residual = (const uint8_t *)job->residual + job->residual_next * size;
}
typedef struct dn_dwconv_f32 {
    const char *isa;
    void (*run)(const dn_dwconv_f32_job *job);
} dn_dwconv_f32;
typedef dn_dwconv_f32 dn_dwconv_bf16;

typedef struct dn_pixels_f32 {
    const void *input;
    void *output;
    const void *residual;
    ptrdiff_t in_step, out_step, residual_step;
    int32_t width, channels;
    dn_epilogue epilogue;
} dn_pixels_f32;
typedef struct dn_pointwise_f32 {
    const char *isa;
    void (*affine)(const dn_pixels_f32 *job);
    void (*mul)(const void *a, ptrdiff_t a_step, const void *b, ptrdiff_t b_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels);
    void (*sigmoid)(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels);
    void (*hardsigmoid)(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels); /* min(max(fma(x, 1/6, .5), 0), 1) */
    void (*leaky_relu)(const void *x, ptrdiff_t in_step, void *out, ptrdiff_t out_step, int32_t width, int32_t channels, float slope);
} dn_pointwise_f32;
typedef dn_pointwise_f32 dn_pointwise_bf16;

typedef struct dn_pool_f32 {
    const char *isa;
    void (*max)(const dn_window *window, void *out); /* NaN where the window holds one */
    void (*avg)(const dn_window *window, void *out, float factor); /* sum in row-major order of the window, times factor */
} dn_pool_f32;
typedef dn_pool_f32 dn_pool_bf16;

/* ---- convgrad_f32: gradient of a convolution's weights ---- */

/* Adds to dw[mr channels][nr panels of 16] the sum over a rows x columns map of x[pixel][channel] * dy[pixel][output], pixels in row-major order, one fma each. */
typedef struct dn_convgrad_f32_job {
    const float *x;
    const float *dy;
    float *dw; /* channel i, panel j: dw + i * 16 + j * panel_stride */
    size_t panel_stride;
    ptrdiff_t x_row, x_step, dy_row, dy_step;
    int32_t rows, columns;
    int32_t channels; /* 1..mr really present; the kernel reads and writes no more */
    int32_t last;     /* outputs of the last panel present in dy, 1..16 (dw is always 16 wide) */
} dn_convgrad_f32_job;
typedef struct dn_convgrad_f32_variant {
    void (*run)(const dn_convgrad_f32_job *job);
    int8_t mr, nr;
} dn_convgrad_f32_variant;
typedef struct dn_convgrad_f32 {
    const char *isa;
    const dn_convgrad_f32_variant *variants;
    size_t variant_count;
} dn_convgrad_f32;

/* ---- train_f32: passes of training over maps that are not convolutions ----
 * Maps are dense: [pixels][channels], any number of channels. A sum over pixels adds in the order of the pixels within each of two halves (even, odd), so its bits depend
 * on nothing but the map. */

typedef enum dn_act { DN_ACT_NONE, DN_ACT_RELU, DN_ACT_RELU6, DN_ACT_LEAKY, DN_ACT_HARDSWISH } dn_act;

/* out = act((z - mean) * scale + shift + residual), per channel; z and residual are contiguous, out has rows out_row apart. */
typedef struct dn_norm_job {
    const float *z, *residual; /* residual may be NULL */
    float *out;
    size_t rows, columns, channels;
    ptrdiff_t out_row;
    const float *mean, *scale, *shift;
    dn_act act;
    float slope;
} dn_norm_job;

/* g = (first + second) * act'(v), where v is y if given (its sign and limits tell), else (z - mean) * scale + shift + residual. g may be `first` or `second`.
 * sums (may be NULL): [2][channels], sum of g and of g * (z - mean). */
typedef struct dn_actgrad_job {
    const float *first, *second; /* second may be NULL */
    const float *z, *residual, *y;
    float *g;
    size_t pixels, channels;
    const float *mean, *scale, *shift;
    float *sums;
    dn_act act;
    float slope;
} dn_actgrad_job;

/* out = a * g + b * (z - mean) + c, per channel: the gradient of a batch norm's input. */
typedef struct dn_normgrad_job {
    const float *g, *z;
    float *out;
    size_t rows, columns, channels;
    ptrdiff_t out_row;
    const float *mean, *a, *b, *c;
} dn_normgrad_job;

/* Numbers of one optimiser step; `gain` multiplies the gradient first (clipping). */
typedef struct dn_sgd_step {
    float gain, lr, momentum, decay;
    int nesterov;
} dn_sgd_step;
typedef struct dn_adamw_step {
    float gain, lr, beta1, beta2, epsilon, shrink; /* shrink = 1 - lr * decay */
    float correction1, correction2;                /* 1 - beta1^t, sqrt(1 - beta2^t) */
} dn_adamw_step;

typedef struct dn_train_f32 {
    const char *isa;
    /* out [3][channels]: the first pixel k, the sum of z - k, the sum of (z - k)^2. */
    void (*sums)(const float *z, size_t pixels, size_t channels, float *out);
    void (*norm)(const dn_norm_job *job);
    void (*actgrad)(const dn_actgrad_job *job);
    void (*normgrad)(const dn_normgrad_job *job);
    /* out[channels] = sum over rows x columns of x. */
    void (*column_sums)(const float *x, ptrdiff_t x_row, size_t rows, size_t columns, size_t channels, float *out);
    void (*add)(float *out, const float *x, size_t count);
    void (*round_bf16)(float *x, size_t count); /* to nearest, ties to even; a NaN stays one */
    /* out[channel] += sum over rows x columns of x * y; out = out + x * w per channel: the two gradients of one tap of a depthwise convolution. */
    void (*product_sums)(const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *y, ptrdiff_t y_row, ptrdiff_t y_step, size_t rows, size_t columns, size_t channels, float *out);
    void (*add_scaled)(float *out, ptrdiff_t out_row, ptrdiff_t out_step, const float *x, ptrdiff_t x_row, ptrdiff_t x_step, const float *w, size_t rows, size_t columns,
                       size_t channels);
    /* Gradient of one max-pool window: adds dy to dx where x equals y first, in row-major order. */
    void (*max_gradient)(const float *x, float *dx, ptrdiff_t row, ptrdiff_t step, size_t rows, size_t columns, size_t channels, const float *y, const float *dy);
    void (*max)(const float *x, ptrdiff_t row, ptrdiff_t step, size_t rows, size_t columns, size_t channels, float *y);
    double (*sum_squares)(const float *x, size_t count);
    void (*sgd)(float *w, const float *g, float *m, size_t count, const dn_sgd_step *step);
    void (*adamw)(float *w, const float *g, float *m, float *v, size_t count, const dn_adamw_step *step);
} dn_train_f32;

/* ---- wino_f32: Winograd's F(2 x 2, 3 x 3) in float ---- */

/* Transforms of tiles side by side, and of many weights; 16 positions stand `position` floats apart. input: 4 x 4 pixels. output: 2 x 2 pixels of sums under an epilogue, without
 * fused multiply-adds, a tile's sums `lanes` apart. gradient: 2 x 2 output gradients. weights: `count` weights of each of 9 taps. sums: from products added up over tiles to an addition to the weights' gradient. */
enum { DN_WINO_F32_POSITIONS = 16 };
typedef struct dn_wino_f32 {
    const char *isa;
    void (*input)(const float *d, ptrdiff_t row, ptrdiff_t step, size_t channels, size_t tiles, float *to, size_t position);
    void (*output)(const float *m, size_t position, size_t lanes, size_t channels, size_t tiles, float *y, ptrdiff_t row, ptrdiff_t step, const float *residual,
                   ptrdiff_t residual_row, ptrdiff_t residual_step, const dn_epilogue *epilogue);
    void (*gradient)(const float *dy, ptrdiff_t row, ptrdiff_t step, size_t channels, size_t tiles, float *to, size_t position);
    void (*weights)(const float *g, size_t tap, float *to, size_t position, size_t count);
    void (*sums)(const float *u, size_t position, float *dg, size_t tap, size_t count);
} dn_wino_f32;

/* ---- product_f32: rows of floats times panels of weights ---- */

/* Row i of `out`, 16 floats per panel, is the sum over runs of channels of row i of x times [panel][channel][16] weights: entries in order, channels in order, one fma each,
 * starting from 0. `out` may be x: rows are read before they are written. */
typedef struct dn_product_f32_job {
    const float *x, *weights;
    float *out;
    int32_t rows;
    ptrdiff_t in_step, out_step;
    size_t panel_stride;
    const dn_run *runs;
    size_t run_count;
} dn_product_f32_job;
typedef struct dn_product_f32_variant {
    void (*run)(const dn_product_f32_job *job);
    int8_t mr, nr; /* rows at a time; panels */
} dn_product_f32_variant;
typedef struct dn_product_f32 {
    const char *isa;
    const dn_product_f32_variant *variants;
    size_t variant_count;
} dn_product_f32;

/* Sixteen of them: v [position][tile][channels] times weights [panel][position][channel][16], as runs of channels, to m [position][tile][16 * panels]. */
typedef struct dn_wino_f32_product {
    float *v; /* the products, if in place */
    const float *weights;
    float *m;
    int32_t tiles, channels, panels;
    size_t panel_stride, position_stride; /* floats */
    const dn_run *runs;                   /* of one position */
    size_t run_count;
    void (*between)(void *context); /* called after the panels of every position that are done together; may be NULL */
    void *context;
} dn_wino_f32_product;
/* Returns where the products are: in m, or in v where they fit the place of what they are made of. */
float *dn_wino_f32_multiply(const dn_product_f32 *kernels, const dn_wino_f32_product *product);
/* Tiles of a block, for its products and for the gradient of its weights; `many` make up for fetching weights. */
int32_t dn_wino_f32_block(const dn_product_f32 *kernels, int32_t inputs, int32_t outputs, int32_t many);
int32_t dn_wino_f32_grad_block(int32_t inputs, int32_t outputs, int32_t many);

/* ---- selection ---- */

/* Slots in the order of kernels.inc. */
#define DN_SLOTS(X)                                                                            \
    X(conv_s8) X(wino_s8) X(linear_s8) X(dwconv_s8) X(pointwise_u8) X(pool_u8)                 \
    X(conv_f32) X(dwconv_f32) X(pointwise_f32) X(pool_f32)                                     \
    X(conv_bf16) X(dwconv_bf16) X(pointwise_bf16) X(pool_bf16)                                 \
    X(wino_f32) X(product_f32) X(convgrad_f32) X(train_f32)

#define DN_KERNEL(slot, isa, features) extern const dn_##slot dn_##slot##_##isa;
#include "kernels/kernels.inc"
#undef DN_KERNEL

typedef struct dn_kernels {
#define DN_FIELD(slot) const dn_##slot *slot;
    DN_SLOTS(DN_FIELD)
#undef DN_FIELD
} dn_kernels;

/* The best record of every slot among those whose features are all in `features`. */
void dn_kernels_select(dn_kernels *kernels, unsigned features);

#endif
