/* plan.h - a network lowered for one CPU: operations (once per plan), steps and tables (once per point), arenas (once per engine).
 *
 * A *value* is a tensor in one arithmetic: value 2t is tensor t in float (of 4 bytes, or 2 in a bf16 plan), 2t + 1 the same in u8. An *operation* is one or several fused nodes; it computes one value. A *record* is
 * what a point decides about an operation, a *step* everything that running it needs: an engine writes the records of the point it runs out as steps. */
#ifndef DN_PLAN_PLAN_H
#define DN_PLAN_PLAN_H

#include <stdatomic.h>

#include "base/bf16.h"
#include "base/size.h"
#include "graph/graph.h"
#include "kernels/kernels.h"

typedef enum dn_op_kind {
    DN_DO_INPUT,      /* bytes or floats of the caller -> value */
    DN_DO_CONV,       /* conv2d, linear */
    DN_DO_DEPTHWISE,
    DN_DO_AFFINE,     /* batchnorm, add, relu, relu6, hardswish, and what is fused with them */
    DN_DO_ACTIVATION, /* leaky_relu, sigmoid, hardsigmoid */
    DN_DO_MUL,
    DN_DO_CONCAT,
    DN_DO_MAX_POOL,
    DN_DO_AVG_POOL,   /* avg, global, adaptive */
    DN_DO_SHORTCUT,
    DN_DO_PAD,
    DN_DO_QUANTIZE,   /* float value -> u8 value of the same tensor */
    DN_DO_DEQUANTIZE,
    DN_DO_OUTPUT,     /* value -> the caller's float array */
} dn_op_kind;

typedef struct dn_plan_op {
    dn_op_kind kind;
    bool int8;              /* u8 in, s8 weights; the output may still be float (float_out) */
    bool float_out;         /* the last convolution: its values stay float32, in int8 and in bf16 */
    int32_t node;           /* whose weights or attributes it uses */
    int32_t norm, add, act; /* fused nodes, or -1 */
    int32_t residual;       /* tensor that `add` adds, or -1 */
    int32_t output;         /* tensor it computes */
    /* Weights. A pack group is a group of the convolution or, in a network of incremental groups, the part of a dense convolution's outputs that belongs to one group. */
    int32_t pack_groups;
    int32_t group_out;      /* output channels per pack group */
    int32_t group_in;       /* input channels each pack group reads, 0: all */
    bool partial;           /* dense layer on a grouped network: one accumulation per input group */
    bool grouped;           /* channel group g of the output comes from group g of the inputs, or from what all groups share */
    size_t weight_offset;   /* bytes in the blob */
    size_t group_stride, panel_stride, tap_stride; /* bytes */
    /* Computed by wino_s8, from weights that were transformed when they were packed (`stored`; steps that see all bits), or from those above (`direct`). */
    int32_t winograd; /* outputs along the side of a tile, 0: not */
    bool stored, direct;
    size_t wino_offset;                                              /* bytes in the blob */
    size_t wino_group_stride, wino_panel_stride; /* elements */
    int32_t wino_chunk;     /* input channels that stand together for every position */
    bool planes;            /* its weights are planes of nibbles, for linear_s8: all high ones, then all low ones, in the bytes that panels would take */
} dn_plan_op;

struct dn_plan {
    const dn_graph *graph;
    dn_kernels kernels;
    dn_plan_op *ops;
    int32_t op_count;
    int32_t *source;   /* [nodes] through flatten, dropout and identity: the tensor that has memory */
    bool *native_u8;   /* [nodes] the arithmetic in which a tensor is first computed */
    bool has_int8;
    bool bf16;         /* no int8; the float slots of `kernels` hold the bf16 records */
    int32_t real;      /* bf16: the tensor whose values stay float32, or -1 */
    int32_t mixes;     /* the first node through which channel groups meet before their sum, -1: none, so that a run can be extended group by group */
    uint8_t *blob;     /* packed weights */
    size_t blob_bytes;
    float *params;     /* what binding needs of the parameters: gamma, beta, biases, weight scales */
    size_t *weight_scale, *bias, *gamma, *beta; /* [nodes] offsets into params, SIZE_MAX: none */
    size_t param_count;
    float *input_table; /* [channels][256] or NULL */
    int32_t threads, least_bits;
    bool compact;
};

