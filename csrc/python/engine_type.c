/* engine_type.c - dynadnn._core.Engine: runs points of one plan. */
#include "python/common.h"

#include <stdbool.h>
#include <structmember.h>

enum { MAX_RANK = 4 };

typedef struct engine_object {
    PyObject_HEAD
    dn_engine *engine;
    PyObject *plan;   /* kept alive */
    PyObject *points; /* dict: name, fraction or sub-net -> Point */
    PyObject *active; /* the key selected last, or None */
    PyObject *point;  /* its Point, or NULL */
    int threads;
    int rank;         /* of one image */
    npy_intp shape[MAX_RANK];
    npy_intp outputs;
} engine_object;

static PyObject *engine_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"plan", "input_shape", "outputs", NULL};
    PyObject *plan_object, *shape;
    Py_ssize_t outputs;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$O!n:Engine", names, &plan_object, &PyTuple_Type, &shape, &outputs)) return NULL;
    engine_object *self = (engine_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    dn_plan *plan = dn_py_plan(plan_object, dn_py_state((PyObject *)self));
    dn_error err = {0};
    if (!plan) goto fail;
    self->plan = Py_NewRef(plan_object);
    self->active = Py_NewRef(Py_None);
    self->outputs = outputs;
    self->rank = (int)PyTuple_GET_SIZE(shape);
    if (self->rank < 1 || self->rank > 3) {
        PyErr_SetString(PyExc_ValueError, "input_shape must have 1 to 3 dimensions");
        goto fail;
    }
    for (int i = 0; i < self->rank; i++) self->shape[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape, i));
    PyObject *threads = PyObject_GetAttrString(plan_object, "threads");
    self->threads = threads ? (int)PyLong_AsLong(threads) : 1;
    Py_XDECREF(threads);
    self->points = PyDict_New();
    if (PyErr_Occurred() || !self->points) goto fail;
    dn_status status = dn_engine_new(&self->engine, plan, &err);
    if (status == DN_OK) return (PyObject *)self;
    dn_py_raise(dn_py_state((PyObject *)self), status, &err);
fail:
    Py_DECREF(self);
    return NULL;
}

static int engine_traverse(PyObject *object, visitproc visit, void *arg) {
    engine_object *self = (engine_object *)object;
    Py_VISIT(self->plan);
    Py_VISIT(self->points);
    Py_VISIT(self->active);
    Py_VISIT(self->point);
    Py_VISIT(Py_TYPE(object));
    return 0;
}

static int engine_clear(PyObject *object) {
    engine_object *self = (engine_object *)object;
    Py_CLEAR(self->points);
    Py_CLEAR(self->active);
    Py_CLEAR(self->point);
    return 0;
}

static void engine_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    engine_object *self = (engine_object *)object;
    PyObject_GC_UnTrack(object);
    (void)engine_clear(object);
    dn_engine_free(self->engine);
    Py_XDECREF(self->plan);
    type->tp_free(object);
    Py_DECREF(type);
}

/* ---- points ---- */

/* A new reference to the Point for a key: from the dict, else from self._bind(key). */
static PyObject *find_point(engine_object *self, PyObject *key) {
    PyObject *found = PyDict_GetItemWithError(self->points, key);
    if (found) return Py_NewRef(found);
    if (PyErr_Occurred()) return NULL;
    found = PyObject_CallMethod((PyObject *)self, "_bind", "O", key);
    if (found && !dn_py_point(found, dn_py_state((PyObject *)self))) Py_CLEAR(found);
    return found;
}

static PyObject *engine_select(PyObject *object, PyObject *key) {
    engine_object *self = (engine_object *)object;
    PyObject *found = find_point(self, key);
    if (!found) return NULL;
    Py_XSETREF(self->point, found);
    Py_SETREF(self->active, Py_NewRef(key));
    Py_RETURN_NONE;
}

/* ---- calls ---- */

static bool fits(const engine_object *self, PyObject *x) {
    if (!PyArray_Check(x)) return false;
    PyArrayObject *a = (PyArrayObject *)x;
    int type = PyArray_TYPE(a);
    if ((type != NPY_UINT8 && type != NPY_FLOAT32) || PyArray_NDIM(a) != self->rank + 1 || !PyArray_IS_C_CONTIGUOUS(a) || !PyArray_ISALIGNED(a) || !PyArray_ISNOTSWAPPED(a)) return false;
    for (int i = 0; i < self->rank; i++)
        if (PyArray_DIM(a, i + 1) != self->shape[i]) return false;
    return PyArray_DIM(a, 0) > 0;
}

