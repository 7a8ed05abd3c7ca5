/* train_type.c - dynadnn._core.Trainer: forward, backward and update of one network. */
#include "python/common.h"

#include <string.h>

#include "python/train_functions.h"
#include "python/trainer.h"

/* ---- construction ---- */

static float *sized(PyObject *object, npy_intp size, const char *what, int32_t node, int *bad) {
    char name[64];
    if (object == Py_None) return NULL;
    (void)PyOS_snprintf(name, sizeof name, "%s of node %d", what, (int)node);
    PyArrayObject *array = dn_py_array(object, NPY_FLOAT32, -1, name);
    if (array && PyArray_SIZE(array) == size) return PyArray_DATA(array);
    if (array) PyErr_Format(PyExc_ValueError, "%s has %zd elements, not %zd", name, (Py_ssize_t)PyArray_SIZE(array), (Py_ssize_t)size);
    *bad = 1;
    return NULL;
}

static dn_params *read_params(const dn_graph *graph, PyObject *items) {
    const int32_t nodes = dn_graph_nodes(graph);
    if (PyTuple_GET_SIZE(items) != nodes) {
        PyErr_Format(PyExc_ValueError, "params has %zd entries for %d nodes", PyTuple_GET_SIZE(items), (int)nodes);
        return NULL;
    }
    dn_params *params = PyMem_Calloc((size_t)nodes, sizeof *params);
    if (!params) return (dn_params *)PyErr_NoMemory();
    int bad = 0;
    for (int32_t i = 0; i < nodes && !bad; i++) {
        PyObject *item = PyTuple_GET_ITEM(items, i);
        dn_tensor_info info;
        dn_graph_tensor(graph, i, &info);
        if (item == Py_None) continue;
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != 2) {
            PyErr_Format(PyExc_TypeError, "params[%d] must be None or (weight, bias)", (int)i);
            bad = 1;
            break;
        }
        params[i].weight = sized(PyTuple_GET_ITEM(item, 0), info.weights, "weight", i, &bad);
        if (!bad) params[i].bias = sized(PyTuple_GET_ITEM(item, 1), info.biases, "bias", i, &bad);
    }
    if (!bad) return params;
    PyMem_Free(params);
    return NULL;
}

static int make_trainer(trainer_object *self, PyObject *params, PyObject *frozen, PyObject *table, PyObject *coded, dn_trainer_options *options) {
    module_state *state = dn_py_state((PyObject *)self);
    const dn_graph *graph = self->graph;
    dn_tensor_info input;
    dn_graph_tensor(graph, 0, &input);
    int ok;
    PyArrayObject *still = dn_py_array_or_none(frozen, NPY_UINT8, 1, "frozen", &ok);
    if (!ok) return -1;
    PyArrayObject *bytes = dn_py_array_or_none(table, NPY_FLOAT32, 2, "input_table", &ok);
    if (!ok) return -1;
    PyArrayObject *codes = dn_py_array_or_none(coded, NPY_UINT8, 1, "coded", &ok);
    if (!ok) return -1;
    if (codes && PyArray_SIZE(codes) != dn_graph_nodes(graph)) return PyErr_Format(PyExc_ValueError, "coded must have %d entries", (int)dn_graph_nodes(graph)), -1;
    options->coded = codes ? PyArray_DATA(codes) : NULL;
    if ((still && PyArray_SIZE(still) != dn_graph_nodes(graph)) || (bytes && (PyArray_DIM(bytes, 0) != input.channels || PyArray_DIM(bytes, 1) != 256))) {
        PyErr_Format(PyExc_ValueError, "frozen must have %d entries and input_table must be %d x 256", (int)dn_graph_nodes(graph), (int)input.channels);
        return -1;
    }
    PyObject *items = PySequence_Tuple(params);
    dn_params *list = items ? read_params(graph, items) : NULL;
    dn_error err = {0};
    if (list) {
        dn_status status;
        Py_BEGIN_ALLOW_THREADS
        status = dn_trainer_new(&self->trainer, graph, list, still ? PyArray_DATA(still) : NULL, bytes ? PyArray_DATA(bytes) : NULL, options, &err);
        Py_END_ALLOW_THREADS
        if (status != DN_OK) dn_py_raise(state, status, &err);
    }
    PyMem_Free(list);
    Py_XDECREF(items);
    return self->trainer ? 0 : -1;
}