/* A map in an arena. Strides count elements. */
typedef struct dn_map {
    size_t offset; /* bytes from the arena's start to pixel (0, 0) */
    int32_t pixel, row;
    int32_t height, width;
    int32_t channels; /* active, without lanes */
    int16_t top, bottom, left, right; /* halo */
    uint8_t zero;  /* zero point, u8 only */
    bool u8;
    bool gaps;     /* lanes without a channel stand between channels: a concatenation of parts that are not multiples of 4 */
    int8_t size;   /* bytes of an element: 1 (u8), 2 (bf16) or 4 (float) */
} dn_map;

/* What a point keeps of a step; the rest follows from the plan (steps.c). All of it is small, since there may be many points. */
typedef struct dn_record {
    int32_t op;
    int32_t in, second;        /* the steps that compute what it reads, -1: none; second: residual, or the other factor */
    uint32_t block;            /* the output's first byte in the arena, in units of DN_BLOCK bytes */
    int32_t channels, pixel;   /* as in dn_map */
    int16_t top, bottom, left, right;
    int32_t groups;
    uint32_t table;            /* bytes into the tables: dn_scales per group, scale[table_channels], bias[table_channels], and what else its kind needs */
    int32_t table_channels;
    int8_t bits;
    int8_t tile[2];
    bool gaps;
    bool bounded;              /* DN_EPI_BOUNDED */
} dn_record;
enum { DN_BLOCK = 64 };

/* Real values per quantisation step of what a channel group of a step reads and writes; 1 in float. */
typedef struct dn_scales {
    float in, out, second;
} dn_scales;

/* Numbers that belong to a channel group. */
typedef struct dn_scalars {
    float residual_scale, lo, hi, out_scale, out_zero;
    float in_scale, in_zero; /* of the (first) input */
    float out_real;          /* the output's scale itself: average pools divide by it */
    float factor;            /* mul: s_a * s_b / s_out */
    int32_t begin, count;    /* channels */
} dn_scalars;

/* One input of a concatenation. */
typedef struct dn_concat_part {
    dn_map in;
    int32_t lane;  /* first element in the output's pixel */
    size_t table;  /* as in dn_step: scale[in.pixel] then bias[in.pixel] */
    bool copy;     /* same scale and zero point: bytes are copied */
} dn_concat_part;

/* A run of input channels of a convolution at a point. */
typedef struct dn_segment_run {
    int32_t lane;   /* first element in the pixel */
    int32_t lanes;  /* elements, a multiple of 4 in u8 */
    int32_t weight; /* channel offset in the packed weights */
    int32_t channels;
} dn_segment_run;

typedef struct dn_step {
    int32_t op;
    dn_map in, out, second;    /* second: residual, or the other factor */
    bool has_second;
    int32_t groups;            /* chunks with scalars of their own: active pack groups or channel groups */
    size_t scales;             /* bytes into the point's tables: dn_scales[dn_scale_sets] */
    size_t table;              /* scale[table_channels] then bias[table_channels], by lane of the output (partial sums: by pass and lane); kernels
                                * read up to 15 more of each */
    size_t table_channels;
    size_t extra;              /* bytes into the tables: lookup tables, lane maps, active channels of several segments, what a concatenation reads */
    int32_t parts;             /* segment runs (convolutions), inputs (concat) */
    dn_scalars *scalars;       /* [groups] */
    dn_segment_run *runs;      /* [parts] */
    dn_concat_part *inputs;    /* [parts] */
    int8_t view_add, view_mask;
    int8_t bits;
    bool heavy;                /* its weights take more bytes than its maps */
    int8_t tile[2];            /* convolutions: variants for most blocks of panels, and for the last block; -1: none */
    int8_t winograd;           /* as in its op, 0: computed directly */
    bool packed;               /* Winograd's weights are transformed on the way */
    bool pass_bias;            /* partial sums: every group's compensation is added before its sum */
    size_t wide_weights, wide_rows; /* bf16: where in a thread's scratch widened weights and rows of the input stand */
    int32_t wide_height, wide_block;  /* rows there is room for, 0: nothing is widened; output rows that all blocks of panels compute before the next, 0: all */
    int64_t macs;
    uint32_t flags;            /* DN_EPI_*, DN_CONV_* */
} dn_step;

