/* module.c - dynadnn._core: the module, its state and its free functions. */
#define DN_IMPORT_ARRAY
#include "python/common.h"

static PyModuleDef module_def;

/* The module that defines one of the type's bases: instances of Python subclasses find their way too. */
static PyObject *defining_module(PyTypeObject *type) {
#if PY_VERSION_HEX >= 0x030b0000
    return PyType_GetModuleByDef(type, &module_def);
#else
    PyObject *mro = type->tp_mro;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(mro); i++) {
        PyTypeObject *base = (PyTypeObject *)PyTuple_GET_ITEM(mro, i);
        if (!(base->tp_flags & Py_TPFLAGS_HEAPTYPE)) continue;
        PyObject *module = ((PyHeapTypeObject *)base)->ht_module;
        if (module && PyModule_Check(module) && PyModule_GetDef(module) == &module_def) return module;
    }
    Py_FatalError("dynadnn._core: an instance of a foreign type");
#endif
}

module_state *dn_py_state(PyObject *object) {
    if (PyModule_Check(object)) return PyModule_GetState(object);
    return PyModule_GetState(defining_module(Py_TYPE(object)));
}

static PyObject *isa_info(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *found = PyList_New(0);
    if (!found) return NULL;
    for (int isa = DN_ISA_REF; isa < DN_ISA_BEST; isa++) {
        if (!dn_isa_available((dn_isa)isa)) continue;
        PyObject *name = PyUnicode_FromString(dn_isa_name((dn_isa)isa));
        if (!name || PyList_Append(found, name) < 0) {
            Py_XDECREF(name);
            Py_DECREF(found);
            return NULL;
        }
        Py_DECREF(name);
    }
    return Py_BuildValue("{s:s,s:s,s:N,s:s}", "version", dn_version(), "compiler", dn_compiler(), "isa_found", found, "isa_used", dn_isa_name(dn_isa_effective(DN_ISA_BEST)));
}

static PyObject *alloc_fail_at(PyObject *module, PyObject *n) {
    (void)module;
    long long count = PyLong_AsLongLong(n);
    if (count == -1 && PyErr_Occurred()) return NULL;
    dn_alloc_fail_at(count);
    Py_RETURN_NONE;
}

static PyObject *alloc_fail_left(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromLongLong(dn_alloc_fail_left());
}

static PyObject *alloc_live(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromLongLong(dn_alloc_live());
}

static PyObject *probe(PyObject *module, PyObject *name) {
    (void)module;
    const char *kernel = PyUnicode_AsUTF8(name);
    if (!kernel) return NULL;
    double speed;
    Py_BEGIN_ALLOW_THREADS
    speed = dn_probe(kernel);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(speed);
}

static PyMethodDef functions[] = {
    {"config", isa_info, METH_NOARGS, "config()\n--\n\nVersion, compiler, ISA levels found and used."},
    {"probe", probe, METH_O, "probe(kernel, /)\n--\n\nMultiply-accumulates per second of a kernel's dot product on registers alone, one core; 0 if it has none."},
    {"alloc_fail_at", alloc_fail_at, METH_O, "alloc_fail_at(n, /)\n--\n\nFor tests: the n-th allocation of the core from now fails (0: none)."},
    {"alloc_fail_left", alloc_fail_left, METH_NOARGS, "alloc_fail_left()\n--\n\nWhat is left of alloc_fail_at's n."},
    {"alloc_live", alloc_live, METH_NOARGS, "alloc_live()\n--\n\nBlocks of the core not yet freed."},
    {NULL, NULL, 0, NULL},
};

static int get_class(PyObject *errors, const char *name, PyObject **out) {
    *out = PyObject_GetAttrString(errors, name);
    return *out ? 0 : -1;
}

static int module_exec(PyObject *module) {
    module_state *state = PyModule_GetState(module);
    if (PyArray_ImportNumPyAPI() < 0) return -1;
    PyObject *errors = PyImport_ImportModule("dynadnn._errors");
    if (!errors) return -1;
    int bad = get_class(errors, "GraphError", &state->graph_error) || get_class(errors, "PointError", &state->point_error) ||
              get_class(errors, "NonFiniteError", &state->nonfinite_error) || get_class(errors, "UnsupportedError", &state->unsupported_error);
    Py_DECREF(errors);
    if (bad) return -1;
    if (dn_py_add_graph(module, state) < 0 || dn_py_add_plan(module, state) < 0 || dn_py_add_engine(module, state) < 0) return -1;
    return dn_py_add_train(module, state) < 0 || dn_py_add_search(module, state) < 0 ? -1 : 0;
}

#define FOR_EACH_REFERENCE(X)                                                                                                   \
    X(graph_error) X(point_error) X(nonfinite_error) X(unsupported_error) X(graph_type) X(plan_type) X(point_type) X(engine_type) \
    X(trainer_type) X(nsga2_type)

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    module_state *state = PyModule_GetState(module);
#define VISIT(field) Py_VISIT(state->field);
    FOR_EACH_REFERENCE(VISIT)
#undef VISIT
    return 0;
}

static int module_clear(PyObject *module) {
    module_state *state = PyModule_GetState(module);
#define CLEAR(field) Py_CLEAR(state->field);
    FOR_EACH_REFERENCE(CLEAR)
#undef CLEAR
    return 0;
}

static void module_free(void *module) { (void)module_clear(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030c0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "dynadnn._core",
    .m_doc = "C core of dynadnn; use the package, not this module.",
    .m_size = sizeof(module_state),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_def); }
