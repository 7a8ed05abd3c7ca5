/* dynadnn.h - everything a binding may use of the C core; it includes nothing but the C standard.
 *
 * Order of use: dn_graph_new (checks a network) -> dn_trainer_* (trains weights) or dn_plan_new (lowers graph and weights for one CPU) -> dn_calibrate (tables of an
 * operating point) -> dn_point_new (binds it) -> dn_engine_run. dn_nsga2_* searches among points and knows no networks.
 *
 * Rules. Handles are opaque and have one owner; _free(NULL) is legal. A function that can fail returns dn_status, sets *out to NULL first and fills *err (may be
 * NULL). The core never prints, exits, reads files or the environment. Every public call runs in the default floating-point environment and restores the caller's. */
#ifndef DYNADNN_H
#define DYNADNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors, interruption, build ---- */

typedef enum dn_status {
    DN_OK = 0,
    DN_ENOMEM,       /* MemoryError */
    DN_EINVAL,       /* an argument: ValueError */
    DN_EGRAPH,       /* a network that cannot be: GraphError */
    DN_EPOINT,       /* an operating point that cannot be: PointError */
    DN_ENONFINITE,   /* NaN or Inf where none may be: NonFiniteError */
    DN_EUNSUPPORTED, /* not built: UnsupportedError */
    DN_EINTERRUPTED, /* the poll said stop; nothing was committed */
} dn_status;

typedef struct dn_error {
    dn_status status;
    char message[320];
} dn_error;

/* Asked by the calling thread at least every 10 ms of a long call; non-zero stops it with DN_EINTERRUPTED. */
typedef struct dn_poll {
    int (*ask)(void *context);
    void *context;
} dn_poll;

typedef enum dn_isa { DN_ISA_REF, DN_ISA_AVX2, DN_ISA_AVXVNNI, DN_ISA_AVX512, DN_ISA_NEON, DN_ISA_NEONDOT, DN_ISA_BEST } dn_isa;
const char *dn_isa_name(dn_isa isa);
int dn_isa_available(dn_isa isa); /* 1 if this CPU has it */
/* The level that this level and this CPU together come to, as used by the int8 convolution. */
dn_isa dn_isa_effective(dn_isa isa);

const char *dn_version(void);
const char *dn_compiler(void);

/* For tests: the n-th allocation from now fails (0: none). _left is what is left of n; _live counts blocks not yet freed. */
void dn_alloc_fail_at(int64_t n);
int64_t dn_alloc_fail_left(void);
int64_t dn_alloc_live(void);

/* ---- graph: what a network is ---- */

typedef struct dn_graph dn_graph;

/* One operation. Node i produces tensor i and reads tensors with smaller numbers; node 0 is the input. Fields an op does not use are ignored. Maps are height x width
 * x channels; a 1-D signal has height 1, plain features have height = width = 1. */
typedef struct dn_node_spec {
    const char *op;   /* a name of graph/ops.inc: "input", "conv2d", "linear", ... */
    const char *name; /* for messages */
    const int32_t *inputs;
    int32_t input_count;
    int32_t height, width;    /* input: its size; adaptive_avg_pool: output size */
    int32_t channels;         /* input, conv2d, linear, shortcut: output channels */
    int32_t kernel[2];        /* conv2d, max_pool, avg_pool */
    int32_t stride[2];        /* conv2d, max_pool, avg_pool, shortcut */
    int32_t pad[4];           /* top, bottom, left, right: conv2d, max_pool, avg_pool (zeros not counted in the mean), pad */
    int32_t dilation[2];      /* conv2d */
    int32_t groups;           /* conv2d, linear */
    int32_t bias;             /* conv2d, linear: 1 if they have one */
    int32_t fixed;            /* conv2d, linear, shortcut: 1 if the channels it opens are not elastic */
    int32_t stage, block;     /* elastic depth: block number inside a stage, both from 0; stage -1: none */
    float value;              /* batchnorm: epsilon; leaky_relu: slope; dropout: rate */
    const int32_t *map;       /* shortcut: source channel or -1 for each of `channels` */
} dn_node_spec;

