/* train_functions.c - losses, augmentation and halting rules for Python. */
#include "python/train_functions.h"

/* ---- losses ---- */

typedef struct loss_call {
    PyArrayObject *outputs, *targets, *weight;
    PyObject *loss, *gradient;
    size_t n, k;
    float scale;
} loss_call;

static int shape_matches(PyArrayObject *array, npy_intp n, npy_intp k, const char *name) {
    if (PyArray_DIM(array, 0) == n && (PyArray_NDIM(array) == 1 || PyArray_DIM(array, 1) == k)) return 0;
    PyErr_Format(PyExc_ValueError, "%s does not match the outputs' shape (%zd, %zd)", name, (Py_ssize_t)n, (Py_ssize_t)k);
    return -1;
}

/* Checks the arrays and makes room for the result; d is an array to add to, or NULL. */
static int begin_loss(loss_call *c, PyObject *outputs, PyObject *targets, int target_type, int target_dims, PyObject *weight, PyObject *d) {
    int ok;
    c->outputs = dn_py_array(outputs, NPY_FLOAT32, 2, "outputs");
    c->targets = c->outputs ? dn_py_array(targets, target_type, target_dims, "targets") : NULL;
    if (!c->targets) return -1;
    c->weight = dn_py_array_or_none(weight, NPY_FLOAT32, 1, "weight", &ok);
    if (!ok) return -1;
    npy_intp *shape = PyArray_DIMS(c->outputs);
    if (shape_matches(c->targets, shape[0], shape[1], "targets") < 0 || (c->weight && shape_matches(c->weight, shape[0], 0, "weight") < 0)) return -1;
    PyArrayObject *given = dn_py_array_or_none(d, NPY_FLOAT32, 2, "d_logits", &ok);
    if (!ok || (given && shape_matches(given, shape[0], shape[1], "d_logits") < 0)) return -1;
    if (given && !PyArray_ISWRITEABLE(given)) {
        PyErr_SetString(PyExc_ValueError, "d_logits is read-only");
        return -1;
    }
    c->n = (size_t)shape[0];
    c->k = (size_t)shape[1];
    c->loss = PyArray_SimpleNew(1, shape, NPY_FLOAT32);
    c->gradient = given ? Py_NewRef((PyObject *)given) : PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    if (c->loss && c->gradient) return 0;
    Py_XDECREF(c->loss);
    Py_XDECREF(c->gradient);
    return -1;
}

static PyObject *end_loss(loss_call *c, PyObject *module, dn_status status, const dn_error *err) {
    if (status == DN_OK) return Py_BuildValue("(NN)", c->loss, c->gradient);
    Py_DECREF(c->loss);
    Py_DECREF(c->gradient);
    return dn_py_raise(dn_py_state(module), status, err);
}

static void *data(PyArrayObject *array) { return array ? PyArray_DATA(array) : NULL; }
static float *floats(PyObject *array) { return PyArray_DATA((PyArrayObject *)array); }

static PyObject *cross_entropy(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"logits", "labels", "weight", "smoothing", "scale", NULL};
    PyObject *logits, *labels, *weight = NULL;
    float smoothing = 0, scale = 1;
    loss_call c = {0};
    dn_error err = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|Off:cross_entropy", names, &logits, &labels, &weight, &smoothing, &scale)) return NULL;
    if (begin_loss(&c, logits, labels, NPY_INT64, 1, weight, NULL) < 0) return NULL;
    dn_status status = dn_loss_cross_entropy(data(c.outputs), data(c.targets), data(c.weight), c.n, c.k, smoothing, scale, floats(c.loss), floats(c.gradient), &err);
    return end_loss(&c, module, status, &err);
}

