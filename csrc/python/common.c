/* common.c - error translation, interruption and argument checks. */
#include "python/common.h"

PyObject *dn_py_raise(module_state *state, dn_status status, const dn_error *err) {
    if (PyErr_Occurred()) return NULL;
    PyObject *type = PyExc_RuntimeError;
    switch (status) {
    case DN_OK: break;
    case DN_ENOMEM: type = PyExc_MemoryError; break;
    case DN_EINVAL: type = PyExc_ValueError; break;
    case DN_EGRAPH: type = state->graph_error; break;
    case DN_EPOINT: type = state->point_error; break;
    case DN_ENONFINITE: type = state->nonfinite_error; break;
    case DN_EUNSUPPORTED: type = state->unsupported_error; break;
    case DN_EINTERRUPTED: type = PyExc_KeyboardInterrupt; break;
    }
    PyErr_SetString(type, err && err->message[0] ? err->message : "interrupted");
    return NULL;
}

static int ask_python(void *context) {
    (void)context;
    PyGILState_STATE gil = PyGILState_Ensure();
    int stop = PyErr_CheckSignals() != 0;
    PyGILState_Release(gil);
    return stop;
}

const dn_poll dn_py_poll = {ask_python, NULL};

PyArrayObject *dn_py_array(PyObject *object, int type, int ndim, const char *name) {
    if (!PyArray_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be a NumPy array, not %.80s", name, Py_TYPE(object)->tp_name);
        return NULL;
    }
    PyArrayObject *array = (PyArrayObject *)object;
    if (PyArray_TYPE(array) != type) {
        PyArray_Descr *wanted = PyArray_DescrFromType(type);
        PyErr_Format(PyExc_TypeError, "%s must have dtype %S, not %S", name, wanted, PyArray_DESCR(array));
        Py_XDECREF(wanted);
        return NULL;
    }
    if (ndim >= 0 && PyArray_NDIM(array) != ndim) {
        PyErr_Format(PyExc_ValueError, "%s must have %d dimensions, not %d", name, ndim, PyArray_NDIM(array));
        return NULL;
    }
    if (!PyArray_IS_C_CONTIGUOUS(array) || !PyArray_ISALIGNED(array) || !PyArray_ISNOTSWAPPED(array)) {
        PyErr_Format(PyExc_ValueError, "%s must be contiguous, aligned and in native byte order", name);
        return NULL;
    }
    return array;
}

PyArrayObject *dn_py_array_or_none(PyObject *object, int type, int ndim, const char *name, int *ok) {
    *ok = 1;
    if (!object || object == Py_None) return NULL;
    PyArrayObject *array = dn_py_array(object, type, ndim, name);
    *ok = array != NULL;
    return array;
}

int dn_py_image_dtype(PyArrayObject *images, const char *name, dn_dtype *dtype) {
    int type = PyArray_TYPE(images);
    if (type != NPY_UINT8 && type != NPY_FLOAT32) {
        PyErr_Format(PyExc_TypeError, "%s must be uint8 or float32, not %S", name, PyArray_DESCR(images));
        return -1;
    }
    *dtype = type == NPY_UINT8 ? DN_U8 : DN_F32;
    return 0;
}

static PyObject *available_isas(void) {
    PyObject *list = PyUnicode_FromString("");
    for (int isa = DN_ISA_REF; list && isa < DN_ISA_BEST; isa++)
        if (dn_isa_available((dn_isa)isa)) Py_SETREF(list, PyUnicode_FromFormat("%U%s%s", list, isa ? ", " : "", dn_isa_name((dn_isa)isa)));
    return list;
}

int dn_py_isa(PyObject *name, dn_isa *isa) {
    *isa = DN_ISA_BEST;
    if (!name || name == Py_None) return 0;
    for (int i = DN_ISA_REF; PyUnicode_Check(name) && i < DN_ISA_BEST; i++) {
        if (PyUnicode_CompareWithASCIIString(name, dn_isa_name((dn_isa)i)) || !dn_isa_available((dn_isa)i)) continue;
        *isa = (dn_isa)i;
        return 0;
    }
    PyObject *have = available_isas();
    if (have) PyErr_Format(PyExc_ValueError, "isa=%R is not to be had here; this CPU has %U", name, have);
    Py_XDECREF(have);
    return -1;
}
