/* trainer_codes.c - quantisation-aware training: methods of dynadnn._core.Trainer about scales and codes. */
#include "python/trainer.h"

#include <string.h>

int dn_py_node_sizes(trainer_object *self, PyObject *number, int32_t *node, dn_tensor_info *info) {
    long i = PyLong_AsLong(number);
    if (i == -1 && PyErr_Occurred()) return -1;
    if (i < 0 || i >= dn_graph_nodes(self->graph)) {
        PyErr_Format(PyExc_ValueError, "node %ld: there are %d", i, (int)dn_graph_nodes(self->graph));
        return -1;
    }
    *node = (int32_t)i;
    dn_graph_tensor(self->graph, *node, info);
    return 0;
}

PyObject *dn_py_trainer_set_code_scale(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    dn_tensor_info info;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "set_code_scale takes a node, scales and the largest code, %zd arguments given", count);
    if (dn_py_node_sizes(self, args[0], &node, &info) < 0) return NULL;
    PyArrayObject *scale = dn_py_array(args[1], NPY_FLOAT32, 1, "scale");
    if (!scale) return NULL;
    if (PyArray_SIZE(scale) != info.channels) return PyErr_Format(PyExc_ValueError, "scale of node %d has %zd entries, not %d", (int)node, (Py_ssize_t)PyArray_SIZE(scale), (int)info.channels);
    long largest = PyLong_AsLong(args[2]);
    if ((largest == -1 && PyErr_Occurred()) || dn_py_trainer_enter(self) < 0) return NULL;
    dn_error err = {0};
    dn_status status = dn_trainer_set_code_scale(self->trainer, node, PyArray_DATA(scale), largest < 0 || largest > 127 ? 0 : (int32_t)largest, &err);
    self->busy = 0;
    self->pending = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    Py_RETURN_NONE;
}

PyObject *dn_py_trainer_set_scales(PyObject *object, PyObject *scales) {
    trainer_object *self = (trainer_object *)object;
    PyArrayObject *scale = dn_py_array(scales, NPY_FLOAT32, 1, "scale");
    if (!scale) return NULL;
    if (PyArray_SIZE(scale) != dn_graph_nodes(self->graph)) return PyErr_Format(PyExc_ValueError, "scale must have %d entries", (int)dn_graph_nodes(self->graph));
    if (dn_py_trainer_enter(self) < 0) return NULL;
    dn_error err = {0};
    dn_status status = dn_trainer_set_scales(self->trainer, PyArray_DATA(scale), &err);
    self->busy = 0;
    self->pending = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    Py_RETURN_NONE;
}

PyObject *dn_py_trainer_peaks(PyObject *object, PyObject *unused) {
    trainer_object *self = (trainer_object *)object;
    npy_intp nodes = dn_graph_nodes(self->graph);
    (void)unused;
    PyObject *peaks = PyArray_ZEROS(1, &nodes, NPY_FLOAT32, 0);
    if (peaks && dn_py_trainer_enter(self) == 0) {
        dn_trainer_get_peaks(self->trainer, dn_py_floats(peaks));
        self->busy = 0;
        return peaks;
    }
    Py_XDECREF(peaks);
    return NULL;
}

PyObject *dn_py_trainer_slopes(PyObject *object, PyObject *unused) {
    trainer_object *self = (trainer_object *)object;
    npy_intp nodes = dn_graph_nodes(self->graph);
    (void)unused;
    PyObject *slopes = PyArray_ZEROS(1, &nodes, NPY_FLOAT64, 0);
    if (slopes && dn_py_trainer_enter(self) == 0) {
        dn_trainer_get_slopes(self->trainer, PyArray_DATA((PyArrayObject *)slopes));
        self->busy = 0;
        return slopes;
    }
    Py_XDECREF(slopes);
    return NULL;
}

PyObject *dn_py_trainer_batch_stats(PyObject *object, PyObject *unused) {
    trainer_object *self = (trainer_object *)object;
    npy_intp channels = dn_graph_norm_channels(self->graph);
    (void)unused;
    PyObject *mean = PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0), *variance = PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0);
    if (mean && variance && dn_py_trainer_enter(self) == 0) {
        dn_trainer_get_batch_stats(self->trainer, dn_py_floats(mean), dn_py_floats(variance));
        self->busy = 0;
        return Py_BuildValue("(NN)", mean, variance);
    }
    Py_XDECREF(mean);
    Py_XDECREF(variance);
    return NULL;
}

PyObject *dn_py_trainer_tensor(PyObject *object, PyObject *number) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    dn_tensor_info info;
    if (dn_py_node_sizes(self, number, &node, &info) < 0 || dn_py_trainer_enter(self) < 0) return NULL;
    size_t floats = 0;
    const float *values = dn_trainer_tensor(self->trainer, node, &floats);
    PyObject *out = NULL;
    if (values) {
        npy_intp shape[2] = {self->images, (npy_intp)floats};
        out = PyArray_SimpleNew(2, shape, NPY_FLOAT32);
        if (out) memcpy(dn_py_floats(out), values, (size_t)self->images * floats * sizeof(float));
    }
    self->busy = 0;
    if (values) return out;
    Py_RETURN_NONE;
}