/* The one gate: after it, every layer may trust the graph. groups >= 1 is the number of incremental channel groups of the whole network. Strings are copied. */
dn_status dn_graph_new(dn_graph **out, const dn_node_spec *nodes, int32_t count, int32_t output, int32_t groups, dn_error *err);
void dn_graph_free(dn_graph *graph);

typedef struct dn_segment {
    int32_t space;  /* which channel space */
    int32_t full;   /* its channels at full width */
    int32_t repeat; /* height * width after a flatten, else 1 */
} dn_segment;

typedef struct dn_tensor_info {
    int32_t height, width, channels; /* full width; channels after a flatten: height * width * channels of the map */
    int32_t segments;                /* number of segments */
    int32_t is_signed;               /* 0 if no value can be below zero: quantised with zero point 0, else 128 */
    int32_t scale_from;              /* the tensor whose quantisation scale this one shares, or itself */
    int32_t weights, biases;         /* numbers of parameters: weight (gamma) and bias (beta) elements */
    int32_t norm_offset;             /* batchnorm: first channel of this node in the concatenated statistics, else -1 */
    int32_t stage, block;
} dn_tensor_info;

typedef struct dn_space_info {
    int32_t full;
    int32_t elastic; /* 0: always full */
    int32_t lead;    /* the space that decides: active = active[lead] * full / full[lead]; itself if free */
    int32_t unit;    /* active channels are a multiple of this, or full */
} dn_space_info;

int32_t dn_graph_nodes(const dn_graph *graph);
int32_t dn_graph_spaces(const dn_graph *graph);
int32_t dn_graph_groups(const dn_graph *graph);
int32_t dn_graph_stages(const dn_graph *graph);
int32_t dn_graph_norm_channels(const dn_graph *graph); /* sum of the full channels of all batchnorm nodes */
void dn_graph_tensor(const dn_graph *graph, int32_t tensor, dn_tensor_info *info);
void dn_graph_segment(const dn_graph *graph, int32_t tensor, int32_t index, dn_segment *segment);
void dn_graph_space(const dn_graph *graph, int32_t space, dn_space_info *info);
/* Blocks of a stage, and how many of the leading ones must stay (those without an identity shortcut and all before them). */
void dn_graph_stage(const dn_graph *graph, int32_t stage, int32_t *blocks, int32_t *must_keep);

/* An operating point's structure. */
typedef struct dn_subnet {
    const int32_t *active; /* per space: active leading channels */
    const int8_t *bits;    /* per node: 8, 4, 3 or 2 for quantised layers (others ignored); NULL: 8 everywhere */
    const int32_t *depth;  /* per stage: kept leading blocks; NULL: all */
} dn_subnet;

dn_status dn_graph_check_subnet(const dn_graph *graph, const dn_subnet *subnet, dn_error *err);
/* Multiply-accumulates of one image per node (convolutions and linear layers, padding counted as work, skipped blocks 0) and active parameters per node. Either may be NULL. */
dn_status dn_graph_cost(const dn_graph *graph, const dn_subnet *subnet, int64_t *macs, int64_t *params, dn_error *err);

/* Parameters of node i; all NULL where it has none. Layouts: conv2d [out][kh][kw][in/groups], linear [out][in], shapes at full width, C order. */
typedef struct dn_params {
    const float *weight;     /* or batchnorm gamma [c]; NULL when quantised */
    const int8_t *codes;     /* quantised weight, same layout as weight */
    const float *code_scale; /* [out]: weight = codes * code_scale */
    const float *bias;       /* [out], or batchnorm beta */
} dn_params;

/* Tables of an operating point. */
typedef struct dn_tables {
    float *mean, *variance; /* [dn_graph_norm_channels]: only active channels are read or written */
    float *scale;           /* [nodes][groups]: real value per quantisation step of each tensor, per channel group; NULL for a float network */
    const float *gamma, *beta; /* [dn_graph_norm_channels] scale and shift of the point's own batch norms, only read; both NULL: those of the parameters */
} dn_tables;