struct dn_point {
    const dn_plan *plan;
    uint64_t serial;    /* no other point of this process has it, also not one that gets the memory of this one */
    atomic_int holders; /* its owner, and engines that keep what they ran at it */
    int32_t groups;     /* active channel groups */
    int32_t step_count;
    size_t bytes;       /* of all this: one block of memory */
    size_t arena_bytes;
    size_t scratch_bytes; /* per thread: the longest list of taps, and in bf16 what convolutions widen */
    dn_record *records;
    uint8_t *tables;
};

/* ---- steps.c: a point's records written out ---- */
typedef struct dn_steps {
    dn_step *steps;       /* room for those of any point of the plan, and for what they point to */
    dn_scalars *scalars;
    dn_segment_run *runs;
    dn_concat_part *inputs;
    size_t bytes;
    uint64_t serial;      /* the point they are of; 0: none yet */
} dn_steps;
dn_status dn_steps_new(dn_steps *steps, const dn_plan *plan, dn_error *err);
void dn_steps_free(dn_steps *steps);
/* Does nothing if they are this point's already. */
void dn_steps_write(dn_steps *steps, const dn_point *point);
/* One step without scalars, runs and inputs. */
dn_step dn_step_of(const dn_point *point, int32_t number);
/* Writes a step's scalars, runs and inputs anew, from its tables. */
void dn_step_lists(const dn_point *point, const dn_step *step);
/* The scales of a channel group in double, with the zero points that go with them; 1 and 0 in float. */
typedef struct dn_real_scales {
    double in, zero_in, out, zero_out, second, zero_second;
} dn_real_scales;
dn_real_scales dn_step_scales(const dn_point *point, const dn_step *step, int32_t group);
/* The output map of a record, but for its place if it has none yet. */
dn_map dn_record_map(const dn_plan *plan, const dn_record *record);
/* Active channels of a convolution's input in segment s. */
int32_t dn_step_segment(const dn_point *point, const dn_step *step, int32_t s);
/* How many dn_scales a record has: one per incremental group of what is computed, or of what a dense layer adds up. Groups of one convolution share theirs. */
static inline int32_t dn_scale_sets(const dn_plan *plan, const dn_record *record) {
    if (plan->graph->groups == 1) return 1;
    return plan->ops[record->op].partial ? record->table_channels / record->pixel : record->groups;
}
static inline bool dn_op_has_act(const dn_plan *plan, const dn_plan_op *op, dn_op act) { return op->act >= 0 && plan->graph->nodes[op->act].op == act; }
/* Real value of the epilogue before the output's scale is divided out: hardswish works on real values. */
static inline double dn_op_divisor(const dn_plan *plan, const dn_plan_op *op, const dn_real_scales *s) { return dn_op_has_act(plan, op, DN_OP_HARDSWISH) ? 1 : s->out; }

/* ---- lower.c, pack.c, groups.c ---- */
dn_status dn_plan_lower(dn_plan *plan, const dn_params *params, dn_error *err);
dn_status dn_plan_pack(dn_plan *plan, const dn_params *params, dn_error *err);
bool dn_planes_fit(const dn_plan *plan, const dn_plan_op *op, const int8_t *codes); /* pack_planes.c: whether linear_s8 can compute the layer at every number of bits */
void dn_planes_clear(const dn_plan *plan, const dn_plan_op *op);
/* channel: input channels of all taps, in the order of the packed weights. */
void dn_plane_put(const dn_plan *plan, const dn_plan_op *op, size_t group, size_t within, size_t channel, int8_t code);
void dn_plan_find_groups(dn_plan *plan); /* groups.c: `grouped` of every operation, and `mixes` */

