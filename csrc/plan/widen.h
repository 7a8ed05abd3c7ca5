/* widen.h - widened weights and activations of a bf16 convolution; see widen.c. */
#ifndef DN_PLAN_WIDEN_H
#define DN_PLAN_WIDEN_H

#include "plan/plan.h"

typedef struct dn_widened {
    const dn_run_context *run;
    const dn_step *step;
    float *weights, *rows;
    int32_t begin, end;  /* rows of the input that stand in `rows` */
    const uint8_t *from; /* what stands in `weights` */
} dn_widened;

/* Sets the step's wide_* for the tiles it has; returns the bytes of scratch, of which `used` are taken already. */
size_t dn_widen_plan(const dn_plan *plan, dn_step *step, size_t used);
void dn_widen_begin(dn_widened *s, const dn_run_context *run, const dn_step *step, uint8_t *scratch);
/* The weights of the list's entries in a block of panels, unless they stand there already. */
void dn_widen_weights(dn_widened *s, const uint8_t *weights, int32_t panels, const dn_run *list, size_t count);
/* The input of output rows [begin, end); returns the end of those there is room for. */
int32_t dn_widen_rows(dn_widened *s, int32_t begin, int32_t end, int32_t kh_begin, int32_t kh_end);
/* The element of the map, counted from pixel (0, 0), that stands first in `rows`. */
ptrdiff_t dn_widen_origin(const dn_widened *s);

#endif
