/* search_type.c - dynadnn._core.NSGA2 and the free functions on objective vectors. */
#include "python/common.h"

#include <structmember.h>

typedef struct nsga2_object {
    PyObject_HEAD
    PyObject *weak_references;
    dn_nsga2 *search;
    npy_intp population, variables, objectives, constraints;
    int asked; /* the vectors handed out last are waiting for their objectives */
    int busy;  /* a call works on the search without the GIL */
} nsga2_object;

/* Fills values[count] from a fast call; names that are not given stay NULL, the first `required` must be. */
static int parse(const char *function, PyObject *const *args, Py_ssize_t given, PyObject *names, const char *const *wanted, int count, int required, PyObject **values) {
    if (given > count) {
        PyErr_Format(PyExc_TypeError, "%s takes at most %d arguments, not %zd", function, count, given);
        return -1;
    }
    for (int i = 0; i < count; i++) values[i] = i < given ? args[i] : NULL;
    for (Py_ssize_t k = 0; names && k < PyTuple_GET_SIZE(names); k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k);
        int i = 0;
        while (i < count && PyUnicode_CompareWithASCIIString(name, wanted[i]) != 0) i++;
        if (i == count || values[i]) {
            PyErr_Format(PyExc_TypeError, "%s got %s argument '%U'", function, i == count ? "an unexpected" : "twice the", name);
            return -1;
        }
        values[i] = args[given + k];
    }
    for (int i = 0; i < required; i++) {
        if (values[i]) continue;
        PyErr_Format(PyExc_TypeError, "%s needs the argument '%s'", function, wanted[i]);
        return -1;
    }
    return 0;
}

static PyArrayObject *expect_shape(PyArrayObject *array, npy_intp rows, npy_intp columns, const char *name) {
    if (!array || (PyArray_DIM(array, 0) == rows && PyArray_DIM(array, 1) == columns)) return array;
    PyErr_Format(PyExc_ValueError, "%s has shape (%zd, %zd), expected (%zd, %zd)", name, (Py_ssize_t)PyArray_DIM(array, 0), (Py_ssize_t)PyArray_DIM(array, 1), (Py_ssize_t)rows,
                 (Py_ssize_t)columns);
    return NULL;
}

/* ---- the type ---- */

/* -1 with RuntimeError if another thread is in the middle of a call. */
static int claim(nsga2_object *self) {
    if (self->busy) {
        PyErr_SetString(PyExc_RuntimeError, "this search is in use by another thread");
        return -1;
    }
    self->busy = 1;
    return 0;
}

static PyObject *nsga2_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"lower", "upper", "integer", "objectives", "constraints", "population", "crossover_probability", "crossover_eta", "mutation_probability", "mutation_eta",
                            "seed", NULL};
    PyObject *lower_object, *upper_object, *integer_object;
    dn_nsga2_options options = {0};
    unsigned long long seed;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "OOOiiiddddK:NSGA2", names, &lower_object, &upper_object, &integer_object, &options.objectives, &options.constraints,
                                     &options.population, &options.crossover_probability, &options.crossover_eta, &options.mutation_probability, &options.mutation_eta, &seed))
        return NULL;
    PyArrayObject *lower = dn_py_array(lower_object, NPY_FLOAT64, 1, "lower"), *upper = lower ? dn_py_array(upper_object, NPY_FLOAT64, 1, "upper") : NULL;
    PyArrayObject *integer = upper ? dn_py_array(integer_object, NPY_BOOL, 1, "integer") : NULL;
    if (!integer) return NULL;
    npy_intp variables = PyArray_DIM(lower, 0);
    if (PyArray_DIM(upper, 0) != variables || PyArray_DIM(integer, 0) != variables || variables > INT32_MAX) {
        PyErr_Format(PyExc_ValueError, "lower, upper and integer have %zd, %zd and %zd elements, expected equal numbers", (Py_ssize_t)variables, (Py_ssize_t)PyArray_DIM(upper, 0),
                     (Py_ssize_t)PyArray_DIM(integer, 0));
        return NULL;
    }
    options.variables = (int32_t)variables;
    options.lower = PyArray_DATA(lower);
    options.upper = PyArray_DATA(upper);
    options.integer = PyArray_DATA(integer);
    options.seed = seed;
    nsga2_object *self = (nsga2_object *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    dn_error err = {0};
    dn_status status = dn_nsga2_new(&self->search, &options, &err);
    if (status != DN_OK) {
        dn_py_raise(dn_py_state((PyObject *)self), status, &err);
        Py_DECREF(self);
        return NULL;
    }
    self->population = options.population;
    self->variables = variables;
    self->objectives = options.objectives;
    self->constraints = options.constraints;
    return (PyObject *)self;
}