/* ---- plan: a network lowered for one CPU; inference ---- */

typedef struct dn_plan dn_plan;     /* shared, immutable: steps and packed weights */
typedef struct dn_point dn_point;   /* immutable: one operating point bound to a plan */
typedef struct dn_engine dn_engine; /* an arena; runs one call at a time (a second caller waits) */

typedef struct dn_plan_options {
    int32_t threads;   /* the most a run may use, >= 1 */
    dn_isa isa;        /* the highest level kernels may use */
    int32_t precision; /* of layers that are not quantised: 32 (fp32); 16 (bf16 weights and activations, fp32 sums), if none is quantised */
    int32_t least_bits; /* the fewest bits a point may ask of a quantised layer, 2..8: 8 lets layers keep their weights in one form only */
    int32_t compact;    /* != 0: a byte for every int8 weight, also where more of them would be a little faster */
} dn_plan_options;

/* graph must outlive the plan. params: per node; a node with codes runs in int8, others in float. input_table: [channels][256] preprocessed value of each byte, or NULL
 * if uint8 input has no meaning. Weights are copied (packed). */
dn_status dn_plan_new(dn_plan **out, const dn_graph *graph, const dn_params *params, const float *input_table, const dn_plan_options *options, dn_error *err);
void dn_plan_free(dn_plan *plan);
size_t dn_plan_weight_bytes(const dn_plan *plan);
int dn_plan_is_quantised(const dn_plan *plan); /* 1 if some layer runs in int8: points then need scales */

/* Binds a point: sizes, offsets, tables. plan must outlive it. Touches no weights. */
dn_status dn_point_new(dn_point **out, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, dn_error *err);
/* Which kernel variants compute a convolution: for most blocks of 16 output channels, and for what is left of them; numbers of this plan's kernels, -1: none. */
typedef struct dn_tile {
    int8_t most, rest;
} dn_tile;
/* The same with tiles chosen by the caller, per node: {-1, -1} leaves the choice to the plan. DN_EINVAL for a tile that dn_point_tile does not list. Any tile gives the same bits. */
dn_status dn_point_new_tiled(dn_point **out, const dn_plan *plan, const dn_subnet *subnet, const dn_tables *tables, const dn_tile *tiles, dn_error *err);
void dn_point_free(dn_point *point);
size_t dn_point_table_bytes(const dn_point *point); /* everything it owns */
size_t dn_point_arena_bytes(const dn_point *point);

typedef enum dn_dtype { DN_F32, DN_U8 } dn_dtype;

dn_status dn_engine_new(dn_engine **out, const dn_plan *plan, dn_error *err);
void dn_engine_free(dn_engine *engine);
/* Grows the arena for this point; run does it too, but then it may allocate. */
dn_status dn_engine_reserve(dn_engine *engine, const dn_point *point, dn_error *err);
size_t dn_engine_arena_bytes(const dn_engine *engine); /* with the steps of the point it ran last */
/* n images of the input's shape (C order, DN_U8 only with an input table) -> output float32 [n][outputs]. threads <= the plan's. Each image's result does not depend on n or
 * threads. profile_ns (may be NULL): [dn_point_steps] nanoseconds added per step. */
dn_status dn_engine_run(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, float *output, int32_t threads, int64_t *profile_ns,
                        const dn_poll *poll, dn_error *err);
/* The same output, bit for bit, from the engine's last run or extension of the same images: only the channel groups that this point has and that one had not are computed. Both points must
 * have the same blocks, bits and tables for the groups they share. DN_EUNSUPPORTED names the layer that mixes groups; DN_EINVAL: nothing or something else was run; DN_EPOINT: the points do
 * not fit. After any failure the last run can still be extended. A network whose groups meet nowhere keeps, with every run below full width, the images and the output: dn_engine_kept_bytes. */