/* ---- point.c and its parts ---- */
/* One more holder; dn_point_free takes one away. */
dn_point *dn_point_hold(const dn_point *point);
/* Scale and shift of a batch norm at a point: the point's own, or those of the parameters. */
static inline const float *dn_gamma_of(const dn_plan *plan, const dn_tables *tables, int32_t norm) {
    return tables->gamma ? tables->gamma + plan->graph->nodes[norm].norm_offset : plan->params + plan->gamma[norm];
}
static inline const float *dn_beta_of(const dn_plan *plan, const dn_tables *tables, int32_t norm) {
    return tables->beta ? tables->beta + plan->graph->nodes[norm].norm_offset : plan->params + plan->beta[norm];
}

/* Everything needed while a point is bound. */
typedef struct dn_binding {
    const dn_plan *plan;
    const dn_subnet *subnet;
    const dn_tables *tables;
    const dn_tile *tiles; /* [nodes], or NULL: the plan chooses */
    void *memory;         /* of what follows */
    dn_record *records;
    bool *skip;           /* [nodes] in a dropped block */
    int32_t *root;        /* [nodes] the tensor whose memory a reader of i reads at this point */
    int32_t *first, *last; /* [2 * nodes] lifetimes in steps: computed by `first`, < 0: by none */
    struct dn_block_life *live; /* memory.c */
    int32_t step_count;
    size_t arena_bytes;
    dn_point *point;
    dn_steps steps;       /* of the point */
} dn_binding;
/* Checks the structure and lays out the memory; the point comes with dn_binding_tables. Whatever happens, dn_binding_end follows. */
dn_status dn_binding_begin(dn_binding *b, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, dn_error *err);
void dn_binding_end(dn_binding *b);
dn_status dn_binding_tables(dn_binding *b, bool fill, dn_error *err); /* point.c */
size_t dn_layout_room(const dn_plan *plan);                   /* memory.c: bytes for `live` */
dn_status dn_point_layout(dn_binding *b, dn_error *err);      /* memory.c: maps, lifetimes, places */
size_t dn_record_tables(const dn_binding *b, dn_record *record); /* tables.c: sets groups and table_channels, returns the bytes of its tables */
/* The tables of a step in two parts: what does not take numbers of channels (scales, lists), from which its dn_step can be written, and the rest. */
void dn_step_facts(const dn_binding *b, int32_t number);
void dn_step_fill(const dn_binding *b, int32_t number);
/* Tables of a step whose output stays real and unfused: what dn_calibrate measures. */
void dn_step_raw_tables(const dn_binding *b, const dn_step *step);
/* The k-th value an operation reads at this point, -1 when there are no more. A residual comes last. */
int32_t dn_op_read(const dn_binding *b, const dn_plan_op *op, int32_t k);
/* Tensor i's scale for channel group g, its zero point. */
double dn_scale_of(const dn_binding *b, int32_t tensor, int32_t group);
/* Channel groups of a tensor at the point, 1 where it is not grouped. */
int32_t dn_channel_groups(const dn_binding *b, int32_t tensor);

/* ---- engine.c and what it drives ---- */
typedef struct dn_run_context {
    const dn_plan *plan;
    const dn_point *point;
    const dn_step *steps; /* the point's */
    uint8_t *arena;
    uint8_t *target;  /* where a step's output map lies: the arena, except while dn_calibrate looks at raw results */
    uint8_t *scratch; /* [threads][point->scratch_bytes] */
    const void *input;
    dn_dtype dtype;
    float *output;
    int32_t threads;
    int32_t done;      /* leading channel groups that an earlier run computed, */
    const float *kept; /* whose partial sums [outputs] this one goes on from */
} dn_run_context;
void dn_run_step(const dn_run_context *run, const dn_step *step);
void dn_run_conv(const dn_run_context *run, const dn_step *step);      /* run_conv.c */
void dn_run_linear(const dn_run_context *run, const dn_step *step);    /* run_linear.c */
void dn_run_wino(const dn_run_context *run, const dn_step *step);      /* run_wino.c */
/* run_wino_f32.c: whether a float convolution could be computed by wino_f32, and, at a number of channels per group, should. */
bool dn_wino_f32_fits(const dn_node *node);
bool dn_wino_f32_pays(const dn_node *node, int32_t inputs, int32_t outputs);
size_t dn_wino_f32_scratch(const dn_plan *plan, const dn_step *step);
void dn_run_depthwise(const dn_run_context *run, const dn_step *step); /* run_depthwise.c */
void dn_run_pixels(const dn_run_context *run, const dn_step *step);    /* run_pixels.c: everything else */
/* The halo beside rows [begin, end): left and right columns; with the first and the last row also the rows above and below. */
void dn_fill_halo(uint8_t *base, const dn_map *map, int32_t begin, int32_t end); /* engine.c */

