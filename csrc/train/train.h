/* train.h - the inside of a trainer: parameters, the program of a pass, scratch memory, format hooks.
 *
 * A forward call turns (graph, subnet) into a program: units (what makes a tensor), steps (what to do with one image) and phases (runs of steps that one image may go
 * through at once, because nothing in them waits for the whole batch). A phase is one dn_pool_run. Nothing is allocated after dn_trainer_new. */
#ifndef DN_TRAIN_TRAIN_H
#define DN_TRAIN_TRAIN_H

#include <stdatomic.h>
#include <stdbool.h>

#include "dynadnn.h"
#include "graph/graph.h"
#include "kernels/kernels.h"

enum {
    DN_SPLITS = 8,               /* weight gradients of light layers are summed over this many runs of images, then over the runs in order */
    DN_BLOCK = 32,               /* images of one item of a linear layer */
    DN_LIGHT_WEIGHTS = 64 * 1024 /* a convolution with more weights is heavy: its weight gradient is split by channels, not by images, so that it stays in cache */
};

/* ---- format hooks: called at tensor boundaries of one convolution or linear layer, each in place on a dense tensor ---- */

typedef struct dn_hook_call {
    int32_t node, image; /* image -1: the weights */
    float *values;       /* [rows][columns][channels]; the weights: [outputs][kernel_h * kernel_w][inputs of a group] */
    int32_t rows, columns, channels;
} dn_hook_call;
typedef void dn_hook(void *context, const dn_hook_call *call); /* from any worker */
typedef struct dn_train_hooks {
    dn_hook *input, *weight, *gradient, *accumulator; /* NULL: identity */
    void *context;
} dn_train_hooks;
/* hooks NULL: none. DN_EINVAL if the node is neither a convolution nor linear. */
dn_status dn_trainer_set_hooks(dn_trainer *trainer, int32_t node, const dn_train_hooks *hooks, dn_error *err);

/* ---- parameters ---- */

typedef struct dn_param {
    float *value, *gradient, *moment1, *moment2; /* [count] */
    size_t count;
    bool decays, frozen;
} dn_param;

/* Input channels of a layer that lie in one segment and one group: the unit in which the transposed weights are packed. */
typedef struct dn_cut {
    int32_t begin, full, group, panel;
    int32_t dense, active; /* in this pass: first channel among the active ones, and their number */
} dn_cut;

/* Taps that read one input row: runs from `first` on, `offset` rows below the output row's origin. One more entry closes the list. */
typedef struct dn_row_taps {
    int32_t offset, first;
} dn_row_taps;

/* One output phase of backward-data: pixels (y * stride_h + py, x * stride_w + px), a slice of the layer's lists. */
typedef struct dn_phase_taps {
    int32_t rows_first, rows_count; /* in back_rows */
} dn_phase_taps;

/* Which columns a list of taps is for. */
enum { DN_EDGE_NONE, DN_EDGE_LEFT, DN_EDGE_RIGHT, DN_EDGES };

typedef enum dn_layer_kind { DN_LAYER_DENSE, DN_LAYER_DEPTHWISE, DN_LAYER_LINEAR } dn_layer_kind;

/* Weights: [group][outputs of a group / 16][tap][inputs of a group][16]; depthwise [channel / 16][tap][16]. Transposed: [cut][inputs of the cut / 16][last tap first]
 * [outputs of the group][16]. */