static PyObject *trainer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"graph", "params", "batch", "threads", "isa", "stat_slots", "stat_momentum", "seed", "frozen", "input_table", "bf16", "taps", "coded", "learns_scales", "private_affine", NULL};
    PyObject *graph, *params, *isa = NULL, *frozen = NULL, *table = NULL, *taps = NULL, *coded = NULL;
    int ok;
    unsigned long long seed = 0;
    int bf16 = 0, private_affine = 0;
    dn_trainer_options options = {.batch = 128, .threads = 1, .stat_slots = 1, .stat_momentum = 0.1f};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$iiOifKOOpOOpp:Trainer", names, &graph, &params, &options.batch, &options.threads, &isa, &options.stat_slots, &options.stat_momentum,
                                     &seed, &frozen, &table, &bf16, &taps, &coded, &options.learns_scales, &private_affine))
        return NULL;
    options.seed = seed;
    options.bf16 = bf16;
    options.private_affine = private_affine;
    PyArrayObject *nodes = dn_py_array_or_none(taps, NPY_INT32, 1, "taps", &ok);
    if (!ok || dn_py_isa(isa, &options.isa) < 0) return NULL;
    options.taps = nodes ? PyArray_DATA(nodes) : NULL;
    options.tap_count = nodes ? (int32_t)PyArray_SIZE(nodes) : 0;
    trainer_object *self = (trainer_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->graph_object = Py_NewRef(graph);
    self->graph = dn_py_graph(graph, dn_py_state((PyObject *)self));
    self->stat_slots = options.stat_slots;
    self->taps = options.tap_count;
    self->affine_sets = private_affine && options.stat_slots > 1 ? options.stat_slots : 1;
    if (self->graph && make_trainer(self, params, frozen, table, coded, &options) == 0) {
        dn_tensor_info info;
        dn_graph_tensor(self->graph, 0, &info);
        self->image = (size_t)info.height * (size_t)info.width * (size_t)info.channels;
        self->outputs = dn_trainer_outputs(self->trainer);
        return (PyObject *)self;
    }
    Py_DECREF(self);
    return NULL;
}

static void trainer_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    trainer_object *self = (trainer_object *)object;
    dn_trainer_free(self->trainer);
    Py_XDECREF(self->graph_object);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- a step ---- */

static PyObject *trainer_forward(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"x", "active", "slot", "step", "depth", "bits", NULL};
    trainer_object *self = (trainer_object *)object;
    module_state *state = dn_py_state(object);
    PyObject *images, *active, *depth = NULL, *bits = NULL;
    int slot = -1;
    unsigned long long step = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|iKOO:forward", names, &images, &active, &slot, &step, &depth, &bits)) return NULL;
    if (!PyArray_Check(images)) return PyErr_Format(PyExc_TypeError, "x must be a NumPy array, not %.80s", Py_TYPE(images)->tp_name);
    dn_dtype dtype;
    if (dn_py_image_dtype((PyArrayObject *)images, "x", &dtype) < 0) return NULL;
    PyArrayObject *x = dn_py_array(images, dtype == DN_U8 ? NPY_UINT8 : NPY_FLOAT32, -1, "x");
    if (!x) return NULL;
    Py_ssize_t n = PyArray_NDIM(x) ? (Py_ssize_t)PyArray_DIM(x, 0) : 0;
    if (n < 1 || (size_t)PyArray_SIZE(x) != (size_t)n * self->image)
        return PyErr_Format(PyExc_ValueError, "x must have %zu numbers per image and at least one image, not %zd in %zd", self->image, (Py_ssize_t)PyArray_SIZE(x), n);
    dn_subnet subnet;
    if (dn_py_subnet(self->graph, active, bits, depth, &subnet) < 0 || dn_py_trainer_enter(self) < 0) return NULL;
    npy_intp shape[2] = {n, (npy_intp)self->outputs};
    PyObject *logits = PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    dn_error err = {0};
    dn_status status = DN_ENOMEM;
    if (logits) {
        Py_BEGIN_ALLOW_THREADS
        status = dn_trainer_forward(self->trainer, &subnet, PyArray_DATA(x), dtype, (size_t)n, slot, step, PyArray_DATA((PyArrayObject *)logits), &dn_py_poll, &err);
        Py_END_ALLOW_THREADS
    }
    self->busy = 0;
    self->pending = status == DN_OK ? n : 0;
    if (status == DN_OK) self->images = n;
    if (status == DN_OK) return logits;
    Py_XDECREF(logits);
    return dn_py_raise(state, status, &err);
}