static PyObject *distillation(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"logits", "teacher", "weight", "temperature", "scale", "d_logits", NULL};
    PyObject *logits, *teacher, *weight = NULL, *d = NULL;
    float temperature = 4, scale = 1;
    loss_call c = {0};
    dn_error err = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|OffO:distillation", names, &logits, &teacher, &weight, &temperature, &scale, &d)) return NULL;
    if (begin_loss(&c, logits, teacher, NPY_FLOAT32, 2, weight, d) < 0) return NULL;
    int accumulate = d && d != Py_None;
    dn_status status = dn_loss_distillation(data(c.outputs), data(c.targets), data(c.weight), c.n, c.k, temperature, scale, accumulate, floats(c.loss), floats(c.gradient), &err);
    return end_loss(&c, module, status, &err);
}

static PyObject *mse(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"outputs", "targets", "weight", "scale", NULL};
    PyObject *outputs, *targets, *weight = NULL;
    float scale = 1;
    loss_call c = {0};
    dn_error err = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|Of:mse", names, &outputs, &targets, &weight, &scale)) return NULL;
    if (begin_loss(&c, outputs, targets, NPY_FLOAT32, 2, weight, NULL) < 0) return NULL;
    dn_status status = dn_loss_mse(data(c.outputs), data(c.targets), data(c.weight), c.n, c.k, scale, floats(c.loss), floats(c.gradient), &err);
    return end_loss(&c, module, status, &err);
}

/* ---- augmentation ---- */

static PyObject *augment(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"images", "index", "flip", "crop", "shift", "fill", "seed", "epoch", "threads", "out", "cutout", "cutout_fill", NULL};
    PyObject *images_object, *index_object, *out_object = NULL, *fill_object = NULL;
    dn_augment how = {0};
    unsigned long long seed = 0;
    int threads = 1, ok;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|$piibKIiOiO:augment", names, &images_object, &index_object, &how.flip, &how.crop, &how.shift, &how.fill, &seed, &how.epoch, &threads,
                                     &out_object, &how.cutout, &fill_object))
        return NULL;
    how.seed = seed;
    PyArrayObject *images = dn_py_array(images_object, NPY_UINT8, 4, "images"), *index = images ? dn_py_array(index_object, NPY_INT64, 1, "index") : NULL;
    if (!index) return NULL;
    npy_intp *shape = PyArray_DIMS(images), wanted[4] = {PyArray_DIM(index, 0), shape[1], shape[2], shape[3]};
    PyArrayObject *given = dn_py_array_or_none(out_object, NPY_UINT8, 4, "out", &ok);
    if (!ok) return NULL;
    if (given && (!PyArray_ISWRITEABLE(given) || !PyArray_CompareLists(PyArray_DIMS(given), wanted, 4))) return PyErr_Format(PyExc_ValueError, "out must be writeable and have one image per index");
    PyArrayObject *colour = dn_py_array_or_none(fill_object, NPY_UINT8, 1, "cutout_fill", &ok);
    if (!ok) return NULL;
    if (colour && PyArray_SIZE(colour) != shape[3]) return PyErr_Format(PyExc_ValueError, "cutout_fill must have %zd entries, one per channel", (Py_ssize_t)shape[3]);
    how.cutout_fill = colour ? PyArray_DATA(colour) : NULL;
    PyObject *out = given ? Py_NewRef((PyObject *)given) : PyArray_SimpleNew(4, wanted, NPY_UINT8);
    if (!out) return NULL;
    dn_error err = {0};
    dn_status status;
    Py_BEGIN_ALLOW_THREADS
    status = dn_augment_batch(PyArray_DATA(images), (size_t)shape[0], (size_t)shape[1], (size_t)shape[2], (size_t)shape[3], PyArray_DATA(index), (size_t)wanted[0], &how, threads,
                              PyArray_DATA((PyArrayObject *)out), &err);
    Py_END_ALLOW_THREADS
    if (status == DN_OK) return out;
    Py_DECREF(out);
    return dn_py_raise(dn_py_state(module), status, &err);
}

static PyObject *augment_flips(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"index", "seed", "epoch", NULL};
    (void)module;
    PyObject *index_object;
    unsigned long long seed;
    dn_augment how = {.flip = 1};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O$KI:augment_flips", names, &index_object, &seed, &how.epoch)) return NULL;
    how.seed = seed;
    PyArrayObject *index = dn_py_array(index_object, NPY_INT64, 1, "index");
    PyObject *out = index ? PyArray_SimpleNew(1, PyArray_DIMS(index), NPY_BOOL) : NULL;
    if (out) dn_augment_flips(PyArray_DATA(index), (size_t)PyArray_SIZE(index), &how, PyArray_DATA((PyArrayObject *)out));
    return out;
}