/* Chunks and lanes of a step's output that an extended run leaves out: those of the groups that are done. What groups share is computed again. */
static inline int32_t dn_first_chunk(const dn_run_context *run, const dn_step *step) {
    return run->plan->ops[step->op].grouped ? step->groups / run->point->groups * run->done : 0;
}
static inline int32_t dn_first_lane(const dn_run_context *run, const dn_step *step) {
    return run->plan->ops[step->op].grouped ? step->out.channels / run->point->groups * run->done : 0;
}
/* A step's scales, or scales of one of its parts that stand elsewhere in the tables. Biases follow. */
static inline const float *dn_table_at(const dn_point *point, size_t table) { return (const float *)(const void *)(point->tables + table); }

/* Images of a run. */
typedef struct dn_images {
    const void *data;
    dn_dtype dtype;
    size_t n, bytes;
} dn_images;

/* ---- kept.c: what an engine can go on from ---- */
typedef struct dn_kept {
    dn_point *point;   /* of the last run, held; NULL: nothing has been run */
    dn_images images;  /* a copy, in input */
    void *input;
    float *output;     /* [n][outputs] */
    size_t input_room, output_room; /* bytes */
} dn_kept;
void dn_kept_free(dn_kept *kept);
void dn_kept_forget(dn_kept *kept);
size_t dn_kept_bytes(const dn_kept *kept);
/* Forgets the last run and makes room for one at this point. */
dn_status dn_kept_reserve(dn_kept *kept, const dn_point *point, size_t input_bytes, size_t output_bytes, dn_error *err);
void dn_kept_store(dn_kept *kept, const dn_point *point, const dn_images *images, const float *output, size_t output_bytes);
/* Whether running these images at this point would repeat the last run for the groups that it had, and compute others besides. */
dn_status dn_kept_check(const dn_kept *kept, const dn_point *point, const dn_images *images, dn_error *err);

/* Value numbers. */
static inline int32_t dn_value(int32_t tensor, bool u8) { return 2 * tensor + u8; }
/* The first input tensor of an operation, as the graph says it. */
static inline int32_t dn_op_input(const dn_plan *plan, const dn_plan_op *op) {
    const dn_node *node = &plan->graph->nodes[op->node];
    bool own = op->kind == DN_DO_QUANTIZE || op->kind == DN_DO_DEQUANTIZE || op->kind == DN_DO_OUTPUT;
    return own ? op->output : node->input_count ? node->inputs[0] : -1;
}
/* The arithmetic an operation reads. */
static inline bool dn_op_reads_u8(const dn_plan_op *op) { return op->kind == DN_DO_QUANTIZE ? false : op->kind == DN_DO_DEQUANTIZE ? true : op->int8; }
static inline bool dn_op_writes_u8(const dn_plan_op *op) { return op->kind == DN_DO_QUANTIZE ? true : op->kind == DN_DO_DEQUANTIZE ? false : op->int8 && !op->float_out; }

/* The zero point of a tensor's u8 values. */
static inline uint8_t dn_zero_of(const dn_node *tensor) { return tensor->is_signed ? 128 : 0; }

/* Pixel (y, x) of a map whose memory starts at base. */
static inline uint8_t *dn_map_at(uint8_t *base, const dn_map *map, int32_t y, int32_t x) {
    ptrdiff_t element = (ptrdiff_t)y * map->row + (ptrdiff_t)x * map->pixel;
    return base + map->offset + element * map->size;
}