static int nsga2_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void nsga2_dealloc(PyObject *object) {
    nsga2_object *self = (nsga2_object *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->weak_references) PyObject_ClearWeakRefs(object);
    dn_nsga2_free(self->search);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyObject *nsga2_ask(PyObject *object, PyObject *unused) {
    (void)unused;
    nsga2_object *self = (nsga2_object *)object;
    npy_intp shape[2] = {self->population, self->variables};
    PyObject *result = PyArray_SimpleNew(2, shape, NPY_FLOAT64);
    if (!result || claim(self) < 0) {
        Py_XDECREF(result);
        return NULL;
    }
    double *out = PyArray_DATA((PyArrayObject *)result);
    const double *x;
    size_t rows;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_nsga2_ask(self->search, &x, &rows, &err);
    if (status == DN_OK) memcpy(out, x, rows * (size_t)self->variables * sizeof *out);
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (status != DN_OK) {
        Py_DECREF(result);
        return dn_py_raise(dn_py_state(object), status, &err);
    }
    self->asked = 1;
    return result;
}

/* The first row of told that differs from what was asked, or rows. */
static size_t first_foreign(const double *told, const double *asked, size_t rows, size_t columns) {
    for (size_t i = 0; i < rows * columns; i++) {
        if (told[i] != asked[i]) return i / columns;
    }
    return rows;
}

static PyObject *nsga2_tell(PyObject *object, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    static const char *const wanted[] = {"x", "f", "g"};
    nsga2_object *self = (nsga2_object *)object;
    PyObject *values[3];
    int ok;
    if (parse("tell", args, given, names, wanted, 3, 2, values) < 0) return NULL;
    PyArrayObject *x = expect_shape(dn_py_array(values[0], NPY_FLOAT64, 2, "x"), self->population, self->variables, "x");
    PyArrayObject *f = x ? expect_shape(dn_py_array(values[1], NPY_FLOAT64, 2, "f"), self->population, self->objectives, "f") : NULL;
    PyArrayObject *g = f ? dn_py_array_or_none(values[2], NPY_FLOAT64, 2, "g", &ok) : NULL;
    if (!f || !ok || (g && !expect_shape(g, self->population, self->constraints, "g"))) return NULL;
    if (!self->asked) {
        PyErr_SetString(PyExc_RuntimeError, "tell comes after ask: there are no rows waiting for their objectives");
        return NULL;
    }
    if (claim(self) < 0) return NULL;
    const double *x_data = PyArray_DATA(x), *f_data = PyArray_DATA(f), *g_data = g ? PyArray_DATA(g) : NULL, *asked;
    size_t rows, foreign = 0;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_nsga2_ask(self->search, &asked, &rows, &err);
    if (status == DN_OK) {
        foreign = first_foreign(x_data, asked, rows, (size_t)self->variables);
        if (foreign == rows) status = dn_nsga2_tell(self->search, f_data, g_data, &err);
    }
    Py_END_ALLOW_THREADS
    self->busy = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    if (foreign != rows) return PyErr_Format(PyExc_ValueError, "x: row %zu is not the row that was asked for; tell the rows of ask() unchanged and in their order", foreign);
    self->asked = 0;
    Py_RETURN_NONE;
}

static PyObject *nsga2_start(PyObject *object, PyObject *x_object) {
    nsga2_object *self = (nsga2_object *)object;
    PyArrayObject *x = dn_py_array(x_object, NPY_FLOAT64, 2, "x");
    if (!x || !expect_shape(x, PyArray_DIM(x, 0), self->variables, "x") || claim(self) < 0) return NULL;
    dn_error err = {0};
    dn_status status = dn_nsga2_seed(self->search, PyArray_DATA(x), (size_t)PyArray_DIM(x, 0), &err);
    self->busy = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    self->asked = 0;
    Py_RETURN_NONE;
}

static PyObject *nsga2_population(PyObject *object, PyObject *unused) {
    (void)unused;
    nsga2_object *self = (nsga2_object *)object;
    if (claim(self) < 0) return NULL;
    npy_intp rows = (npy_intp)dn_nsga2_size(self->search), x_shape[2] = {rows, self->variables}, f_shape[2] = {rows, self->objectives}, g_shape[2] = {rows, self->constraints};
    PyObject *x = PyArray_SimpleNew(2, x_shape, NPY_FLOAT64), *f = PyArray_SimpleNew(2, f_shape, NPY_FLOAT64), *g = PyArray_SimpleNew(2, g_shape, NPY_FLOAT64);
    PyObject *rank = PyArray_SimpleNew(1, &rows, NPY_INT32), *result = NULL;
    if (x && f && g && rank) {
        dn_nsga2_population(self->search, PyArray_DATA((PyArrayObject *)x), PyArray_DATA((PyArrayObject *)f), PyArray_DATA((PyArrayObject *)g), PyArray_DATA((PyArrayObject *)rank));
        result = PyTuple_Pack(4, x, f, g, rank);
    }
    self->busy = 0;
    Py_XDECREF(x);
    Py_XDECREF(f);
    Py_XDECREF(g);
    Py_XDECREF(rank);
    return result;
}

static PyObject *nsga2_state(PyObject *object, PyObject *unused) {
    (void)unused;
    nsga2_object *self = (nsga2_object *)object;
    if (claim(self) < 0) return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)dn_nsga2_state_bytes(self->search));
    if (bytes) dn_nsga2_get_state(self->search, (uint8_t *)PyBytes_AS_STRING(bytes));
    self->busy = 0;
    return bytes;
}