/* A new reference to images the core can read. What does not fit goes to self._convert, which makes it fit or says what is wrong. */
static PyArrayObject *images_of(engine_object *self, PyObject *x) {
    if (fits(self, x)) return (PyArrayObject *)Py_NewRef(x);
    PyObject *converted = PyObject_CallMethod((PyObject *)self, "_convert", "O", x);
    if (!converted || fits(self, converted)) return (PyArrayObject *)converted;
    Py_DECREF(converted);
    PyErr_SetString(PyExc_ValueError, "x cannot be converted to the network's input");
    return NULL;
}

static PyArrayObject *output_of(const engine_object *self, PyObject *out, npy_intp n) {
    npy_intp shape[2] = {n, self->outputs};
    if (!out || out == Py_None) return (PyArrayObject *)PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    PyArrayObject *array = dn_py_array(out, NPY_FLOAT32, 2, "out");
    if (!array) return NULL;
    if (PyArray_DIM(array, 0) != n || PyArray_DIM(array, 1) != self->outputs || !PyArray_ISWRITEABLE(array)) {
        PyErr_Format(PyExc_ValueError, "out must be a writable array of shape (%zd, %zd)", (Py_ssize_t)n, (Py_ssize_t)self->outputs);
        return NULL;
    }
    return (PyArrayObject *)Py_NewRef(out);
}

/* added: only the channel groups that the last run had not. */
static int run(engine_object *self, PyObject *point, PyArrayObject *images, float *output, bool added, int64_t *profile) {
    module_state *state = dn_py_state((PyObject *)self);
    dn_dtype dtype = PyArray_TYPE(images) == NPY_UINT8 ? DN_U8 : DN_F32;
    dn_point *bound = dn_py_point(point, state);
    const void *data = PyArray_DATA(images);
    size_t n = (size_t)PyArray_DIM(images, 0);
    dn_error err = {0};
    dn_status status;
    if (!bound) return -1;
    Py_BEGIN_ALLOW_THREADS
    if (added) status = dn_engine_extend(self->engine, bound, data, dtype, n, output, self->threads, &dn_py_poll, &err);
    else status = dn_engine_run(self->engine, bound, data, dtype, n, output, self->threads, profile, &dn_py_poll, &err);
    Py_END_ALLOW_THREADS
    if (status != DN_OK) dn_py_raise(state, status, &err);
    return status == DN_OK ? 0 : -1;
}

static PyObject *engine_answer(PyObject *object, PyObject *args, PyObject *kwargs, const char *format, bool added) {
    static char *names[] = {"x", "point", "out", NULL};
    engine_object *self = (engine_object *)object;
    PyObject *x, *key = NULL, *out = NULL, *point = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &x, &key, &out)) return NULL;
    if (key && key != Py_None) point = find_point(self, key);
    else if (self->point) point = Py_NewRef(self->point);
    else PyErr_SetString(dn_py_state(object)->point_error, "no point is selected");
    if (!point) return NULL;
    PyArrayObject *images = images_of(self, x), *output = images ? output_of(self, out, PyArray_DIM(images, 0)) : NULL;
    if (output && run(self, point, images, PyArray_DATA(output), added, NULL) < 0) Py_CLEAR(output);
    Py_DECREF(point);
    Py_XDECREF(images);
    return (PyObject *)output;
}

static PyObject *engine_call(PyObject *object, PyObject *args, PyObject *kwargs) { return engine_answer(object, args, kwargs, "O|OO:__call__", false); }
static PyObject *engine_extend(PyObject *object, PyObject *args, PyObject *kwargs) { return engine_answer(object, args, kwargs, "O|OO:extend", true); }

static PyObject *engine_profile(PyObject *object, PyObject *args) {
    engine_object *self = (engine_object *)object;
    PyObject *x, *point;
    int repeats = 1;
    if (!PyArg_ParseTuple(args, "OO|i:profile_steps", &x, &point, &repeats)) return NULL;
    dn_point *bound = dn_py_point(point, dn_py_state(object));
    PyArrayObject *images = bound ? images_of(self, x) : NULL, *output = images ? output_of(self, NULL, PyArray_DIM(images, 0)) : NULL;
    npy_intp steps = bound ? dn_point_steps(bound) : 0;
    PyArrayObject *times = output ? (PyArrayObject *)PyArray_ZEROS(1, &steps, NPY_INT64, 0) : NULL;
    for (int i = 0; times && i < repeats; i++)
        if (run(self, point, images, PyArray_DATA(output), false, PyArray_DATA(times)) < 0) Py_CLEAR(times);
    Py_XDECREF(images);
    Py_XDECREF(output);
    return (PyObject *)times;
}