/* Hands the trainer the gradient of one tap. */
static int add_tap(trainer_object *self, PyObject *item, int tap) {
    if (item == Py_None) return 0;
    int32_t shape[3];
    dn_error err = {0};
    PyArrayObject *array = dn_py_array(item, NPY_FLOAT32, 4, "a gradient of taps");
    if (!array) return -1;
    dn_trainer_tap_shape(self->trainer, tap, shape);
    npy_intp wanted[4] = {self->pending, shape[0], shape[1], shape[2]};
    if (!PyArray_CompareLists(PyArray_DIMS(array), wanted, 4)) {
        PyErr_Format(PyExc_ValueError, "the gradient of tap %d must be (%zd, %d, %d, %d)", tap, self->pending, (int)shape[0], (int)shape[1], (int)shape[2]);
        return -1;
    }
    if (dn_trainer_tap_add(self->trainer, tap, PyArray_DATA(array), &err) == DN_OK) return 0;
    dn_py_raise(dn_py_state((PyObject *)self), DN_EINVAL, &err);
    return -1;
}

/* taps is a tuple, whose arrays live as long as it does. */
static int add_taps(trainer_object *self, PyObject *taps) {
    if (!taps) return 0;
    if (!PyTuple_Check(taps) || PyTuple_GET_SIZE(taps) != self->taps) {
        PyErr_Format(PyExc_ValueError, "taps must be a tuple of %d arrays or None", self->taps);
        return -1;
    }
    for (int k = 0; k < self->taps; k++)
        if (add_tap(self, PyTuple_GET_ITEM(taps, k), k) < 0) return -1;
    return 0;
}

static PyObject *trainer_backward(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"d_logits", "taps", NULL};
    trainer_object *self = (trainer_object *)object;
    PyObject *gradient, *taps = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O:backward", names, &gradient, &taps)) return NULL;
    PyArrayObject *d = dn_py_array(gradient, NPY_FLOAT32, 2, "d_logits");
    if (!d) return NULL;
    if (taps == Py_None) taps = NULL;
    if (self->pending && (PyArray_DIM(d, 0) != self->pending || PyArray_DIM(d, 1) != (npy_intp)self->outputs))
        return PyErr_Format(PyExc_ValueError, "d_logits must be (%zd, %zu), not (%zd, %zd)", self->pending, self->outputs, (Py_ssize_t)PyArray_DIM(d, 0), (Py_ssize_t)PyArray_DIM(d, 1));
    if (dn_py_trainer_enter(self) < 0) return NULL;
    if (add_taps(self, taps) < 0) return self->busy = 0, NULL;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_trainer_backward(self->trainer, PyArray_DATA(d), &dn_py_poll, &err);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    self->pending = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    Py_RETURN_NONE;
}

static PyObject *trainer_tap(PyObject *object, PyObject *number) {
    trainer_object *self = (trainer_object *)object;
    long tap = PyLong_AsLong(number);
    if (tap == -1 && PyErr_Occurred()) return NULL;
    if (tap < 0 || tap >= self->taps) return PyErr_Format(PyExc_ValueError, "tap %ld: there are %d", tap, self->taps);
    if (dn_py_trainer_enter(self) < 0) return NULL;
    int32_t shape[3];
    dn_trainer_tap_shape(self->trainer, (int32_t)tap, shape);
    npy_intp wanted[4] = {self->pending, shape[0], shape[1], shape[2]};
    PyObject *out = PyArray_SimpleNew(4, wanted, NPY_FLOAT32);
    dn_error err = {0};
    dn_status status = out ? dn_trainer_tap_read(self->trainer, (int32_t)tap, dn_py_floats(out), &err) : DN_ENOMEM;
    self->busy = 0;
    if (status == DN_OK) return out;
    if (!out) return NULL;
    Py_DECREF(out);
    return dn_py_raise(dn_py_state(object), status, &err);
}