dn_status dn_engine_extend(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, float *output, int32_t threads, const dn_poll *poll, dn_error *err);
size_t dn_engine_kept_bytes(const dn_engine *engine);
/* Multiply-accumulates per image of the last run or extension: what was computed, not what the point has. */
int64_t dn_engine_macs(const dn_engine *engine);
/* Height, width and active channels of a node's tensor at a point: DN_EINVAL if fusion leaves it without memory. */
dn_status dn_point_shape(const dn_point *point, int32_t node, int32_t shape[3], dn_error *err);
/* Runs n images and copies the values of one node's tensor, dequantised, as float32 [n][shape]. */
dn_status dn_engine_activation(dn_engine *engine, const dn_point *point, const void *input, dn_dtype dtype, size_t n, int32_t node, float *output, dn_error *err);

typedef struct dn_step_info {
    char kernel[64];    /* family, ISA and tile, e.g. "conv_s8 avx2 6x16" */
    int32_t node;       /* the node whose weights it uses, or the one it stands for */
    int32_t output;     /* tensor it writes */
    int32_t is_int8;
    int64_t macs;       /* per image, at this point */
    size_t weight_offset, table_offset, input_offset, output_offset, residual_offset; /* bytes in blob, tables, arena; SIZE_MAX: none */
} dn_step_info;
int32_t dn_point_steps(const dn_point *point);
/* What a step's best tile depends on, in words; empty for a step without a choice. */
void dn_point_shape_name(const dn_point *point, int32_t step, char name[96]);
/* The tiles a step can have, numbered from 0, the step's own first: 1 if there is one of this number. The name says what the numbers mean. */
int dn_point_tile(const dn_point *point, int32_t step, int32_t number, dn_tile *tile, char name[32]);
void dn_point_step(const dn_point *point, int32_t index, dn_step_info *info);
/* Multiply-accumulates per second that one core reaches with the dot product of a kernel (named as in dn_step_info) on registers alone: what a step's speed can be held
 * against. 0 for a kernel without one. Takes some 3 ms. */
double dn_probe(const char *kernel);

typedef enum dn_range { DN_RANGE_MSE, DN_RANGE_MINMAX, DN_RANGE_PERCENTILE } dn_range;

/* How to calibrate. Scales: range and percentile (0..100). The rest [norm_channels] may be NULL. A network that is quantised keeps the statistics it was trained with, moved by what
 * quantisation changes on the same images: first the float network is observed (kept_* normalise, what the images give is returned), then the quantised one is corrected. */
typedef struct dn_calibration_options {
    dn_range range;
    double percentile;
    const float *kept_mean, *kept_variance;   /* normalise with these */
    const float *mean_shift, *variance_ratio, *variance_shift; /* mean = measured + shift, variance = measured * ratio + shift */
    const float *kept_scale; /* [nodes][groups]: scales of tensors that were trained, instead of measuring them */
    int32_t threads;
} dn_calibration_options;

/* Computes the tables of a point from n images, layer by layer through the plan's own kernels: batch-norm mean and (biased) variance from the layer's real output, and for
 * quantised networks the scale of each tensor. */
dn_status dn_calibrate(const dn_plan *plan, const dn_subnet *subnet, const void *images, dn_dtype dtype, size_t n, const dn_calibration_options *options, dn_tables *tables,
                       const dn_poll *poll, dn_error *err);

/* ---- train ---- */

typedef struct dn_trainer dn_trainer;

typedef struct dn_trainer_options {
    int32_t batch;       /* most images per forward pass */
    int32_t threads;
    dn_isa isa;
    int32_t stat_slots;  /* sets of running batch-norm statistics, one per named point */
    float stat_momentum; /* running = (1 - m) * running + m * batch; 0.1 */
    uint64_t seed;       /* dropout */
    int32_t bf16;        /* not 0: tensors, their gradients and the weights layers read are rounded to bfloat16 */
    const int32_t *taps; /* [tap_count] nodes whose values can be read after a forward pass and whose gradients can be added to */
    int32_t tap_count;
    const uint8_t *coded;  /* per node 1: a plan of the quantised network stores this tensor in codes; NULL: none */
    int32_t learns_scales; /* != 0: backward passes also give the gradients of the scales of coded tensors */
    int32_t private_affine; /* != 0: every set of statistics has its own gamma and beta of the batch norms, at first those given; a pass for nobody uses those of slot 0 */
} dn_trainer_options;