typedef struct dn_layer {
    const dn_node *node;
    int32_t index, source_node; /* its node, the node it reads */
    dn_layer_kind kind;
    bool heavy;
    size_t split_size; /* floats of one split of the weight gradient */
    int32_t groups, group_in, group_out, group_panels, taps;
    size_t panel, back_panel; /* floats */
    dn_param weight, bias;
    const float *working; /* what convolutions read: weight.value, or its image under the weight hook */
    float *transposed;
    bool stale; /* working and transposed are older than weight.value */
    float *code_scale;           /* [outputs], or NULL: never quantised */
    int32_t code_top, code_bits; /* largest code; bits of this pass, 0: not quantised */
    dn_cut *cuts;
    int32_t cut_count;
    float *partial; /* [batch][2][outputs]: bias gradient per image, the second half unused */

    dn_train_hooks hooks;
    float *hooked_input, *hooked_weight, *natural;
    bool wino;                /* its shape fits winograd_pass.c */
    int32_t wino_tiles, wino_grad_tiles, wino_images; /* done together: tiles of an image, in the gradient of the weights too, or several images */
    float *wino_forward, *wino_back; /* U of working and of transposed */
    dn_run *wino_runs;        /* per cut: its channels among those of the group */
    float *rounded; /* working weights in bfloat16 training, else NULL */

    /* This pass. */
    int32_t in_active, out_active;
    dn_run *runs, *back_runs;
    dn_row_taps *rows, *back_rows; /* [DN_EDGES][groups][kernel_h + 1]; back_rows: see phases */
    dn_phase_taps *phases;         /* [DN_EDGES][groups][stride_h * stride_w] */
    float share[DN_EDGES], back_share[DN_EDGES]; /* part of the taps along a row that the first, the last column reaches */
    int32_t top, bottom, left, right; /* halo of dy for backward-data */
    float *active_weight, *active_flipped, *active_taps, *active_bias; /* depthwise: [active / 16][tap][16], the same with the last tap first, [tap][active] */
    size_t split_offset;
} dn_layer;

typedef struct dn_norm {
    const dn_node *node;
    int32_t index, channels;
    dn_param *gamma, *beta;                     /* [affine_sets] */
    float *partial;                             /* [batch][3 * channels] */
    float *mean, *variance, *scale, *shift;     /* active channels of this pass */
    float *inverse, *a, *b, *c;
    double *sums; /* [2][channels] */
    int32_t active;
} dn_norm;

/* ---- program ---- */

/* What makes a tensor. A blend is act(batchnorm(z) + residual) with any of the three left out. */
typedef enum dn_unit_kind { DN_UNIT_NONE, DN_UNIT_INPUT, DN_UNIT_LAYER, DN_UNIT_BLEND, DN_UNIT_OP } dn_unit_kind;
typedef struct dn_unit {
    dn_unit_kind kind;
    int32_t node;              /* layer, op */
    int32_t z, norm, residual; /* tensors (norm: node) or -1; a layer's input is z */
    dn_act act;
    float slope;
    bool inner;     /* the node is part of a later node's unit */
    bool transient; /* a blend that is made afresh where its only reader, a convolution, needs it */
    bool from_norm; /* a layer whose output gradient is made from the blend that follows */
    int32_t blend;  /* ... that one */
} dn_unit;

/* One node's tensor in this pass. */
typedef struct dn_value {
    float *data; /* [batch][size], or NULL if never stored */
    float *made; /* of a coded tensor: what its unit wrote, see code_pass.c */
    float *peaks;   /* ... [batch] largest magnitude */
    double *slopes; /* ... [batch] gradient of its scale */
    bool coded;     /* the engine stores it in codes: always stored, never part of another unit */
    dn_channels *ranges;
    int32_t range_count;
    int32_t height, width, channels;
    size_t size;      /* active floats per image */
    size_t full_size; /* at full width */
    bool stored;      /* wanted by some program */
    int32_t root;     /* the tensor to read instead */
    bool live, needs;
    bool pinned;    /* input of a block that may be dropped: others may come to read it, so it is always stored */
    bool absorbed;  /* decided once, at full depth: part of the unit of its only reader */
    bool transient; /* likewise: see dn_unit */
    bool tapped;    /* its value is read and its gradient added to from outside: see dn_trainer_tap_add */
    bool acted;     /* its gradient is already the one before the activation */
    int32_t users, only_user, remaining;
    int32_t slot; /* of its gradient, or -1 */
    int32_t *index; /* shortcut: dense source channel or -1 per active channel */
} dn_value;