static PyObject *trainer_commit(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"optimizer", "lr", "momentum", "weight_decay", "nesterov", "beta1", "beta2", "epsilon", "clip_norm", NULL};
    trainer_object *self = (trainer_object *)object;
    const char *optimizer;
    dn_update u = {.beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "s|$fffpffff:commit", names, &optimizer, &u.lr, &u.momentum, &u.weight_decay, &u.nesterov, &u.beta1, &u.beta2, &u.epsilon, &u.clip_norm))
        return NULL;
    if (strcmp(optimizer, "sgd") != 0 && strcmp(optimizer, "adamw") != 0) return PyErr_Format(PyExc_ValueError, "optimizer must be 'sgd' or 'adamw', not '%.40s'", optimizer);
    u.optimizer = optimizer[0] == 's' ? DN_SGD : DN_ADAMW;
    if (dn_py_trainer_enter(self) < 0) return NULL;
    double norm = 0;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_trainer_commit(self->trainer, &u, &norm, &err);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    self->pending = 0;
    return PyFloat_FromDouble(norm);
}

static PyObject *trainer_discard(PyObject *object, PyObject *unused) {
    trainer_object *self = (trainer_object *)object;
    (void)unused;
    if (dn_py_trainer_enter(self) < 0) return NULL;
    dn_trainer_discard(self->trainer);
    self->busy = 0;
    self->pending = 0;
    Py_RETURN_NONE;
}

static PyObject *trainer_diagnose(PyObject *object, PyObject *unused) {
    trainer_object *self = (trainer_object *)object;
    (void)unused;
    if (dn_py_trainer_enter(self) < 0) return NULL;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_trainer_diagnose(self->trainer, &err);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (status == DN_OK) Py_RETURN_NONE;
    return PyUnicode_FromString(err.message);
}

/* ---- state ---- */

static PyObject *new_floats(npy_intp count) { return count ? PyArray_ZEROS(1, &count, NPY_FLOAT32, 0) : Py_NewRef(Py_None); }

static PyObject *get_pair(PyObject *object, PyObject *number, void (*get)(const dn_trainer *, int32_t, float *, float *)) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    dn_tensor_info info;
    if (dn_py_node_sizes(self, number, &node, &info) < 0) return NULL;
    PyObject *weight = new_floats(info.weights), *bias = new_floats(info.biases);
    if (weight && bias && dn_py_trainer_enter(self) == 0) {
        get(self->trainer, node, dn_py_floats(weight), dn_py_floats(bias));
        self->busy = 0;
        return Py_BuildValue("(NN)", weight, bias);
    }
    Py_XDECREF(weight);
    Py_XDECREF(bias);
    return NULL;
}

static PyObject *trainer_get_params(PyObject *object, PyObject *node) { return get_pair(object, node, dn_trainer_get_params); }
static PyObject *trainer_get_grads(PyObject *object, PyObject *node) { return get_pair(object, node, dn_trainer_get_grads); }

static PyObject *trainer_get_moments(PyObject *object, PyObject *number) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    dn_tensor_info info;
    if (dn_py_node_sizes(self, number, &node, &info) < 0) return NULL;
    PyObject *w1 = new_floats(info.weights), *w2 = new_floats(info.weights), *b1 = new_floats(info.biases), *b2 = new_floats(info.biases);
    if (w1 && w2 && b1 && b2 && dn_py_trainer_enter(self) == 0) {
        dn_trainer_get_moments(self->trainer, node, dn_py_floats(w1), dn_py_floats(w2), dn_py_floats(b1), dn_py_floats(b2));
        self->busy = 0;
        return Py_BuildValue("(NNNN)", w1, w2, b1, b2);
    }
    Py_XDECREF(w1);
    Py_XDECREF(w2);
    Py_XDECREF(b1);
    Py_XDECREF(b2);
    return NULL;
}

/* args[0] is the node, the other `count` arrays are weights in the first half, biases in the second. */
static int read_arrays(trainer_object *self, PyObject *const *args, Py_ssize_t given, int count, int32_t *node, float **out) {
    dn_tensor_info info;
    if (given != count + 1) {
        PyErr_Format(PyExc_TypeError, "a node and %d arrays are needed, %zd arguments given", count, given);
        return -1;
    }
    if (dn_py_node_sizes(self, args[0], node, &info) < 0) return -1;
    int bad = 0;
    for (int i = 0; i < count && !bad; i++) out[i] = sized(args[i + 1], i < count / 2 ? info.weights : info.biases, i < count / 2 ? "weight" : "bias", *node, &bad);
    return bad ? -1 : dn_py_trainer_enter(self);
}

static PyObject *trainer_set_params(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    float *arrays[2];
    if (read_arrays(self, args, count, 2, &node, arrays) < 0) return NULL;
    dn_trainer_set_params(self->trainer, node, arrays[0], arrays[1]);
    self->busy = 0;
    self->pending = 0;
    Py_RETURN_NONE;
}