/* Copies the float parameters (params[i].weight and .bias; codes are refused). frozen: per node 1 = no update (NULL: none). graph must outlive the trainer. */
dn_status dn_trainer_new(dn_trainer **out, const dn_graph *graph, const dn_params *params, const uint8_t *frozen, const float *input_table, const dn_trainer_options *options,
                         dn_error *err);
void dn_trainer_free(dn_trainer *trainer);
size_t dn_trainer_outputs(const dn_trainer *trainer); /* logits per image */

/* One pass: forward in training mode (batch statistics), logits [n][outputs] written. The pass's statistics are kept aside for `stat_slot` (-1: nobody). step numbers dropout. */
dn_status dn_trainer_forward(dn_trainer *trainer, const dn_subnet *subnet, const void *input, dn_dtype dtype, size_t n, int32_t stat_slot, uint64_t step, float *logits,
                             const dn_poll *poll, dn_error *err);
/* Backward of the last forward; adds to the gradients. d_logits [n][outputs]. */
dn_status dn_trainer_backward(dn_trainer *trainer, const float *d_logits, const dn_poll *poll, dn_error *err);
/* Height, width and active channels of a tapped node's value in the last forward pass; all 0 if that pass did not make it (a dropped block) or there was none. */
void dn_trainer_tap_shape(const dn_trainer *trainer, int32_t tap, int32_t shape[3]);
/* Copies it: [n][height][width][channels]. */
dn_status dn_trainer_tap_read(const dn_trainer *trainer, int32_t tap, float *out, dn_error *err);
/* Adds a gradient of the same shape to that of the tapped value in the next backward pass, for which `gradient` must live; the pass forgets it. */
dn_status dn_trainer_tap_add(dn_trainer *trainer, int32_t tap, const float *gradient, dn_error *err);

/* Quantisation-aware training: a pass whose sub-net has bits reads weights and coded tensors as the integer engine would, gradients pass straight through (not outside a tensor's range).
 * Scales of a layer's weights [out] and its largest code; a layer without them is never quantised. */
dn_status dn_trainer_set_code_scale(dn_trainer *trainer, int32_t node, const float *scale, int32_t largest, dn_error *err);
/* Scales of coded tensors for the passes to come, per node; 0: not quantised, others are ignored. */
dn_status dn_trainer_set_scales(dn_trainer *trainer, const float *scale, dn_error *err);
/* Of the last pass, per node: the largest magnitude of a coded tensor before it was quantised, and the gradient of its scale; 0 elsewhere. */
void dn_trainer_get_peaks(const dn_trainer *trainer, float *peak);
void dn_trainer_get_slopes(const dn_trainer *trainer, double *slope);
/* Batch statistics of the last pass, biased variance; 0 and 1 for inactive channels. */
void dn_trainer_get_batch_stats(const dn_trainer *trainer, float *mean, float *variance);
/* A tensor of the last pass, [images][*floats] at active width: NULL if it was merged into another unit. Valid until the next pass. */
const float *dn_trainer_tensor(const dn_trainer *trainer, int32_t node, size_t *floats);

typedef enum dn_optimizer { DN_SGD, DN_ADAMW } dn_optimizer;
typedef struct dn_update {
    dn_optimizer optimizer;
    float lr, momentum, weight_decay; /* decay is added to the gradient (SGD) or decoupled (AdamW); never for batch norm and biases */
    int32_t nesterov;
    float beta1, beta2, epsilon;
    float clip_norm; /* <= 0: none */
} dn_update;
/* Applies gradients and the kept-aside statistics, then clears both. Fails with DN_ENONFINITE, changing nothing, if a gradient is not finite. Not interruptible. */
dn_status dn_trainer_commit(dn_trainer *trainer, const dn_update *update, double *gradient_norm, dn_error *err);
/* Drops gradients and statistics since the last commit. */
void dn_trainer_discard(dn_trainer *trainer);

