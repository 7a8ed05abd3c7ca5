/* graph_type.c - dynadnn._core.Graph: a checked network structure. */
#include <string.h>

#include "python/common.h"

typedef struct graph_object {
    PyObject_HEAD
    dn_graph *graph;
} graph_object;

dn_graph *dn_py_graph(PyObject *object, module_state *state) {
    if (!PyObject_TypeCheck(object, (PyTypeObject *)state->graph_type)) {
        PyErr_Format(PyExc_TypeError, "graph must be a Graph, not %.80s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    return ((graph_object *)object)->graph;
}

int dn_py_subnet(const dn_graph *graph, PyObject *active, PyObject *bits, PyObject *depth, dn_subnet *subnet) {
    int ok_bits, ok_depth;
    PyArrayObject *a = dn_py_array(active, NPY_INT32, 1, "active");
    if (!a) return -1;
    PyArrayObject *b = dn_py_array_or_none(bits, NPY_INT8, 1, "bits", &ok_bits);
    if (!ok_bits) return -1;
    PyArrayObject *d = dn_py_array_or_none(depth, NPY_INT32, 1, "depth", &ok_depth);
    if (!ok_depth) return -1;
    if (PyArray_DIM(a, 0) != dn_graph_spaces(graph) || (b && PyArray_DIM(b, 0) != dn_graph_nodes(graph)) || (d && PyArray_DIM(d, 0) != dn_graph_stages(graph))) {
        PyErr_Format(PyExc_ValueError, "active, bits and depth must have %d, %d and %d entries (spaces, nodes, stages)", dn_graph_spaces(graph), dn_graph_nodes(graph),
                     dn_graph_stages(graph));
        return -1;
    }
    *subnet = (dn_subnet){PyArray_DATA(a), b ? PyArray_DATA(b) : NULL, d ? PyArray_DATA(d) : NULL};
    return 0;
}

/* ---- reading node mappings ---- */

static int read_int(PyObject *value, const char *key, int32_t *out) {
    int overflow;
    long v = PyLong_AsLongAndOverflow(value, &overflow);
    if (v == -1 && !overflow && PyErr_Occurred()) return -1;
    if (overflow || v < INT32_MIN || v > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "%s is out of range: %R", key, value);
        return -1;
    }
    *out = (int32_t)v;
    return 0;
}

static int read_ints(PyObject *value, const char *key, int32_t *out, Py_ssize_t wanted) {
    PyObject *items = PySequence_Fast(value, "a sequence of integers is needed");
    if (!items) return -1;
    int bad = 0;
    if (PySequence_Fast_GET_SIZE(items) != wanted) {
        PyErr_Format(PyExc_ValueError, "%s needs %zd integers, not %R", key, wanted, value);
        bad = -1;
    }
    for (Py_ssize_t i = 0; !bad && i < wanted; i++) bad = read_int(PySequence_Fast_GET_ITEM(items, i), key, &out[i]);
    Py_DECREF(items);
    return bad;
}

/* A new array of as many integers as the sequence has. */
static int32_t *read_list(PyObject *value, const char *key, int32_t *count) {
    Py_ssize_t n = PySequence_Size(value);
    if (n < 0 || n > (1 << 20)) {
        if (!PyErr_Occurred()) PyErr_Format(PyExc_ValueError, "%s is too long", key);
        return NULL;
    }
    int32_t *list = PyMem_Calloc((size_t)n + 1, sizeof *list);
    if (!list) return (int32_t *)PyErr_NoMemory();
    *count = (int32_t)n;
    if (read_ints(value, key, list, n) == 0) return list;
    PyMem_Free(list);
    return NULL;
}

/* Where each integer field of a node mapping goes. */
static const struct {
    const char *key;
    size_t offset;
    Py_ssize_t count;
} int_fields[] = {
    {"height", offsetof(dn_node_spec, height), 1}, {"width", offsetof(dn_node_spec, width), 1},   {"channels", offsetof(dn_node_spec, channels), 1},
    {"kernel", offsetof(dn_node_spec, kernel), 2}, {"stride", offsetof(dn_node_spec, stride), 2}, {"pad", offsetof(dn_node_spec, pad), 4},
    {"dilation", offsetof(dn_node_spec, dilation), 2}, {"groups", offsetof(dn_node_spec, groups), 1}, {"bias", offsetof(dn_node_spec, bias), 1},
    {"fixed", offsetof(dn_node_spec, fixed), 1}, {"stage", offsetof(dn_node_spec, stage), 1},     {"block", offsetof(dn_node_spec, block), 1},
};

static int read_field(PyObject *key, PyObject *value, dn_node_spec *spec, int32_t **inputs, int32_t **map) {
    const char *name = PyUnicode_AsUTF8(key);
    if (!name) return -1;
    if (strcmp(name, "op") == 0) return (spec->op = PyUnicode_AsUTF8(value)) ? 0 : -1;
    if (strcmp(name, "name") == 0) return (spec->name = PyUnicode_AsUTF8(value)) ? 0 : -1;
    if (strcmp(name, "value") == 0) {
        double v = PyFloat_AsDouble(value);
        spec->value = (float)v;
        return v == -1 && PyErr_Occurred() ? -1 : 0;
    }
    if (strcmp(name, "inputs") == 0) {
        PyMem_Free(*inputs);
        spec->inputs = *inputs = read_list(value, name, &spec->input_count);
        return *inputs ? 0 : -1;
    }
    if (strcmp(name, "map") == 0) {
        if (value == Py_None) return 0;
        int32_t count;
        PyMem_Free(*map);
        spec->map = *map = read_list(value, name, &count);
        if (!*map) return -1;
        if (spec->channels == 0) spec->channels = count;
        if (count == spec->channels) return 0;
        PyErr_Format(PyExc_ValueError, "map has %d entries for %d channels", count, spec->channels);
        return -1;
    }
    for (size_t i = 0; i < sizeof int_fields / sizeof *int_fields; i++) {
        int32_t *target = (int32_t *)((char *)spec + int_fields[i].offset);
        if (strcmp(name, int_fields[i].key)) continue;
        return int_fields[i].count == 1 ? read_int(value, name, target) : read_ints(value, name, target, int_fields[i].count);
    }
    PyErr_Format(PyExc_ValueError, "a node has no field %R", key);
    return -1;
}

static int read_node(PyObject *mapping, dn_node_spec *spec, int32_t **inputs, int32_t **map) {
    *spec = (dn_node_spec){.kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}, .groups = 1, .stage = -1};
    if (!PyDict_Check(mapping)) {
        PyErr_Format(PyExc_TypeError, "a node must be a dict, not %.80s", Py_TYPE(mapping)->tp_name);
        return -1;
    }
    PyObject *key, *value, *late_map = NULL, *late_key = NULL;
    Py_ssize_t position = 0;
    while (PyDict_Next(mapping, &position, &key, &value)) {
        if (PyUnicode_Check(key) && PyUnicode_CompareWithASCIIString(key, "map") == 0) {
            late_key = key, late_map = value; /* its length is checked against channels, whichever comes first */
            continue;
        }
        if (read_field(key, value, spec, inputs, map) < 0) return -1;
    }
    return late_map ? read_field(late_key, late_map, spec, inputs, map) : 0;
}