static PyObject *trainer_set_moments(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    trainer_object *self = (trainer_object *)object;
    int32_t node;
    float *arrays[4];
    if (read_arrays(self, args, count, 4, &node, arrays) < 0) return NULL;
    dn_trainer_set_moments(self->trainer, node, arrays[0], arrays[1], arrays[2], arrays[3]);
    self->busy = 0;
    Py_RETURN_NONE;
}

static int read_slot(trainer_object *self, PyObject *number, int32_t *slot) {
    long i = PyLong_AsLong(number);
    if (i == -1 && PyErr_Occurred()) return -1;
    if (i >= 0 && i < self->stat_slots) return *slot = (int32_t)i, 0;
    PyErr_Format(PyExc_ValueError, "statistics slot %ld: there are %d", i, self->stat_slots);
    return -1;
}

static PyObject *trainer_get_stats(PyObject *object, PyObject *number) {
    trainer_object *self = (trainer_object *)object;
    int32_t slot;
    npy_intp channels = dn_graph_norm_channels(self->graph);
    if (read_slot(self, number, &slot) < 0) return NULL;
    PyObject *mean = PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0), *variance = PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0);
    if (mean && variance && dn_py_trainer_enter(self) == 0) {
        dn_trainer_get_stats(self->trainer, slot, dn_py_floats(mean), dn_py_floats(variance));
        self->busy = 0;
        return Py_BuildValue("(NN)", mean, variance);
    }
    Py_XDECREF(mean);
    Py_XDECREF(variance);
    return NULL;
}

static PyObject *trainer_set_stats(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    trainer_object *self = (trainer_object *)object;
    int32_t slot;
    if (count != 3) return PyErr_Format(PyExc_TypeError, "set_stats takes a slot, mean and variance, %zd arguments given", count);
    if (read_slot(self, args[0], &slot) < 0) return NULL;
    PyArrayObject *mean = dn_py_array(args[1], NPY_FLOAT32, 1, "mean"), *variance = mean ? dn_py_array(args[2], NPY_FLOAT32, 1, "variance") : NULL;
    if (!mean || !variance) return NULL;
    if (PyArray_SIZE(mean) != dn_graph_norm_channels(self->graph) || PyArray_SIZE(variance) != dn_graph_norm_channels(self->graph))
        return PyErr_Format(PyExc_ValueError, "mean and variance must have %d entries", (int)dn_graph_norm_channels(self->graph));
    if (dn_py_trainer_enter(self) < 0) return NULL;
    dn_trainer_set_stats(self->trainer, slot, PyArray_DATA(mean), PyArray_DATA(variance));
    self->busy = 0;
    Py_RETURN_NONE;
}

static PyObject *get_steps(PyObject *object, void *unused) { return (void)unused, PyLong_FromLongLong(dn_trainer_steps(((trainer_object *)object)->trainer)); }