static PyObject *nsga2_set_state(PyObject *object, PyObject *bytes) {
    nsga2_object *self = (nsga2_object *)object;
    if (!PyBytes_Check(bytes)) return PyErr_Format(PyExc_TypeError, "state must be bytes, not %.80s", Py_TYPE(bytes)->tp_name);
    if (claim(self) < 0) return NULL;
    dn_error err = {0};
    dn_status status = dn_nsga2_set_state(self->search, (const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes), &err);
    self->busy = 0;
    if (status != DN_OK) return dn_py_raise(dn_py_state(object), status, &err);
    self->asked = 0;
    Py_RETURN_NONE;
}

static PyObject *nsga2_size(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(dn_nsga2_size(((nsga2_object *)object)->search));
}

static PyObject *nsga2_generation(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromLongLong(dn_nsga2_generation(((nsga2_object *)object)->search));
}

static PyMethodDef nsga2_methods[] = {
    {"ask", nsga2_ask, METH_NOARGS, "ask($self, /)\n--\n\nVectors to evaluate, (population, variables); the same until tell."},
    {"tell", (PyCFunction)(void (*)(void))nsga2_tell, METH_FASTCALL | METH_KEYWORDS, "tell($self, x, f, g=None)\n--\n\nObjectives and constraints of the rows asked for."},
    {"start", nsga2_start, METH_O, "start($self, x, /)\n--\n\nVectors to begin with, before the first tell."},
    {"population", nsga2_population, METH_NOARGS, "population($self, /)\n--\n\nCopies: x, f, g, rank."},
    {"state", nsga2_state, METH_NOARGS, "state($self, /)\n--\n\nExact state as bytes."},
    {"set_state", nsga2_set_state, METH_O, "set_state($self, state, /)\n--\n\nContinue from state() of a search with the same options."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef nsga2_properties[] = {
    {"size", nsga2_size, NULL, "Rows of the population; 0 before the first tell.", NULL},
    {"generation", nsga2_generation, NULL, "Number of tells.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef nsga2_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(nsga2_object, weak_references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot nsga2_slots[] = {
    {Py_tp_doc, "NSGA2(lower, upper, integer, objectives, constraints, population, crossover_probability, crossover_eta, mutation_probability, mutation_eta, seed)\n--\n\n"
                "NSGA-II by ask and tell."},
    {Py_tp_new, nsga2_new},
    {Py_tp_dealloc, nsga2_dealloc},
    {Py_tp_traverse, nsga2_traverse},
    {Py_tp_methods, nsga2_methods},
    {Py_tp_getset, nsga2_properties},
    {Py_tp_members, nsga2_members},
    {0, NULL},
};

static PyType_Spec nsga2_spec = {
    .name = "dynadnn._core.NSGA2",
    .basicsize = sizeof(nsga2_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = nsga2_slots,
};

/* ---- free functions ---- */

static int parse_isa(PyObject *object, dn_isa *isa) {
    *isa = DN_ISA_BEST;
    if (!object || object == Py_None) return 0;
    for (int i = DN_ISA_REF; PyUnicode_Check(object) && i <= DN_ISA_BEST; i++) {
        *isa = (dn_isa)i;
        if (PyUnicode_CompareWithASCIIString(object, dn_isa_name(*isa)) == 0) return 0;
    }
    PyErr_Format(PyExc_ValueError, "isa must be None or one of 'ref', 'avx2', 'avxvnni', 'avx512', 'neon', 'neondot', 'best', not %R", object);
    return -1;
}

static PyObject *nondominated_rank(PyObject *module, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    static const char *const wanted[] = {"f", "isa"};
    PyObject *values[2];
    dn_isa isa;
    if (parse("nondominated_rank", args, given, names, wanted, 2, 1, values) < 0 || parse_isa(values[1], &isa) < 0) return NULL;
    PyArrayObject *f = dn_py_array(values[0], NPY_FLOAT64, 2, "f");
    PyObject *result = f ? PyArray_SimpleNew(1, PyArray_DIMS(f), NPY_INT32) : NULL;
    if (!result) return NULL;
    int32_t *rank = PyArray_DATA((PyArrayObject *)result);
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_nondominated_rank(PyArray_DATA(f), (size_t)PyArray_DIM(f, 0), (size_t)PyArray_DIM(f, 1), isa, rank, &err);
    Py_END_ALLOW_THREADS
    if (status == DN_OK) return result;
    Py_DECREF(result);
    return dn_py_raise(dn_py_state(module), status, &err);
}

static PyObject *crowding_distance(PyObject *module, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    static const char *const wanted[] = {"f", "rank"};
    PyObject *values[2];
    if (parse("crowding_distance", args, given, names, wanted, 2, 2, values) < 0) return NULL;
    PyArrayObject *f = dn_py_array(values[0], NPY_FLOAT64, 2, "f"), *rank = f ? dn_py_array(values[1], NPY_INT32, 1, "rank") : NULL;
    if (!rank) return NULL;
    if (PyArray_DIM(rank, 0) != PyArray_DIM(f, 0))
        return PyErr_Format(PyExc_ValueError, "rank has %zd elements, f has %zd rows", (Py_ssize_t)PyArray_DIM(rank, 0), (Py_ssize_t)PyArray_DIM(f, 0));
    PyObject *result = PyArray_SimpleNew(1, PyArray_DIMS(f), NPY_FLOAT64);
    if (!result) return NULL;
    double *distance = PyArray_DATA((PyArrayObject *)result);
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_crowding_distance(PyArray_DATA(f), PyArray_DATA(rank), (size_t)PyArray_DIM(f, 0), (size_t)PyArray_DIM(f, 1), distance, &err);
    Py_END_ALLOW_THREADS
    if (status == DN_OK) return result;
    Py_DECREF(result);
    return dn_py_raise(dn_py_state(module), status, &err);
}

static PyObject *hypervolume(PyObject *module, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    static const char *const wanted[] = {"f", "ref"};
    PyObject *values[2];
    if (parse("hypervolume", args, given, names, wanted, 2, 2, values) < 0) return NULL;
    PyArrayObject *f = dn_py_array(values[0], NPY_FLOAT64, 2, "f"), *ref = f ? dn_py_array(values[1], NPY_FLOAT64, 1, "ref") : NULL;
    if (!ref) return NULL;
    if (PyArray_DIM(ref, 0) != PyArray_DIM(f, 1))
        return PyErr_Format(PyExc_ValueError, "ref has %zd elements, f has %zd objectives", (Py_ssize_t)PyArray_DIM(ref, 0), (Py_ssize_t)PyArray_DIM(f, 1));
    double volume;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_hypervolume(PyArray_DATA(f), (size_t)PyArray_DIM(f, 0), (size_t)PyArray_DIM(f, 1), PyArray_DATA(ref), &volume, &err);
    Py_END_ALLOW_THREADS
    return status == DN_OK ? PyFloat_FromDouble(volume) : dn_py_raise(dn_py_state(module), status, &err);
}

static PyObject *igd_plus(PyObject *module, PyObject *const *args, Py_ssize_t given, PyObject *names) {
    static const char *const wanted[] = {"f", "ref"};
    PyObject *values[2];
    if (parse("igd_plus", args, given, names, wanted, 2, 2, values) < 0) return NULL;
    PyArrayObject *f = dn_py_array(values[0], NPY_FLOAT64, 2, "f"), *ref = f ? dn_py_array(values[1], NPY_FLOAT64, 2, "ref") : NULL;
    if (!ref) return NULL;
    if (PyArray_DIM(ref, 1) != PyArray_DIM(f, 1))
        return PyErr_Format(PyExc_ValueError, "ref has %zd objectives, f has %zd", (Py_ssize_t)PyArray_DIM(ref, 1), (Py_ssize_t)PyArray_DIM(f, 1));
    double value;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_igd_plus(PyArray_DATA(f), (size_t)PyArray_DIM(f, 0), PyArray_DATA(ref), (size_t)PyArray_DIM(ref, 0), (size_t)PyArray_DIM(f, 1), &value, &err);
    Py_END_ALLOW_THREADS
    return status == DN_OK ? PyFloat_FromDouble(value) : dn_py_raise(dn_py_state(module), status, &err);
}

#define FAST(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL | METH_KEYWORDS
static PyMethodDef functions[] = {
    {"nondominated_rank", FAST(nondominated_rank), "nondominated_rank($module, f, isa=None)\n--\n\nFront of each row, 0 the best."},
    {"crowding_distance", FAST(crowding_distance), "crowding_distance($module, f, rank)\n--\n\nCrowding distance among rows of equal rank."},
    {"hypervolume", FAST(hypervolume), "hypervolume($module, f, ref)\n--\n\nExact hypervolume bounded by ref."},
    {"igd_plus", FAST(igd_plus), "igd_plus($module, f, ref)\n--\n\nIGD+ of f against the rows of ref."},
    {NULL, NULL, 0, NULL},
};

int dn_py_add_search(PyObject *module, module_state *state) {
    state->nsga2_type = PyType_FromModuleAndSpec(module, &nsga2_spec, NULL);
    if (!state->nsga2_type || PyModule_AddType(module, (PyTypeObject *)state->nsga2_type) < 0) return -1;
    return PyModule_AddFunctions(module, functions);
}