static PyObject *engine_activation(PyObject *object, PyObject *args) {
    engine_object *self = (engine_object *)object;
    module_state *state = dn_py_state(object);
    PyObject *x, *point;
    int node;
    int32_t size[3];
    dn_error err = {0};
    if (!PyArg_ParseTuple(args, "OOi:activation", &x, &point, &node)) return NULL;
    dn_point *bound = dn_py_point(point, state);
    if (!bound) return NULL;
    dn_status status = dn_point_shape(bound, node, size, &err);
    if (status != DN_OK) return dn_py_raise(state, status, &err);
    PyArrayObject *images = images_of(self, x);
    npy_intp shape[4] = {images ? PyArray_DIM(images, 0) : 0, size[0], size[1], size[2]};
    PyArrayObject *values = images ? (PyArrayObject *)PyArray_SimpleNew(4, shape, NPY_FLOAT32) : NULL;
    if (values) {
        dn_dtype dtype = PyArray_TYPE(images) == NPY_UINT8 ? DN_U8 : DN_F32;
        Py_BEGIN_ALLOW_THREADS
        status = dn_engine_activation(self->engine, bound, PyArray_DATA(images), dtype, (size_t)shape[0], node, PyArray_DATA(values), &err);
        Py_END_ALLOW_THREADS
        if (status != DN_OK) {
            dn_py_raise(state, status, &err);
            Py_CLEAR(values);
        }
    }
    Py_XDECREF(images);
    return (PyObject *)values;
}

static PyObject *get_arena_bytes(PyObject *object, void *unused) { return (void)unused, PyLong_FromSize_t(dn_engine_arena_bytes(((engine_object *)object)->engine)); }
static PyObject *get_kept_bytes(PyObject *object, void *unused) { return (void)unused, PyLong_FromSize_t(dn_engine_kept_bytes(((engine_object *)object)->engine)); }
static PyObject *get_last_macs(PyObject *object, void *unused) { return (void)unused, PyLong_FromLongLong(dn_engine_macs(((engine_object *)object)->engine)); }

static PyMethodDef methods[] = {
    {"extend", (PyCFunction)(void (*)(void))engine_extend, METH_VARARGS | METH_KEYWORDS,
     "extend($self, x, point=None, out=None)\n--\n\nOutputs at a larger point of what was run last, from the added channel groups alone."},
    {"select", engine_select, METH_O, "select($self, point, /)\n--\n\nMake this the point that calls use; a running call finishes at its own."},
    {"profile_steps", engine_profile, METH_VARARGS, "profile_steps($self, x, point, repeats=1, /)\n--\n\nNanoseconds per step, summed over images and repeats."},
    {"activation", engine_activation, METH_VARARGS, "activation($self, x, point, node, /)\n--\n\nValues of one node's tensor, float32 (n, h, w, active channels)."},
    {NULL, NULL, 0, NULL},
};
static PyMemberDef members[] = {
    {"points", T_OBJECT, offsetof(engine_object, points), READONLY, "Bound points by name, fraction and sub-net."},
    {"active", T_OBJECT, offsetof(engine_object, active), READONLY, "The key selected last."},
    {"plan", T_OBJECT, offsetof(engine_object, plan), READONLY, "The plan."},
    {"threads", T_INT, offsetof(engine_object, threads), 0, "Threads a run uses, at most the plan's."},
    {NULL, 0, 0, 0, NULL},
};
static PyGetSetDef getset[] = {
    {"arena_bytes", get_arena_bytes, NULL, "Bytes held of activations and of the steps of the point that ran last.", NULL},
    {"kept_bytes", get_kept_bytes, NULL, "Bytes held of the last run, for extend.", NULL},
    {"last_macs", get_last_macs, NULL, "Multiply-accumulates per image that the last call computed; 0 before the first.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot slots[] = {
    {Py_tp_new, engine_new},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_call, engine_call},
    {Py_tp_methods, methods},
    {Py_tp_members, members},
    {Py_tp_getset, getset},
    {Py_tp_doc, "Engine(plan, *, input_shape, outputs)\n--\n\nRuns points of one plan."},
    {0, NULL},
};
static PyType_Spec spec = {"dynadnn._core.Engine", sizeof(engine_object), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots};

int dn_py_add_engine(PyObject *module, module_state *state) {
    state->engine_type = PyType_FromModuleAndSpec(module, &spec, NULL);
    return state->engine_type ? PyModule_AddObjectRef(module, "Engine", state->engine_type) : -1;
}