static int set_steps(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    long long steps = value ? PyLong_AsLongLong(value) : -1;
    if (steps == -1 && PyErr_Occurred()) return -1;
    if (steps < 0) {
        PyErr_SetString(PyExc_ValueError, "steps must not be negative");
        return -1;
    }
    dn_trainer_set_steps(((trainer_object *)object)->trainer, steps);
    return 0;
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS
#define FAST(f) (PyCFunction)(void (*)(void))(f), METH_FASTCALL
static PyMethodDef methods[] = {
    {"forward", KEYWORDS(trainer_forward), "forward($self, /, x, active, slot=-1, step=0, depth=None, bits=None)\n--\n\nLogits (n, outputs) in training mode."},
    {"backward", KEYWORDS(trainer_backward),
     "backward($self, /, d_logits, taps=None)\n--\n\nAdds the gradients of the last forward pass; taps: per tapped node None or a gradient of its value."},
    {"tap", trainer_tap, METH_O, "tap($self, tap, /)\n--\n\nValue of a tapped node in the last forward pass, (n, h, w, active channels)."},
    {"commit", KEYWORDS(trainer_commit),
     "commit($self, /, optimizer, *, lr=0.0, momentum=0.0, weight_decay=0.0, nesterov=False, beta1=0.9, beta2=0.999, epsilon=1e-08, clip_norm=0.0)\n--\n\nApplies gradients and "
     "statistics; returns the gradient's norm before clipping."},
    {"discard", trainer_discard, METH_NOARGS, "discard($self, /)\n--\n\nDrops gradients and statistics since the last commit."},
    {"diagnose", trainer_diagnose, METH_NOARGS, "diagnose($self, /)\n--\n\nNames the first layer with a non-finite value, or None."},
    {"get_params", trainer_get_params, METH_O, "get_params($self, node, /)\n--\n\n(weight, bias), flat copies in natural order, None where there is none."},
    {"set_params", FAST(trainer_set_params), "set_params($self, node, weight, bias, /)\n--\n\nEither may be None."},
    {"get_grads", trainer_get_grads, METH_O, "get_grads($self, node, /)\n--\n\nLike get_params."},
    {"get_moments", trainer_get_moments, METH_O, "get_moments($self, node, /)\n--\n\n(weight first, weight second, bias first, bias second)."},
    {"set_moments", FAST(trainer_set_moments), "set_moments($self, node, weight1, weight2, bias1, bias2, /)\n--\n\nAny may be None."},
    {"get_stats", trainer_get_stats, METH_O, "get_stats($self, slot, /)\n--\n\nRunning (mean, variance) of all batch norms."},
    {"set_stats", FAST(trainer_set_stats), "set_stats($self, slot, mean, variance, /)\n--\n\nReplaces running statistics."},
    {"set_code_scale", FAST(dn_py_trainer_set_code_scale), "set_code_scale($self, node, scale, largest, /)\n--\n\nScales of a layer's weights, one per output channel, and its largest code."},
    {"set_scales", dn_py_trainer_set_scales, METH_O, "set_scales($self, scale, /)\n--\n\nScales of coded tensors, one per node; 0: not quantised."},
    {"peaks", dn_py_trainer_peaks, METH_NOARGS, "peaks($self, /)\n--\n\nLargest magnitude of each coded tensor in the last pass, one per node."},
    {"slopes", dn_py_trainer_slopes, METH_NOARGS, "slopes($self, /)\n--\n\nGradient of each coded tensor's scale in the last pass, one per node."},
    {"batch_stats", dn_py_trainer_batch_stats, METH_NOARGS, "batch_stats($self, /)\n--\n\n(mean, variance) of the last pass, of all batch norms."},
    {"tensor", dn_py_trainer_tensor, METH_O, "tensor($self, node, /)\n--\n\nA node's tensor in the last pass, (n, numbers), or None if it is part of another step."},
    {NULL, NULL, 0, NULL},
};

static PyObject *get_affine(PyObject *object, void *unused) { return (void)unused, PyLong_FromLong(((trainer_object *)object)->affine); }

static int set_affine(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    trainer_object *self = (trainer_object *)object;
    long slot = value ? PyLong_AsLong(value) : -1;
    if (slot == -1 && PyErr_Occurred()) return -1;
    if (slot < 0 || slot >= self->affine_sets) {
        PyErr_Format(PyExc_ValueError, "affine set %ld: there are %d", slot, self->affine_sets);
        return -1;
    }
    if (dn_py_trainer_enter(self) < 0) return -1;
    dn_trainer_show_affine(self->trainer, (int32_t)slot);
    self->affine = (int)slot;
    self->busy = 0;
    return 0;
}

static PyGetSetDef getset[] = {
    {"steps", get_steps, set_steps, "Commits so far.", NULL},
    {"affine", get_affine, set_affine, "Whose scale and shift of batch norms get_params and its like are about.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, trainer_new},
    {Py_tp_dealloc, trainer_dealloc},
    {Py_tp_methods, methods},
    {Py_tp_getset, getset},
    {Py_tp_doc, "Trainer(graph, params, *, batch=128, threads=1, isa=None, stat_slots=1, stat_momentum=0.1, seed=0, frozen=None, input_table=None, bf16=False, taps=None, coded=None, "
                "learns_scales=False, private_affine=False)\n--\n\nTrains one network."},
    {0, NULL},
};

static PyType_Spec spec = {"dynadnn._core.Trainer", sizeof(trainer_object), 0, Py_TPFLAGS_DEFAULT, slots};

int dn_py_add_train(PyObject *module, module_state *state) {
    state->trainer_type = PyType_FromModuleAndSpec(module, &spec, NULL);
    if (!state->trainer_type || PyModule_AddObjectRef(module, "Trainer", state->trainer_type) < 0) return -1;
    return PyModule_AddFunctions(module, dn_train_functions);
}
