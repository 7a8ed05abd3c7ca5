/* common.h - what every file of the binding shares: module state, error translation, interruption, argument checks. */
#ifndef DN_PYTHON_COMMON_H
#define DN_PYTHON_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define PY_ARRAY_UNIQUE_SYMBOL dynadnn_array_api
#ifndef DN_IMPORT_ARRAY
#define NO_IMPORT_ARRAY
#endif
#include <numpy/arrayobject.h>

#include "dynadnn.h"

typedef struct module_state {
    PyObject *graph_error, *point_error, *nonfinite_error, *unsupported_error; /* classes of dynadnn._errors */
    PyObject *graph_type, *plan_type, *point_type, *engine_type, *trainer_type, *nsga2_type;
} module_state;

/* The state of the module that defines `self`'s class, or of the module itself. */
module_state *dn_py_state(PyObject *module_or_instance);

/* Sets the Python exception for a failed status (err filled) and returns NULL. If the poll left a Python exception (KeyboardInterrupt), that one stays. */
PyObject *dn_py_raise(module_state *state, dn_status status, const dn_error *err);

/* Context for a call made without the GIL: the poll takes the GIL and runs signal handlers. Only the main thread receives signals; elsewhere it costs the GIL switch. */
extern const dn_poll dn_py_poll;

/* Borrowed view of `object` as a C-contiguous array of `type` (NPY_FLOAT32 ...) with `ndim` dimensions (-1: any), or NULL with a TypeError/ValueError naming `name`. Never casts:
 * the Python layer above converts. */
PyArrayObject *dn_py_array(PyObject *object, int type, int ndim, const char *name);
/* The same, where None gives NULL without an error; *ok says which. */
PyArrayObject *dn_py_array_or_none(PyObject *object, int type, int ndim, const char *name, int *ok);

/* The graph inside a dynadnn._core.Graph, or NULL with a TypeError. The caller keeps a reference to `object` for as long as it uses the graph. */
dn_graph *dn_py_graph(PyObject *object, module_state *state);
/* Structure of an operating point from Python: active int32 [spaces], bits int8 [nodes] or None, depth int32 [stages] or None. Pointers are borrowed from the arrays. 0 or -1. */
int dn_py_subnet(const dn_graph *graph, PyObject *active, PyObject *bits, PyObject *depth, dn_subnet *subnet);

/* The plan inside a dynadnn._core.Plan and the point inside a dynadnn._core.Point, or NULL with a TypeError. */
dn_plan *dn_py_plan(PyObject *object, module_state *state);
dn_point *dn_py_point(PyObject *object, module_state *state);
/* The element type of images: 0 with *dtype set, or -1 with a TypeError. */
int dn_py_image_dtype(PyArrayObject *images, const char *name, dn_dtype *dtype);
/* An ISA by name; None gives DN_ISA_BEST. 0 or -1 with a ValueError that lists what this CPU has. */
int dn_py_isa(PyObject *name, dn_isa *isa);

/* Each adds its types and functions to the module; -1 on error. */
int dn_py_add_graph(PyObject *module, module_state *state);
int dn_py_add_plan(PyObject *module, module_state *state);
int dn_py_add_engine(PyObject *module, module_state *state);
int dn_py_add_train(PyObject *module, module_state *state);
int dn_py_add_search(PyObject *module, module_state *state);

#endif
