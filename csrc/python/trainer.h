/* trainer.h - dynadnn._core.Trainer as its files see it: train_type.c and trainer_codes.c. */
#ifndef DN_PYTHON_TRAINER_H
#define DN_PYTHON_TRAINER_H

#include "python/common.h"

typedef struct trainer_object {
    PyObject_HEAD
    dn_trainer *trainer;
    PyObject *graph_object;
    const dn_graph *graph;
    size_t image, outputs; /* numbers per image */
    Py_ssize_t pending;    /* images of the pass that waits for its backward pass */
    Py_ssize_t images;     /* of the last pass */
    int stat_slots, taps, affine_sets, affine; /* affine: whose gamma and beta copies are about */
    int busy; /* a call is running without the GIL */
} trainer_object;

/* A trainer does one thing at a time; the flag is only touched under the GIL. */
static inline int dn_py_trainer_enter(trainer_object *self) {
    if (!self->busy) return self->busy = 1, 0;
    PyErr_SetString(PyExc_RuntimeError, "the trainer is in use by another thread");
    return -1;
}

static inline float *dn_py_floats(PyObject *array) { return array == Py_None ? NULL : PyArray_DATA((PyArrayObject *)array); }

/* A node's number, and what it has. */
int dn_py_node_sizes(trainer_object *self, PyObject *number, int32_t *node, dn_tensor_info *info);

/* trainer_codes.c: methods */
PyObject *dn_py_trainer_set_code_scale(PyObject *object, PyObject *const *args, Py_ssize_t count);
PyObject *dn_py_trainer_set_scales(PyObject *object, PyObject *scales);
PyObject *dn_py_trainer_peaks(PyObject *object, PyObject *unused);
PyObject *dn_py_trainer_slopes(PyObject *object, PyObject *unused);
PyObject *dn_py_trainer_batch_stats(PyObject *object, PyObject *unused);
PyObject *dn_py_trainer_tensor(PyObject *object, PyObject *number);

#endif
