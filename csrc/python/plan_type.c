/* plan_type.c - dynadnn._core.Plan (a network lowered for this CPU) and Point (one operating point bound to it). */
#include <string.h>

#include <stdbool.h>

#include "python/common.h"

typedef struct plan_object {
    PyObject_HEAD
    dn_plan *plan;
    PyObject *graph; /* kept alive: the plan points into it */
    int threads;
} plan_object;

typedef struct point_object {
    PyObject_HEAD
    dn_point *point;
    PyObject *plan;
} point_object;

dn_plan *dn_py_plan(PyObject *object, module_state *state) {
    if (PyObject_TypeCheck(object, (PyTypeObject *)state->plan_type)) return ((plan_object *)object)->plan;
    PyErr_Format(PyExc_TypeError, "plan must be a Plan, not %.80s", Py_TYPE(object)->tp_name);
    return NULL;
}

dn_point *dn_py_point(PyObject *object, module_state *state) {
    if (PyObject_TypeCheck(object, (PyTypeObject *)state->point_type)) return ((point_object *)object)->point;
    PyErr_Format(PyExc_TypeError, "point must be a Point, not %.80s", Py_TYPE(object)->tp_name);
    return NULL;
}

/* ---- parameters ---- */

static PyArrayObject *sized_array(PyObject *object, int type, npy_intp size, const char *what, int32_t node) {
    char name[64];
    (void)PyOS_snprintf(name, sizeof name, "params[%d] %s", (int)node, what);
    PyArrayObject *array = dn_py_array(object, type, -1, name);
    if (!array || PyArray_SIZE(array) == size) return array;
    PyErr_Format(PyExc_ValueError, "%s has %zd elements, not %zd", name, (Py_ssize_t)PyArray_SIZE(array), (Py_ssize_t)size);
    return NULL;
}

static int read_params(const dn_graph *graph, int32_t node, PyObject *item, dn_params *out) {
    dn_tensor_info info;
    dn_graph_tensor(graph, node, &info);
    if (item == Py_None) return 0;
    if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) < 2 || PyTuple_GET_SIZE(item) > 3) {
        PyErr_Format(PyExc_TypeError, "params[%d] must be None, (weight, bias) or (codes, code_scale, bias)", (int)node);
        return -1;
    }
    bool quantised = PyTuple_GET_SIZE(item) == 3;
    PyObject *bias = PyTuple_GET_ITEM(item, quantised ? 2 : 1);
    PyArrayObject *weight = sized_array(PyTuple_GET_ITEM(item, 0), quantised ? NPY_INT8 : NPY_FLOAT32, info.weights, quantised ? "codes" : "weight", node);
    if (!weight) return -1;
    if (quantised) {
        PyArrayObject *scale = sized_array(PyTuple_GET_ITEM(item, 1), NPY_FLOAT32, info.channels, "code_scale", node);
        if (!scale) return -1;
        out->codes = PyArray_DATA(weight);
        out->code_scale = PyArray_DATA(scale);
    } else {
        out->weight = PyArray_DATA(weight);
    }
    if (bias == Py_None) return 0;
    PyArrayObject *b = sized_array(bias, NPY_FLOAT32, info.biases, "bias", node);
    if (!b) return -1;
    out->bias = PyArray_DATA(b);
    return 0;
}

static dn_params *read_all_params(const dn_graph *graph, PyObject *items) {
    int32_t nodes = dn_graph_nodes(graph);
    if (PyTuple_GET_SIZE(items) != nodes) {
        PyErr_Format(PyExc_ValueError, "params has %zd entries for %d nodes", PyTuple_GET_SIZE(items), (int)nodes);
        return NULL;
    }
    dn_params *params = PyMem_Calloc((size_t)nodes, sizeof *params);
    if (!params) return (dn_params *)PyErr_NoMemory();
    for (int32_t i = 0; i < nodes; i++) {
        if (read_params(graph, i, PyTuple_GET_ITEM(items, i), &params[i]) == 0) continue;
        PyMem_Free(params);
        return NULL;
    }
    return params;
}