typedef enum dn_step_kind {
    DN_STEP_UNIT,     /* forward: make the tensor */
    DN_STEP_SUMS,     /* forward: partial sums of the batch norm `node` */
    DN_STEP_SEED,     /* backward from here: copy d_logits to `to` */
    DN_STEP_INJECT,   /* to += the gradients given for tapped nodes */
    DN_STEP_ACT,      /* gradient before the activation, and its sums: from -> to */
    DN_STEP_APPLY,    /* gradient before the batch norm: from -> to */
    DN_STEP_ADD,      /* to += from */
    DN_STEP_COPY,     /* to = from */
    DN_STEP_HOOK,     /* gradient hook on `from` */
    DN_STEP_CODE,     /* gradient through the codes of the tensor, in place: `from` */
    DN_STEP_LAYER,    /* weight gradient (unless heavy or linear) and input gradient: from -> to */
    DN_STEP_LINEAR,   /* input gradient of a linear layer */
    DN_STEP_WEIGHTS,  /* weight gradient of a heavy or linear layer, a phase of its own */
    DN_STEP_OP        /* gradient of input `input` of an op: from -> to */
} dn_step_kind;
enum { DN_SCRATCH = -2, DN_NOWHERE = -1 }; /* in place of a slot */
typedef struct dn_step {
    dn_step_kind kind;
    int32_t tensor, node, input;
    int32_t from, second, to;
    bool accumulate;
} dn_step;

typedef enum dn_phase_mode { DN_PHASE_IMAGES, DN_PHASE_BLOCKS, DN_PHASE_SPLITS, DN_PHASE_WEIGHTS } dn_phase_mode;
typedef struct dn_phase {
    int32_t first, last; /* steps first .. last - 1 */
    dn_phase_mode mode;
} dn_phase;

/* What the next image will read and write: convolutions, which are bound by arithmetic, fetch it into cache a few lines per tile. */
enum { DN_STREAMS = 10 };
typedef struct dn_ahead {
    struct {
        const char *at, *end;
    } streams[DN_STREAMS];
    int32_t count;
} dn_ahead;

typedef struct dn_scratch {
    dn_ahead ahead;
    float *padded;  /* a layer's input with its halo */
    float *gradient; /* a layer's output gradient with its halo */
    float *input;   /* a transient blend */
    float *back;    /* an input gradient on its way */
    float *v, *m;   /* positions of a block of tiles, see winograd_pass.c */
    float *sums;    /* the same of an item of a heavy weight gradient */
} dn_scratch;

struct dn_trainer {
    const dn_graph *graph;
    dn_kernels kernels;
    int32_t batch, threads, slots_stat;
    bool bf16;
    float stat_momentum;
    uint64_t seed;
    float *table; /* [channels][256] or NULL */
    dn_layer *layers;
    int32_t *layer_of; /* per node, or -1 */
    int32_t layer_count;
    dn_norm *norms;
    int32_t *norm_of;
    int32_t norm_count;
    float *running, *staged; /* [slots_stat][2][norm_channels] */
    bool *is_staged;
    int32_t affine_sets, affine, shown; /* sets of gamma and beta, that of the last pass, that of copies */
    int64_t steps;

    dn_value *values;
    dn_unit *units;
    dn_step *forward_steps, *backward_steps;
    dn_phase *forward_phases, *backward_phases;
    int32_t forward_step_count, backward_step_count, forward_phase_count, backward_phase_count, step_capacity, phase_capacity;
    int32_t *active;
    bool *skip;
    int32_t *alias;
    bool deciding, sizing; /* the program is being built to choose what is merged, to learn what memory it wants */
    const uint8_t *coded; /* [nodes], only while it is made */
    float *scales;        /* [nodes] of coded tensors, 0: not quantised */
    bool coding, learns_scales; /* this pass quantises; its backward pass makes slopes */
    float *ones, *zeros; /* as many as the widest tensor has channels, and 16 */

    float **slots;
    int32_t slot_count, slot_capacity, *slot_users;
    size_t slot_stride;
    float *splits; /* [DN_SPLITS][split_floats] */
    size_t split_floats;
    dn_scratch *scratch; /* per worker */