/* Copies of the state. Parameters of one node (either may be NULL); statistics of a slot [norm_channels]; optimiser state of one node (two arrays per parameter, weight then bias). */
void dn_trainer_get_params(const dn_trainer *trainer, int32_t node, float *weight, float *bias);
void dn_trainer_set_params(dn_trainer *trainer, int32_t node, const float *weight, const float *bias);
void dn_trainer_get_grads(const dn_trainer *trainer, int32_t node, float *weight, float *bias);
void dn_trainer_get_stats(const dn_trainer *trainer, int32_t slot, float *mean, float *variance);
void dn_trainer_set_stats(dn_trainer *trainer, int32_t slot, const float *mean, const float *variance);
void dn_trainer_get_moments(const dn_trainer *trainer, int32_t node, float *weight1, float *weight2, float *bias1, float *bias2);
void dn_trainer_set_moments(dn_trainer *trainer, int32_t node, const float *weight1, const float *weight2, const float *bias1, const float *bias2);
/* With private_affine: whose gamma and beta the copies above are about from now on (0 at first). Passes have their own slot. */
void dn_trainer_show_affine(dn_trainer *trainer, int32_t slot);
int64_t dn_trainer_steps(const dn_trainer *trainer);
void dn_trainer_set_steps(dn_trainer *trainer, int64_t steps);
/* Names the first layer whose last forward or backward gave a non-finite value, in err->message; DN_OK if none. */
dn_status dn_trainer_diagnose(const dn_trainer *trainer, dn_error *err);

/* Losses: loss[n] per sample and, if not NULL, d_logits[n][k] = gradient of mean(loss * weight), multiplied by scale. weight may be NULL (ones). */
dn_status dn_loss_cross_entropy(const float *logits, const int64_t *labels, const float *weight, size_t n, size_t k, float smoothing, float scale, float *loss, float *d_logits,
                                dn_error *err);
/* temperature^2 * KL(softmax(teacher/t) || softmax(logits/t)); d_logits is added to when accumulate is set. */
dn_status dn_loss_distillation(const float *logits, const float *teacher, const float *weight, size_t n, size_t k, float temperature, float scale, int accumulate, float *loss,
                               float *d_logits, dn_error *err);
dn_status dn_loss_mse(const float *outputs, const float *targets, const float *weight, size_t n, size_t k, float scale, float *loss, float *d_outputs, dn_error *err);

typedef struct dn_augment {
    int32_t flip;  /* 1: left-right with probability 1/2 */
    int32_t crop;  /* pixels of zero padding (border value `fill`) before a random crop back to size */
    int32_t shift; /* largest shift in pixels, both axes, border `fill` */
    int32_t cutout; /* side of the square that is taken out after that, 0: none; its middle is any pixel */
    uint8_t fill;
    const uint8_t *cutout_fill; /* [c]; NULL: `fill` */
    uint64_t seed;
    uint32_t epoch;
} dn_augment;
/* images [total][h][w][c] uint8, index[n] selects; randomness is keyed by (seed, epoch, index[i]). out [n][h][w][c]. */
dn_status dn_augment_batch(const uint8_t *images, size_t total, size_t h, size_t w, size_t c, const int64_t *index, size_t n, const dn_augment *how, int32_t threads, uint8_t *out,
                           dn_error *err);
/* out[n]: 1 where dn_augment_batch mirrors image index[i]. */
void dn_augment_flips(const int64_t *index, size_t n, const dn_augment *how, uint8_t *out);