static int make_plan(plan_object *self, PyObject *params, PyObject *table, const dn_plan_options *options) {
    module_state *state = dn_py_state((PyObject *)self);
    int ok;
    dn_graph *graph = dn_py_graph(self->graph, state);
    PyArrayObject *input_table = graph ? dn_py_array_or_none(table, NPY_FLOAT32, 2, "input_table", &ok) : NULL;
    if (!graph || !ok) return -1;
    dn_tensor_info input;
    dn_graph_tensor(graph, 0, &input);
    if (input_table && (PyArray_DIM(input_table, 0) != input.channels || PyArray_DIM(input_table, 1) != 256)) {
        PyErr_Format(PyExc_ValueError, "input_table must be %d x 256", (int)input.channels);
        return -1;
    }
    PyObject *items = PySequence_Tuple(params);
    dn_params *list = items ? read_all_params(graph, items) : NULL;
    dn_error err = {0};
    dn_status status = DN_OK;
    if (list) {
        Py_BEGIN_ALLOW_THREADS
        status = dn_plan_new(&self->plan, graph, list, input_table ? PyArray_DATA(input_table) : NULL, options, &err);
        Py_END_ALLOW_THREADS
        if (status != DN_OK) dn_py_raise(state, status, &err);
    }
    PyMem_Free(list);
    Py_XDECREF(items);
    return self->plan ? 0 : -1;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"graph", "params", "input_table", "threads", "isa", "precision", "least_bits", "compact", NULL};
    PyObject *graph, *params, *table = NULL, *isa = NULL;
    dn_plan_options options = {.threads = 1, .precision = 32, .least_bits = 2};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$OiOiip:Plan", names, &graph, &params, &table, &options.threads, &isa, &options.precision, &options.least_bits,
                                     &options.compact))
        return NULL;
    if (dn_py_isa(isa, &options.isa) < 0) return NULL;
    plan_object *self = (plan_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->graph = Py_NewRef(graph);
    self->threads = options.threads;
    if (make_plan(self, params, table, &options) == 0) return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void plan_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    plan_object *self = (plan_object *)object;
    dn_plan_free(self->plan);
    Py_XDECREF(self->graph);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- points ---- */

typedef struct table_arrays {
    PyArrayObject *mean, *variance, *scale, *affine; /* affine: NULL, or (2, channels): gamma, beta */
} table_arrays;

/* float32 (2, channels), or None. 0 or -1. */
static int read_affine(PyObject *object, const dn_graph *graph, PyArrayObject **out) {
    int ok;
    *out = dn_py_array_or_none(object, NPY_FLOAT32, 2, "affine", &ok);
    if (!ok) return -1;
    if (!*out || (PyArray_DIM(*out, 0) == 2 && PyArray_DIM(*out, 1) == dn_graph_norm_channels(graph))) return 0;
    PyErr_Format(PyExc_ValueError, "affine must have shape (2, %d)", (int)dn_graph_norm_channels(graph));
    return -1;
}

static dn_tables tables_of(const table_arrays *t, const dn_graph *graph) {
    const float *affine = t->affine ? PyArray_DATA(t->affine) : NULL;
    return (dn_tables){.mean = PyArray_DATA(t->mean), .variance = PyArray_DATA(t->variance), .scale = t->scale ? PyArray_DATA(t->scale) : NULL,
                       .gamma = affine, .beta = affine ? affine + dn_graph_norm_channels(graph) : NULL};
}

static int check_table_sizes(const dn_graph *graph, const table_arrays *t) {
    npy_intp channels = dn_graph_norm_channels(graph), scales = (npy_intp)dn_graph_nodes(graph) * dn_graph_groups(graph);
    if (PyArray_SIZE(t->mean) == channels && PyArray_SIZE(t->variance) == channels && (!t->scale || PyArray_SIZE(t->scale) == scales)) return 0;
    PyErr_Format(PyExc_ValueError, "mean and variance need %zd entries, scale %zd (nodes x groups)", (Py_ssize_t)channels, (Py_ssize_t)scales);
    return -1;
}

/* int8 (nodes, 2), or None. */
static const dn_tile *read_tiles(PyObject *object, const dn_graph *graph, int *ok) {
    PyArrayObject *array = dn_py_array_or_none(object, NPY_INT8, 2, "tiles", ok);
    if (!*ok || !array) return NULL;
    *ok = PyArray_DIM(array, 0) == dn_graph_nodes(graph) && PyArray_DIM(array, 1) == 2;
    if (!*ok) PyErr_Format(PyExc_ValueError, "tiles must have shape (%d, 2)", (int)dn_graph_nodes(graph));
    return PyArray_DATA(array);
}

static PyObject *plan_bind(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    plan_object *self = (plan_object *)object;
    module_state *state = dn_py_state(object);
    if (count < 6 || count > 8) return PyErr_Format(PyExc_TypeError, "bind takes 6 to 8 arguments, not %zd", count);
    const dn_graph *graph = dn_py_graph(self->graph, state);
    dn_subnet subnet;
    if (dn_py_subnet(graph, args[0], args[1], args[2], &subnet) < 0) return NULL;
    int ok;
    table_arrays t = {dn_py_array(args[3], NPY_FLOAT32, 1, "mean"), dn_py_array(args[4], NPY_FLOAT32, 1, "variance"), NULL, NULL};
    if (!t.mean || !t.variance) return NULL;
    t.scale = dn_py_array_or_none(args[5], NPY_FLOAT32, -1, "scale", &ok);
    if (!ok || check_table_sizes(graph, &t) < 0) return NULL;
    const dn_tile *tiles = read_tiles(count > 6 ? args[6] : Py_None, graph, &ok);
    if (!ok || read_affine(count > 7 ? args[7] : Py_None, graph, &t.affine) < 0) return NULL;
    point_object *point = (point_object *)((PyTypeObject *)state->point_type)->tp_alloc((PyTypeObject *)state->point_type, 0);
    if (!point) return NULL;
    point->plan = Py_NewRef(object);
    dn_tables tables = tables_of(&t, graph);
    dn_error err = {0};
    dn_status status = dn_point_new_tiled(&point->point, self->plan, &subnet, &tables, tiles, &err);
    if (status == DN_OK) return (PyObject *)point;
    Py_DECREF(point);
    return dn_py_raise(state, status, &err);
}

static int read_range(const char *name, dn_range *range) {
    static const char *const names[] = {"mse", "minmax", "percentile"};
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) return *range = (dn_range)i, 0;
    PyErr_Format(PyExc_ValueError, "range must be 'mse', 'minmax' or 'percentile', not '%.40s'", name);
    return -1;
}