    /* The last pass. */
    size_t n;
    uint64_t step;
    bool ready;  /* a forward pass is waiting for its backward pass */
    bool broken; /* a backward pass was interrupted half-way: gradients are unusable until discarded */
    const void *x;
    dn_dtype dtype;
    const float *d_logits;
    int32_t tap_count, *taps; /* nodes */
    const float **injected;   /* per tap, or NULL */
    const dn_poll *poll;
    int64_t next_poll, poll_ns; /* the calling thread asks the poll at most this often; tests set 0 */
    atomic_bool cancelled;
    const dn_phase *phase;
    const dn_step *phase_steps;
    size_t phase_items, phase_images; /* runs of images; images side by side */

    void **owned;
    size_t owned_count, owned_capacity;
};

/* Memory that lives as long as the trainer. */
dn_status dn_trainer_own(dn_trainer *trainer, void **out, size_t count, size_t size, dn_error *err);
#define DN_OWN(trainer, pp, count, err) dn_trainer_own((trainer), (void **)(pp), (count), sizeof **(pp), (err))

/* layer_new.c */
dn_status dn_layer_new(dn_trainer *trainer, dn_layer *layer, int32_t node, const dn_params *params, bool frozen, dn_error *err);
size_t dn_layer_weight_index(const dn_layer *layer, int32_t output, int32_t tap, int32_t input); /* input within the group */
void dn_layer_get(const dn_layer *layer, const float *packed, float *natural);
void dn_layer_set(const dn_layer *layer, const float *natural, float *packed);
void dn_layer_refresh(const dn_trainer *trainer, dn_layer *layer, bool transposed); /* working and transposed weights after a change */

/* layer_bind.c: the lists of a pass; ranges and sizes of values are set. */
void dn_layer_bind(dn_trainer *trainer, dn_layer *layer, const dn_value *input, const dn_value *output);

/* conv_pass.c */
typedef struct dn_conv_pass {
    const float *input; /* where output pixel (0, 0) has its origin */
    ptrdiff_t in_row, in_step;
    float *output;
    ptrdiff_t out_row, out_step;
    int32_t rows, columns;
    const float *weights;
    size_t panel_stride;
    int32_t outputs;
    const dn_run *runs;
    const dn_row_taps *taps; /* taps_count + 1 entries; input row of output row y: y * row_step + offset, skipped outside 0 .. row_limit - 1 */
    const dn_row_taps *left, *right; /* the same without taps that the first, the last column does not reach; NULL: all reach the input */
    float left_share, right_share;   /* part of the taps that is left */
    int32_t taps_count, row_step, row_limit;
    dn_epilogue epilogue;
    dn_ahead *ahead; /* may be NULL */
} dn_conv_pass;
void dn_conv_pass_run(const dn_conv_f32 *kernels, const dn_conv_pass *pass);
void dn_fetch_ahead(dn_ahead *ahead); /* some lines of what comes next; may be NULL */

typedef struct dn_grad_pass {
    const float *x, *dy;
    ptrdiff_t x_row, x_step, dy_row, dy_step;
    int32_t rows, columns, channels, outputs;
    float *dw;
    size_t panel_stride;
} dn_grad_pass;
void dn_grad_pass_run(const dn_convgrad_f32 *kernels, const dn_grad_pass *pass);

/* Gradient of panels [panel, panel_end) of group `group` for channels [c, c_end) of one cut, from output rows [row, row_end) of one image. */
typedef struct dn_grad_part {
    int32_t group, panel, panel_end, row, row_end;
    const dn_cut *cut;
    int32_t c, c_end;
} dn_grad_part;
enum { DN_ITEM_PANELS = 4, DN_ITEM_CHANNELS = 48 }; /* of an item of a heavy or linear layer's weight gradient */

/* frame.c */
void dn_layer_run_hook(dn_hook *hook, const dn_layer *layer, const dn_value *value, size_t image, float *values);
const float *dn_layer_hook_input(dn_trainer *trainer, const dn_unit *unit, dn_layer *layer, size_t image); /* the input under the input hook, kept for the backward pass */
const float *dn_layer_padded(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch); /* the input with its halo, ready to be convolved */
const float *dn_layer_dense(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch);  /* the same without a halo, for the weight gradient */
typedef struct dn_framed {
    const float *framed, *inside; /* from the halo's corner, from the first pixel */
    ptrdiff_t row;
} dn_framed;
dn_framed dn_layer_framed(dn_trainer *trainer, const dn_unit *unit, const float *dense, size_t image, bool halo, dn_scratch *scratch);
/* `count` channels from `first` on of a dense input, with the halo. */
const float *dn_layer_padded_channels(const dn_layer *layer, const dn_value *x, const float *dense, int32_t first, int32_t count, float *image);