static dn_graph *read_graph(PyObject *nodes, int output, int groups, module_state *state) {
    Py_ssize_t count = PyTuple_GET_SIZE(nodes);
    dn_graph *graph = NULL;
    dn_error err = {0};
    dn_node_spec *specs = PyMem_Calloc((size_t)count + 1, sizeof *specs);
    int32_t **lists = PyMem_Calloc(2 * (size_t)count + 1, sizeof *lists);
    if (!specs || !lists) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (read_node(PyTuple_GET_ITEM(nodes, i), &specs[i], &lists[2 * i], &lists[2 * i + 1]) < 0) goto done;
    dn_status status = dn_graph_new(&graph, specs, (int32_t)count, output, groups, &err);
    if (status != DN_OK) dn_py_raise(state, status, &err);
done:
    for (Py_ssize_t i = 0; lists && i < 2 * count; i++) PyMem_Free(lists[i]);
    PyMem_Free(lists);
    PyMem_Free(specs);
    return graph;
}

static PyObject *graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"nodes", "output", "groups", NULL};
    PyObject *nodes;
    int output, groups = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Oi|i:Graph", names, &nodes, &output, &groups)) return NULL;
    graph_object *self = (graph_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    PyObject *tuple = PySequence_Tuple(nodes); /* keeps the mappings and their strings alive while they are read */
    if (tuple && PyTuple_GET_SIZE(tuple) <= 65535) {
        self->graph = read_graph(tuple, output, groups, dn_py_state((PyObject *)self));
    } else if (tuple) {
        PyErr_SetString(PyExc_ValueError, "a network has at most 65535 nodes");
    }
    Py_XDECREF(tuple);
    if (self->graph) return (PyObject *)self;
    Py_DECREF(self);
    return NULL;
}