static dn_status calibrate_unlocked(plan_object *self, const dn_graph *graph, const dn_subnet *subnet, PyArrayObject *images, const dn_calibration_options *options,
                                    const table_arrays *t, dn_error *err) {
    dn_tensor_info input;
    dn_graph_tensor(graph, 0, &input);
    size_t n = (size_t)(PyArray_SIZE(images) / ((npy_intp)input.height * input.width * input.channels));
    dn_dtype dtype = PyArray_TYPE(images) == NPY_UINT8 ? DN_U8 : DN_F32;
    dn_tables tables = tables_of(t, graph);
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_calibrate(self->plan, subnet, PyArray_DATA(images), dtype, n, options, &tables, &dn_py_poll, err);
    Py_END_ALLOW_THREADS
    return status;
}

/* A correction of the statistics, or None. 0 or -1. */
static int read_correction(PyObject *object, npy_intp channels, const char *name, const float **out) {
    int ok;
    PyArrayObject *array = dn_py_array_or_none(object, NPY_FLOAT32, 1, name, &ok);
    *out = array ? PyArray_DATA(array) : NULL;
    if (!ok || !array || PyArray_SIZE(array) == channels) return ok ? 0 : -1;
    PyErr_Format(PyExc_ValueError, "%s needs %zd entries", name, (Py_ssize_t)channels);
    return -1;
}

static PyObject *calibrated_tables(PyObject *object, const dn_graph *graph, const dn_subnet *subnet, PyArrayObject *images, PyArrayObject *affine,
                                   const dn_calibration_options *options) {
    plan_object *self = (plan_object *)object;
    npy_intp channels = dn_graph_norm_channels(graph), shape[2] = {dn_graph_nodes(graph), dn_graph_groups(graph)};
    table_arrays t = {(PyArrayObject *)PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0), (PyArrayObject *)PyArray_ZEROS(1, &channels, NPY_FLOAT32, 0),
                      (PyArrayObject *)PyArray_ZEROS(2, shape, NPY_FLOAT32, 0), affine};
    dn_error err = {0};
    dn_status status = DN_ENOMEM;
    if (t.mean && t.variance && t.scale) status = calibrate_unlocked(self, graph, subnet, images, options, &t, &err);
    if (status == DN_OK && !dn_plan_is_quantised(self->plan)) Py_SETREF(t.scale, (PyArrayObject *)Py_NewRef(Py_None));
    if (status == DN_OK) return Py_BuildValue("(NNN)", t.mean, t.variance, t.scale);
    Py_XDECREF(t.mean);
    Py_XDECREF(t.variance);
    Py_XDECREF(t.scale);
    return dn_py_raise(dn_py_state(object), status, &err);
}

