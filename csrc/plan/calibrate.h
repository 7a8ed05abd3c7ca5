/* calibrate.h - what the two halves of calibration share: the walk over steps and the real values of one step. */
#ifndef DN_PLAN_CALIBRATE_H
#define DN_PLAN_CALIBRATE_H

#include "plan/plan.h"

enum { DN_BINS = 4096 };

typedef struct dn_calibration {
    dn_binding binding;
    dn_tables *tables;
    dn_run_context run; /* image 0 */
    size_t images, image_bytes, lane_bytes;
    uint8_t *arenas;    /* [images] */
    uint8_t *scratch;   /* [threads] */
    float *real;        /* [images][real_stride]: h x w x lanes of the current step */
    size_t real_stride;
    double *sums;       /* [images][lanes] */
    int64_t *bins;      /* [threads][groups][DN_BINS] */
    float *peaks;       /* [images][groups] */
    int32_t *channel;   /* [lanes] full channel, -1: padding */
    float *observed;    /* [2][norm_channels] measured mean and variance while others are kept */
    int32_t threads;
    const dn_calibration_options *options;
    const dn_poll *poll;
    /* the current step */
    int32_t number;
    dn_step *step;
    const dn_plan_op *op;
    const double *centre; /* mean per lane while variances are summed */
} dn_calibration;

/* The context of one image. */
dn_run_context dn_calibration_context(const dn_calibration *c, size_t image, int worker);
/* Real output of the current step before batch norm, sum and activation, into c->real. */
void dn_real_raw(const dn_calibration *c, size_t image, int worker);
/* Adds batch norm, sum and activation to c->real. */
void dn_real_finish(const dn_calibration *c, size_t image);

#endif