static void graph_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    dn_graph_free(((graph_object *)object)->graph);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- describing ---- */

static PyObject *tensor_dict(const dn_graph *graph, int32_t tensor) {
    dn_tensor_info t;
    dn_graph_tensor(graph, tensor, &t);
    PyObject *segments = PyList_New(t.segments);
    for (int32_t i = 0; segments && i < t.segments; i++) {
        dn_segment s;
        dn_graph_segment(graph, tensor, i, &s);
        PyObject *item = Py_BuildValue("(iii)", s.space, s.full, s.repeat);
        if (!item) Py_CLEAR(segments);
        else PyList_SET_ITEM(segments, i, item);
    }
    if (!segments) return NULL;
    return Py_BuildValue("{s:i,s:i,s:i,s:N,s:O,s:i,s:i,s:i,s:i,s:i,s:i}", "height", t.height, "width", t.width, "channels", t.channels, "segments", segments, "signed",
                         t.is_signed ? Py_True : Py_False, "scale_from", t.scale_from, "weights", t.weights, "biases", t.biases, "norm_offset", t.norm_offset, "stage", t.stage, "block",
                         t.block);
}

static PyObject *space_tuple(const dn_graph *graph, int32_t space) {
    dn_space_info s;
    dn_graph_space(graph, space, &s);
    return Py_BuildValue("(iOii)", s.full, s.elastic ? Py_True : Py_False, s.lead, s.unit);
}

static PyObject *stage_tuple(const dn_graph *graph, int32_t stage) {
    int32_t blocks, must_keep;
    dn_graph_stage(graph, stage, &blocks, &must_keep);
    return Py_BuildValue("(ii)", blocks, must_keep);
}

static PyObject *list_of(const dn_graph *graph, int32_t count, PyObject *(*make)(const dn_graph *, int32_t)) {
    PyObject *list = PyList_New(count);
    for (int32_t i = 0; list && i < count; i++) {
        PyObject *item = make(graph, i);
        if (!item) Py_CLEAR(list);
        else PyList_SET_ITEM(list, i, item);
    }
    return list;
}

#define GRAPH(object) (((graph_object *)(object))->graph)
static PyObject *get_tensors(PyObject *self, void *unused) { return (void)unused, list_of(GRAPH(self), dn_graph_nodes(GRAPH(self)), tensor_dict); }
static PyObject *get_spaces(PyObject *self, void *unused) { return (void)unused, list_of(GRAPH(self), dn_graph_spaces(GRAPH(self)), space_tuple); }
static PyObject *get_stages(PyObject *self, void *unused) { return (void)unused, list_of(GRAPH(self), dn_graph_stages(GRAPH(self)), stage_tuple); }
static PyObject *get_groups(PyObject *self, void *unused) { return (void)unused, PyLong_FromLong(dn_graph_groups(GRAPH(self))); }
static PyObject *get_norm_channels(PyObject *self, void *unused) { return (void)unused, PyLong_FromLong(dn_graph_norm_channels(GRAPH(self))); }