static PyObject *plan_calibrate(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"active", "bits", "depth", "images", "range", "percentile", "threads", "kept_mean", "kept_variance", "mean_shift", "variance_ratio", "variance_shift", "kept_scale", "affine", NULL};
    PyObject *active, *bits, *depth, *image_object, *kept_mean = NULL, *kept_variance = NULL, *shift = NULL, *ratio = NULL, *added = NULL, *scale = NULL, *affine_object = NULL;
    PyArrayObject *affine;
    const char *range_name = "mse";
    dn_calibration_options options = {.percentile = 99.99, .threads = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO|sdiOOOOOOO:calibrate", names, &active, &bits, &depth, &image_object, &range_name, &options.percentile, &options.threads, &kept_mean,
                                     &kept_variance, &shift, &ratio, &added, &scale, &affine_object))
        return NULL;
    const dn_graph *graph = dn_py_graph(((plan_object *)object)->graph, dn_py_state(object));
    dn_subnet subnet;
    dn_dtype dtype;
    npy_intp channels = dn_graph_norm_channels(graph);
    if (dn_py_subnet(graph, active, bits, depth, &subnet) < 0 || read_range(range_name, &options.range) < 0) return NULL;
    if (read_correction(kept_mean, channels, "kept_mean", &options.kept_mean) < 0 || read_correction(kept_variance, channels, "kept_variance", &options.kept_variance) < 0) return NULL;
    if (read_correction(shift, channels, "mean_shift", &options.mean_shift) < 0 || read_correction(ratio, channels, "variance_ratio", &options.variance_ratio) < 0) return NULL;
    if (read_correction(added, channels, "variance_shift", &options.variance_shift) < 0) return NULL;
    int ok;
    PyArrayObject *kept = dn_py_array_or_none(scale, NPY_FLOAT32, 2, "kept_scale", &ok);
    if (!ok) return NULL;
    if (kept && (PyArray_DIM(kept, 0) != dn_graph_nodes(graph) || PyArray_DIM(kept, 1) != dn_graph_groups(graph)))
        return PyErr_Format(PyExc_ValueError, "kept_scale must be %d x %d", (int)dn_graph_nodes(graph), (int)dn_graph_groups(graph));
    options.kept_scale = kept ? PyArray_DATA(kept) : NULL;
    if (read_affine(affine_object, graph, &affine) < 0) return NULL;
    if (!PyArray_Check(image_object)) return PyErr_Format(PyExc_TypeError, "images must be a NumPy array");
    if (dn_py_image_dtype((PyArrayObject *)image_object, "images", &dtype) < 0) return NULL;
    PyArrayObject *images = dn_py_array(image_object, dtype == DN_U8 ? NPY_UINT8 : NPY_FLOAT32, -1, "images");
    return images ? calibrated_tables(object, graph, &subnet, images, affine, &options) : NULL;
}

static void point_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    point_object *self = (point_object *)object;
    dn_point_free(self->point);
    Py_XDECREF(self->plan);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *offset_or_none(size_t offset) { return offset == SIZE_MAX ? Py_NewRef(Py_None) : PyLong_FromSize_t(offset); }

static PyObject *step_dict(const dn_point *point, int32_t index) {
    dn_step_info s;
    dn_point_step(point, index, &s);
    return Py_BuildValue("{s:s,s:i,s:i,s:O,s:L,s:N,s:N,s:N,s:N,s:N}", "kernel", s.kernel, "node", s.node, "output", s.output, "is_int8", s.is_int8 ? Py_True : Py_False, "macs",
                         (long long)s.macs, "weight_offset", offset_or_none(s.weight_offset), "table_offset", offset_or_none(s.table_offset), "input_offset", offset_or_none(s.input_offset),
                         "output_offset", offset_or_none(s.output_offset), "residual_offset", offset_or_none(s.residual_offset));
}

static PyObject *get_steps(PyObject *object, void *unused) {
    (void)unused;
    const dn_point *point = ((point_object *)object)->point;
    PyObject *list = PyList_New(dn_point_steps(point));
    for (int32_t i = 0; list && i < dn_point_steps(point); i++) {
        PyObject *item = step_dict(point, i);
        if (!item) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, item);
    }
    return list;
}