/* Element `lane` of a pixel of a float map. */
static inline float dn_map_float(const dn_map *map, const void *pixel, ptrdiff_t lane) {
    return map->size == 2 ? dn_bf16_widen(((const uint16_t *)pixel)[lane]) : ((const float *)pixel)[lane];
}

/* Bytes of a tensor's float values. */
static inline int8_t dn_float_size(const dn_plan *plan, int32_t tensor) { return plan->bf16 && tensor != plan->real ? 2 : 4; }
/* Bytes of a weight, and the multiple of channels that each segment is filled up to in the weights of a convolution. */
static inline size_t dn_weight_size(const dn_plan *plan, const dn_plan_op *op) { return op->int8 ? 1 : plan->bf16 ? 2 : sizeof(float); }
static inline size_t dn_weight_step(const dn_plan *plan, const dn_plan_op *op) { return op->int8 ? 4 : plan->bf16 ? 2 : 1; }

/* Whether the taps of a kernel row lie side by side in input and weights, so that they are one run of channels: nothing sliced, one segment, no dilation. runs is the step's list. */
static inline bool dn_conv_rows_join(const dn_plan_op *op, const dn_node *node, const dn_step *step, int32_t lanes) {
    return op->int8 && step->parts == 1 && !op->partial && node->dilation_w == 1 && lanes == step->in.pixel && (size_t)lanes * 16 == op->tap_stride;
}
/* Planes of nibbles: bytes of one of them, and where in the blob the high nibble of a weight stands; the low one's byte stands a plane later. */
static inline size_t dn_plane_bytes(const dn_plan_op *op) { return op->group_stride * (size_t)op->pack_groups / 2; }
static inline size_t dn_plane_byte(const dn_plan_op *op, size_t group, size_t within, size_t channel) {
    return op->weight_offset + (group * op->group_stride + within / 16 * op->panel_stride) / 2 + channel / 4 * DN_PLANE_STEP + within % 8 * 4 + channel % 4;
}
/* The code of a weight. */
static inline int32_t dn_plane_code(const dn_plan *plan, const dn_plan_op *op, size_t group, size_t within, size_t channel) {
    const uint8_t *high = plan->blob + dn_plane_byte(op, group, within, channel), *low = high + dn_plane_bytes(op);
    const int shift = within % 16 < 8 ? 0 : 4;
    return (*high >> shift & 15) * 16 + (*low >> shift & 15) - DN_PLANE_ZERO;
}

/* Bytes from one image's arena to the next. */
static inline size_t dn_arena_stride(const dn_point *point) { return dn_round_up(point->arena_bytes + 64, 64); }

enum { DN_WINO_RUNS = 160, DN_WINO_CHUNK = 16 }; /* pieces of input channels within a chunk: more than that go the direct way */
/* Where input channel c stands in a panel: [chunk][position][channel / 2][16 outputs][2 channels]. A narrow sub-net reads the first chunks from end to end; were positions
 * outermost, it would read a part of each, all in the same few sets of the cache. */
static inline size_t dn_wino_place(const dn_plan_op *op, int32_t c) {
    return (size_t)(c / op->wino_chunk * dn_wino_positions(op->winograd) * op->wino_chunk + c % op->wino_chunk / 2 * 2) * 16 + (size_t)(c % 2);
}
/* Tiles that wino_s8 works on at a time: as many as keep what it holds of them, and the weights that pass by, near the core. */
static inline int32_t dn_wino_block(int side, int32_t lanes, bool packed) {
    if (packed) return side == 4 ? 20 : DN_WINO_TILES; /* what is transformed on the way is for all of them */
    return side == 4 ? DN_WINO_QUAD : lanes <= 64 ? 8 : 16;
}
/* ---- tile.c ---- */
/* Chooses the tiles of a convolution step. */
dn_status dn_conv_choose(const dn_binding *b, int32_t number, dn_error *err);
/* Bytes of a thread's scratch that a convolution takes; in bf16 also says where in it widened values stand. */
size_t dn_conv_scratch(const dn_plan *plan, dn_step *step);
/* The tiles a convolution step uses, " 6x16" or " 6x16+6x8", for describing. */
void dn_conv_tile_name(const dn_plan *plan, const dn_step *step, char *text, size_t size);

#endif