static int parse_subnet(PyObject *self, PyObject *args, PyObject *kwargs, dn_subnet *subnet) {
    static char *names[] = {"active", "bits", "depth", NULL};
    PyObject *active, *bits = NULL, *depth = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|OO", names, &active, &bits, &depth)) return -1;
    return dn_py_subnet(GRAPH(self), active, bits, depth, subnet);
}

static PyObject *graph_check(PyObject *self, PyObject *args, PyObject *kwargs) {
    dn_subnet subnet;
    dn_error err = {0};
    if (parse_subnet(self, args, kwargs, &subnet) < 0) return NULL;
    dn_status status = dn_graph_check_subnet(GRAPH(self), &subnet, &err);
    if (status != DN_OK) return dn_py_raise(dn_py_state(self), status, &err);
    Py_RETURN_NONE;
}

static PyObject *graph_cost(PyObject *self, PyObject *args, PyObject *kwargs) {
    dn_subnet subnet;
    dn_error err = {0};
    if (parse_subnet(self, args, kwargs, &subnet) < 0) return NULL;
    npy_intp nodes = dn_graph_nodes(GRAPH(self));
    PyObject *macs = PyArray_SimpleNew(1, &nodes, NPY_INT64), *params = PyArray_SimpleNew(1, &nodes, NPY_INT64);
    dn_status status = DN_ENOMEM;
    if (macs && params) status = dn_graph_cost(GRAPH(self), &subnet, PyArray_DATA((PyArrayObject *)macs), PyArray_DATA((PyArrayObject *)params), &err);
    if (status == DN_OK) return Py_BuildValue("(NN)", macs, params);
    Py_XDECREF(macs);
    Py_XDECREF(params);
    return dn_py_raise(dn_py_state(self), status, &err);
}

static PyMethodDef methods[] = {
    {"check", (PyCFunction)(void (*)(void))graph_check, METH_VARARGS | METH_KEYWORDS, "check($self, active, bits=None, depth=None)\n--\n\nRaises PointError if the point cannot be."},
    {"cost", (PyCFunction)(void (*)(void))graph_cost, METH_VARARGS | METH_KEYWORDS,
     "cost($self, active, bits=None, depth=None)\n--\n\nMultiply-accumulates of one image and active parameters, each int64 per node."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef getset[] = {
    {"tensors", get_tensors, NULL, "One dict per node's tensor.", NULL},
    {"spaces", get_spaces, NULL, "(full, elastic, lead, unit) per channel space.", NULL},
    {"stages", get_stages, NULL, "(blocks, must_keep) per stage.", NULL},
    {"groups", get_groups, NULL, "Incremental channel groups.", NULL},
    {"norm_channels", get_norm_channels, NULL, "Channels of all batch norms together.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot slots[] = {
    {Py_tp_new, graph_new},     {Py_tp_dealloc, graph_dealloc},
    {Py_tp_methods, methods},   {Py_tp_getset, getset},
    {Py_tp_doc, "Graph(nodes, output, groups=1)\n--\n\nA checked network structure (immutable)."}, {0, NULL},
};

static PyType_Spec spec = {"dynadnn._core.Graph", sizeof(graph_object), 0, Py_TPFLAGS_DEFAULT, slots};

int dn_py_add_graph(PyObject *module, module_state *state) {
    state->graph_type = PyType_FromModuleAndSpec(module, &spec, NULL);
    return state->graph_type ? PyModule_AddObjectRef(module, "Graph", state->graph_type) : -1;
}