/* (shape, [(name, most, rest), ...]) per step. */
static PyObject *step_tiles(const dn_point *point, int32_t index) {
    char shape[96], name[32];
    dn_tile tile;
    dn_point_shape_name(point, index, shape);
    PyObject *list = PyList_New(0);
    for (int32_t i = 0; list && dn_point_tile(point, index, i, &tile, name); i++) {
        PyObject *item = Py_BuildValue("(sii)", name, tile.most, tile.rest);
        if (!item || PyList_Append(list, item) < 0) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list ? Py_BuildValue("(sN)", shape, list) : NULL;
}

static PyObject *get_tiles(PyObject *object, void *unused) {
    (void)unused;
    const dn_point *point = ((point_object *)object)->point;
    PyObject *list = PyList_New(dn_point_steps(point));
    for (int32_t i = 0; list && i < dn_point_steps(point); i++) {
        PyObject *item = step_tiles(point, i);
        if (!item) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, item);
    }
    return list;
}

static PyObject *get_table_bytes(PyObject *object, void *unused) { return (void)unused, PyLong_FromSize_t(dn_point_table_bytes(((point_object *)object)->point)); }
static PyObject *get_arena_bytes(PyObject *object, void *unused) { return (void)unused, PyLong_FromSize_t(dn_point_arena_bytes(((point_object *)object)->point)); }
static PyObject *get_weight_bytes(PyObject *object, void *unused) { return (void)unused, PyLong_FromSize_t(dn_plan_weight_bytes(((plan_object *)object)->plan)); }
static PyObject *get_threads(PyObject *object, void *unused) { return (void)unused, PyLong_FromLong(((plan_object *)object)->threads); }

static PyMethodDef plan_methods[] = {
    {"bind", (PyCFunction)(void (*)(void))plan_bind, METH_FASTCALL, "bind($self, active, bits, depth, mean, variance, scale, tiles=None, affine=None, /)\n--\n\nA Point; no weight is touched."},
    {"calibrate", (PyCFunction)(void (*)(void))plan_calibrate, METH_VARARGS | METH_KEYWORDS,
     "calibrate($self, active, bits, depth, images, range='mse', percentile=99.99, threads=1, kept_mean=None, kept_variance=None, mean_shift=None, variance_ratio=None, variance_shift=None, kept_scale=None, "
     "affine=None)\n--\n\nMean, variance and scale of a point, layer by layer from images."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef plan_getset[] = {
    {"weight_bytes", get_weight_bytes, NULL, "Bytes of packed weights and parameters.", NULL},
    {"threads", get_threads, NULL, "The most threads a run may use.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot plan_slots[] = {
    {Py_tp_new, plan_new},
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_methods, plan_methods},
    {Py_tp_getset, plan_getset},
    {Py_tp_doc, "Plan(graph, params, *, input_table=None, threads=1, isa=None, precision=32, least_bits=2, compact=False)\n--\n\nGraph and weights lowered for this CPU (immutable)."},
    {0, NULL},
};
static PyType_Spec plan_spec = {"dynadnn._core.Plan", sizeof(plan_object), 0, Py_TPFLAGS_DEFAULT, plan_slots};

static PyGetSetDef point_getset[] = {
    {"table_bytes", get_table_bytes, NULL, "Bytes of all that the point owns: records and tables.", NULL},
    {"arena_bytes", get_arena_bytes, NULL, "Bytes of activations while it runs.", NULL},
    {"steps", get_steps, NULL, "One dict per step.", NULL},
    {"tiles", get_tiles, NULL, "(shape, [(name, most, rest), ...]) per step: the tiles it can have, its own first.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot point_slots[] = {
    {Py_tp_dealloc, point_dealloc}, {Py_tp_getset, point_getset}, {Py_tp_doc, "One operating point bound to a plan (immutable); Plan.bind makes it."}, {0, NULL}};
static PyType_Spec point_spec = {"dynadnn._core.Point", sizeof(point_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, point_slots};

int dn_py_add_plan(PyObject *module, module_state *state) {
    state->plan_type = PyType_FromModuleAndSpec(module, &plan_spec, NULL);
    state->point_type = PyType_FromModuleAndSpec(module, &point_spec, NULL);
    if (!state->plan_type || !state->point_type) return -1;
    return PyModule_AddObjectRef(module, "Plan", state->plan_type) < 0 || PyModule_AddObjectRef(module, "Point", state->point_type) < 0 ? -1 : 0;
}