/* Early halting: pure functions of the history (methods: early-halting distillation). */
typedef struct dn_halting {
    int32_t patience;  /* epochs */
    double min_gain;   /* relative, per epoch */
} dn_halting;
/* 1 if none of the last `patience` epochs improved the best loss before them by min_gain (relative, per epoch). */
int dn_halt_training(const dn_halting *rule, const double *student_loss, size_t epochs);
/* 1 if the student's validation loss reached the trainee's, or the trainee's own gain over the window fell below min_gain. */
int dn_halt_trainee(const dn_halting *rule, const double *student_loss, const double *trainee_loss, size_t epochs);
/* 1 if the mean change of the teacher's running-average logits (relative, per epoch) stayed below min_gain for the window. */
int dn_halt_teacher(const dn_halting *rule, const double *teacher_change, size_t epochs);

/* ---- search: vectors and objectives, no networks ---- */

typedef struct dn_nsga2 dn_nsga2;

typedef struct dn_nsga2_options {
    int32_t variables, objectives, constraints, population; /* population even, >= 4 */
    const double *lower, *upper;                            /* [variables]; integer variables have integral bounds */
    const uint8_t *integer;                                 /* [variables] or NULL: all real */
    double crossover_probability, crossover_eta, mutation_probability, mutation_eta; /* 0.9, 15, 1/variables, 20; mutation_probability <= 0: 1/variables */
    uint64_t seed;
} dn_nsga2_options;

dn_status dn_nsga2_new(dn_nsga2 **out, const dn_nsga2_options *options, dn_error *err);
void dn_nsga2_free(dn_nsga2 *search);
/* Sets *x to [*rows][variables] vectors to evaluate, owned by the search until the next ask or tell. Asking twice gives the same vectors. */
dn_status dn_nsga2_ask(dn_nsga2 *search, const double **x, size_t *rows, dn_error *err);
/* f [rows][objectives], all minimised; g [rows][constraints], <= 0 feasible (NULL without constraints). A row with NaN in f or g is a failed evaluation: it never survives while
 * others can. Infinite objectives are refused. */
dn_status dn_nsga2_tell(dn_nsga2 *search, const double *f, const double *g, dn_error *err);
/* Replaces the vectors the first ask will give (rows of x clipped to the bounds; missing rows stay random). Only before the first tell. */
dn_status dn_nsga2_seed(dn_nsga2 *search, const double *x, size_t rows, dn_error *err);
size_t dn_nsga2_size(const dn_nsga2 *search); /* rows of the current population; 0 before the first tell */
int64_t dn_nsga2_generation(const dn_nsga2 *search);
/* Copies of the population: x [size][variables], f [size][objectives], g [size][constraints], rank [size]; any may be NULL. */
void dn_nsga2_population(const dn_nsga2 *search, double *x, double *f, double *g, int32_t *rank);
/* Exact state as bytes, for saving: size, write, and restore into a search made with the same options. */
size_t dn_nsga2_state_bytes(const dn_nsga2 *search);
void dn_nsga2_get_state(const dn_nsga2 *search, uint8_t *bytes);
dn_status dn_nsga2_set_state(dn_nsga2 *search, const uint8_t *bytes, size_t size, dn_error *err);

/* f is [n][m], minimised. rank[n]: 0 = non-dominated. Rows must not hold NaN. isa lowers what may be used. */
dn_status dn_nondominated_rank(const double *f, size_t n, size_t m, dn_isa isa, int32_t *rank, dn_error *err);
/* Crowding distance of each row among rows of the same rank (Deb et al. 2002); extremes get infinity. */
dn_status dn_crowding_distance(const double *f, const int32_t *rank, size_t n, size_t m, double *distance, dn_error *err);
/* Exact hypervolume dominated by f and bounded by ref [m]; rows not better than ref in every objective add nothing. */
dn_status dn_hypervolume(const double *f, size_t n, size_t m, const double *ref, double *volume, dn_error *err);
/* IGD+ (Ishibuchi et al. 2015) of f [n][m] against reference [r][m]. */
dn_status dn_igd_plus(const double *f, size_t n, const double *reference, size_t r, size_t m, double *value, dn_error *err);

#ifdef __cplusplus
}
#endif
#endif