/* ---- halting ---- */

static PyObject *halt_one(PyObject *args, PyObject *kwargs, const char *format, int (*rule)(const dn_halting *, const double *, size_t)) {
    static char *names[] = {"history", "patience", "min_gain", NULL};
    PyObject *history;
    int patience;
    double min_gain;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &history, &patience, &min_gain)) return NULL;
    PyArrayObject *values = dn_py_array(history, NPY_FLOAT64, 1, "history");
    if (!values) return NULL;
    dn_halting how = {patience, min_gain};
    return PyBool_FromLong(rule(&how, PyArray_DATA(values), (size_t)PyArray_SIZE(values)));
}

static PyObject *halt_training(PyObject *module, PyObject *args, PyObject *kwargs) { return (void)module, halt_one(args, kwargs, "Oid:halt_training", dn_halt_training); }
static PyObject *halt_teacher(PyObject *module, PyObject *args, PyObject *kwargs) { return (void)module, halt_one(args, kwargs, "Oid:halt_teacher", dn_halt_teacher); }

static PyObject *halt_trainee(PyObject *module, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"student", "trainee", "patience", "min_gain", NULL};
    (void)module;
    PyObject *student_object, *trainee_object;
    dn_halting how = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOid:halt_trainee", names, &student_object, &trainee_object, &how.patience, &how.min_gain)) return NULL;
    PyArrayObject *student = dn_py_array(student_object, NPY_FLOAT64, 1, "student"), *trainee = student ? dn_py_array(trainee_object, NPY_FLOAT64, 1, "trainee") : NULL;
    if (!trainee) return NULL;
    if (PyArray_SIZE(student) != PyArray_SIZE(trainee)) return PyErr_Format(PyExc_ValueError, "student and trainee must have one loss per epoch each");
    return PyBool_FromLong(dn_halt_trainee(&how, PyArray_DATA(student), PyArray_DATA(trainee), (size_t)PyArray_SIZE(student)));
}

#define KEYWORDS(f) (PyCFunction)(void (*)(void))(f), METH_VARARGS | METH_KEYWORDS
PyMethodDef dn_train_functions[] = {
    {"cross_entropy", KEYWORDS(cross_entropy), "cross_entropy(logits, labels, weight=None, smoothing=0.0, scale=1.0)\n--\n\n(loss per sample, gradient of the weighted mean times scale)."},
    {"distillation", KEYWORDS(distillation), "distillation(logits, teacher, weight=None, temperature=4.0, scale=1.0, d_logits=None)\n--\n\nThe same; adds to d_logits in place if given."},
    {"mse", KEYWORDS(mse), "mse(outputs, targets, weight=None, scale=1.0)\n--\n\nThe same."},
    {"augment", KEYWORDS(augment),
     "augment(images, index, *, flip=False, crop=0, shift=0, fill=0, seed=0, epoch=0, threads=1, out=None, cutout=0, cutout_fill=None)\n--\n\nimages[index], each flipped, cropped, shifted and "
     "cut out of at random."},
    {"augment_flips", KEYWORDS(augment_flips), "augment_flips(index, *, seed, epoch)\n--\n\nWhich images augment mirrors with flip=True."},
    {"halt_training", KEYWORDS(halt_training), "halt_training(history, patience, min_gain)\n--\n\nTrue if the last epochs gained too little."},
    {"halt_trainee", KEYWORDS(halt_trainee), "halt_trainee(student, trainee, patience, min_gain)\n--\n\nTrue if the student needs its trainee no longer."},
    {"halt_teacher", KEYWORDS(halt_teacher), "halt_teacher(history, patience, min_gain)\n--\n\nTrue if the teacher's averages have settled."},
    {NULL, NULL, 0, NULL},
};