/* winograd_pass.c: panels of U hold [position][input of a group][16]. */
typedef struct dn_winograd_pass {
    const float *input; /* the first tile's top left pixel */
    ptrdiff_t in_row, in_step;
    int32_t channels; /* read: [pixel][channels], what the runs' offsets count in */
    float *output;
    ptrdiff_t out_row, out_step;
    int32_t rows, columns, outputs; /* rows and columns are even */
    const float *weights;
    size_t panel_stride, position_stride;
    const dn_run *runs; /* of one position */
    int32_t run_count;
    dn_epilogue epilogue; /* of the first output */
    float *v, *m; /* [16][tiles][channels], [16][tiles][outputs in whole panels] */
    dn_ahead *ahead;
} dn_winograd_pass;

/* Tiles first .. first + count - 1 of a map are tiles at .. at + count - 1 of `all` that are multiplied together. */
typedef struct dn_winograd_block {
    int32_t first, count, at, all;
} dn_winograd_block;
void dn_winograd_load(const dn_kernels *kernels, const dn_winograd_pass *pass, const dn_winograd_block *block);
const float *dn_winograd_multiply(const dn_kernels *kernels, const dn_winograd_pass *pass, int32_t tiles); /* returns the products of all tiles */
void dn_winograd_store(const dn_kernels *kernels, const dn_winograd_pass *pass, const dn_winograd_block *block, const float *m);
void dn_winograd_pass_run(const dn_kernels *kernels, const dn_winograd_pass *pass, int32_t tiles); /* all three, for one map, `tiles` at a time */

typedef struct dn_winograd_grad {
    const float *x, *dy; /* x: the first tile's top left pixel */
    ptrdiff_t x_row, x_step, dy_row, dy_step;
    int32_t rows, columns, channels, outputs; /* rows, columns: of dy */
    float *sums;
    size_t panel_stride, position_stride;
    float *v, *m;
} dn_winograd_grad;
void dn_winograd_grad_load(const dn_kernels *kernels, const dn_winograd_grad *grad, const dn_winograd_block *block);
void dn_winograd_grad_add(const dn_kernels *kernels, const dn_winograd_grad *grad, int32_t tiles);
void dn_winograd_grad_run(const dn_kernels *kernels, const dn_winograd_grad *grad, int32_t tiles);

bool dn_winograd_fits(const dn_node *node, const dn_node *input);

/* winograd_layer.c: what layer_pass.c does, for layers of which dn_winograd_pays is true. */
dn_status dn_winograd_new(dn_trainer *trainer, dn_layer *layer, dn_error *err);
dn_status dn_winograd_scratch(dn_trainer *trainer, dn_error *err);
bool dn_winograd_pays(const dn_layer *layer); /* in this pass */
void dn_winograd_refresh(const dn_trainer *trainer, dn_layer *layer);
void dn_winograd_bind(dn_layer *layer);
void dn_winograd_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, size_t count, dn_scratch *scratch); /* count: 1, or up to wino_images */
void dn_winograd_input_gradient(dn_trainer *trainer, const dn_unit *unit, const float *framed, float *dx, dn_scratch *scratch);
void dn_winograd_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t count, dn_scratch *scratch); /* of a heavy layer: its input gradient */
void dn_winograd_weights(const dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const float *padded, const float *dy, ptrdiff_t dy_row, float *sums, dn_scratch *scratch);
void dn_winograd_heavy(dn_trainer *trainer, const dn_layer *layer, const dn_value *x, const dn_step *step, const dn_grad_part *part, int worker);
void dn_winograd_finish_splits(const dn_trainer *trainer, const dn_layer *layer);

/* layer_pass.c: one image of a convolution, or a block of images of a linear layer. */
dn_epilogue dn_layer_epilogue(const dn_trainer *trainer, const dn_unit *unit, int32_t group);
void dn_layer_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, dn_scratch *scratch);
void dn_layer_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t split, dn_scratch *scratch);
void dn_layer_backward_together(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image, size_t count, dn_scratch *scratch);
void dn_layer_finish_bias(dn_trainer *trainer, dn_layer *layer);
void dn_linear_finish_bias(dn_trainer *trainer, dn_layer *layer, int32_t slot);
void dn_layer_finish_splits(dn_trainer *trainer, dn_layer *layer);
void dn_linear_forward(dn_trainer *trainer, const dn_unit *unit, size_t first, size_t count);
void dn_linear_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t first, size_t count);
size_t dn_weights_items(const dn_trainer *trainer, const dn_layer *layer);
void dn_weights_item(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t item, int worker);

/* blend_pass.c */
void dn_blend_forward(dn_trainer *trainer, const dn_unit *unit, size_t image, float *out, size_t rows, ptrdiff_t out_row);
void dn_blend_actgrad(dn_trainer *trainer, const dn_step *step, size_t image, dn_scratch *scratch);
void dn_blend_normgrad(dn_trainer *trainer, const dn_unit *unit, const float *g, size_t image, float *out, size_t rows, ptrdiff_t out_row);
void dn_norm_finish_forward(dn_trainer *trainer, dn_norm *norm, const dn_value *z);
void dn_norm_finish_backward(dn_trainer *trainer, dn_norm *norm, const dn_value *z);
void dn_norm_stage(dn_trainer *trainer, const dn_norm *norm, const dn_value *z, int32_t slot);

/* round.c: nothing unless the trainer works in bfloat16. */
void dn_round_rows(const dn_trainer *trainer, float *x, size_t rows, ptrdiff_t row, size_t count);
void dn_round_value(const dn_trainer *trainer, int32_t tensor, size_t image);
void dn_round_gradient(const dn_trainer *trainer, const dn_step *step, size_t image, dn_scratch *scratch);

/* code_pass.c */
void dn_code_begin(dn_trainer *trainer, const dn_subnet *subnet);
void dn_code_forward(const dn_trainer *trainer, const dn_value *value, size_t image);
void dn_code_backward(const dn_trainer *trainer, const dn_value *value, size_t image, float *gradient);
void dn_layer_encode(const dn_layer *layer, float *working);

/* op_pass.c */
void dn_op_forward(dn_trainer *trainer, const dn_unit *unit, size_t image);
void dn_op_backward(dn_trainer *trainer, const dn_unit *unit, const dn_step *step, size_t image);

/* program.c, program_back.c */
dn_status dn_program_build(dn_trainer *trainer, const dn_subnet *subnet, dn_error *err);
dn_status dn_program_build_backward(dn_trainer *trainer, dn_error *err);

/* tap.c */
dn_status dn_trainer_new_taps(dn_trainer *trainer, const int32_t *taps, int32_t count, dn_error *err);
void dn_trainer_forget_taps(dn_trainer *trainer);
void dn_inject(const dn_trainer *trainer, const dn_step *step, size_t image);

/* run.c */
dn_status dn_trainer_run_phases(dn_trainer *trainer, const dn_phase *phases, int32_t count, const dn_step *steps);

/* Outputs of a group that this pass computes. */
static inline int32_t dn_active_outputs(const dn_layer *layer, int32_t group) {
    int32_t left = layer->out_active - group * layer->group_out;
    return left < 0 ? 0 : left < layer->group_out ? left : layer->group_out;
}

/* Gradient of one image in a slot. */
static inline float *dn_slot(const dn_trainer *trainer, int32_t slot, size_t image) { return trainer->slots[slot] + image * trainer->slot_stride; }
static inline float *dn_image(const dn_value *value, size_t image) { return value->data + image * value->size; }
/* Where the tensor's own unit writes. */
static inline float *dn_made(const dn_value *value, size_t image) { return (value->made ? value->made : value->data) + image * value->size; }
/* True when the pass should stop; the calling thread (worker 0) asks the poll now and then. */
bool dn_trainer_stop(dn_trainer *trainer, int worker);

#endif
