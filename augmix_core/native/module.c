/* The Python module _augmix_native: checks buffers, releases the GIL, calls the kernels.

   It is private to augmix_core.backends, which checks what users give. Here every size is checked against every buffer
   once more, because a mistake would be a crash. Only the stable ABI of Python 3.11 is used: one build serves all. */
#include "checks.h"

#include <math.h>

#include "corrupt.h"
#include "permutation.h"
#include "plan.h"
#include "planes.h"
#include "resize.h"
#include "simd.h"
#include "slide.h"
#include "view.h"

/* Raised with every change of a function's arguments, of Plan or of Rule; augmix_core.backends asks for its own. */
enum { INTERFACE = 4 };

enum { MAX_VIEWS = 8 };

static int is_magnitude(Op op, double magnitude) {
    if (!isfinite(magnitude)) return 0;
    if (op == POSTERIZE) return magnitude >= 1 && magnitude <= 8;
    if (op == SOLARIZE) return magnitude >= 0 && magnitude <= 256;
    if (op >= COLOR) return magnitude >= 0;
    return 1;
}

static int is_level(double level) { return level >= 0 && level <= 10; }

static int is_plan(const Plan *plan, int width) {
    int64_t total = plan->q15_weight[0];
    if (plan->q15_weight[0] < 0) return 0;
    for (int chain = 0; chain < width; chain++) {
        total += plan->q15_weight[chain + 1];
        if (plan->q15_weight[chain + 1] < 0 || plan->depth[chain] > MAX_DEPTH) return 0;
        for (int k = 0; k < plan->depth[chain]; k++)
            if (plan->op[chain][k] >= OP_COUNT || !is_magnitude(plan->op[chain][k], plan->magnitude[chain][k]))
                return 0;
    }
    return total == ONE_Q15;
}

static PyObject *variants(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    PyObject *names = PyList_New(0);
    static const char *const NAMES[] = {"portable", "avx2", "avx512"};
    for (int variant = AVX512; names != NULL && variant >= PORTABLE; variant--) {
        if (!can_run(variant)) continue;
        PyObject *name = PyUnicode_FromString(NAMES[variant]);
        if (name == NULL || PyList_Append(names, name) < 0) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *draw_plans(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer ids, epochs, rules, plans;
    unsigned long long seed;
    int views, variant;
    PlanLaw law;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*Kiiiddddpi:draw_plans", &ids, &epochs, &rules, &plans, &seed, &views,
                          &law.width, &law.depth, &law.alpha, &law.lowest, &law.severity, &law.levels,
                          &law.is_binned, &variant))
        return NULL;
    law.seed = seed;
    law.rules = rules.buf;
    law.op_count = (int)(rules.len / (Py_ssize_t)sizeof(Rule));
    Py_ssize_t count = ids.len / 8;
    int sound = check_variant(variant) &&
                check(law.width >= 1 && law.width <= MAX_WIDTH && views >= 1 && views <= MAX_VIEWS &&
                          law.depth >= -1 && law.depth != 0 && law.depth <= MAX_DEPTH,
                      "views, width or depth is out of range") &&
                check(law.op_count >= 1 && law.op_count <= OP_COUNT &&
                          rules.len == law.op_count * (Py_ssize_t)sizeof(Rule) && is_level(law.lowest) &&
                          is_level(law.severity) && law.levels >= 1 && law.alpha > 0 && isfinite(law.alpha),
                      "rules must be Rule, one for each op; levels lie in 0 to 10, and alpha above 0") &&
                check(epochs.len == count * 4 && plans.len == count * (views - 1) * (Py_ssize_t)sizeof(Plan),
                      "ids, epochs and plans must be int64, uint32 and Plan, one for each sample (and view)");
    if (sound) {
        const int64_t *id = ids.buf;
        const uint32_t *epoch = epochs.buf;
        Plan *plan = plans.buf;
        Py_BEGIN_ALLOW_THREADS;
        for (Py_ssize_t n = 0; n < count; n++)
            for (int view = 1; view < views; view++)
                draw_plan(variant, plan++, &law, (uint64_t)id[n], epoch[n], (uint32_t)view);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&ids);
    PyBuffer_Release(&epochs);
    PyBuffer_Release(&rules);
    PyBuffer_Release(&plans);
    if (!sound) return NULL;
    Py_RETURN_NONE;
}

/* All samples, without the GIL. Returns 0, or -1 when memory is short. */
static int render_all(const uint8_t *images, Py_ssize_t count, int height, int width, const Plan *plans, int views,
                      int chains, int fill, int variant, uint8_t *target, const Output *output) {
    size_t view_values = CHANNELS * (size_t)height * (size_t)width;
    size_t view_bytes = view_values * (output->is_float ? sizeof(float) : 1);
    Studio *studio = open_studio(variant, height, width, chains, (uint8_t)fill);
    if (studio == NULL) return -1;
    for (Py_ssize_t n = 0; n < count; n++) {
        const uint8_t *image = images + (size_t)n * view_values;
        load_clean(studio, image);
        write_clean(studio, image, target, output);
        target += view_bytes;
        for (int view = 1; view < views; view++, target += view_bytes)
            write_view(studio, plans++, chains, target, output);
    }
    close_studio(studio);
    return 0;
}

static PyObject *render(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer images, plans, target;
    int height, width, views, chains, fill, variant;
    Output output;
    float *scale = output.scale, *shift = output.shift;
    if (!PyArg_ParseTuple(arguments, "y*y*w*iiiiiipp(fff)(fff):render", &images, &plans, &target, &height, &width,
                          &views, &chains, &fill, &variant, &output.interleaved, &output.is_float, &scale[0],
                          &scale[1], &scale[2], &shift[0], &shift[1], &shift[2]))
        return NULL;
    int failed = 0;
    int sound = check_image(height, width) && check_variant(variant) &&
                check(views >= 1 && views <= MAX_VIEWS && chains >= 1 && chains <= MAX_WIDTH && fill >= 0 &&
                          fill <= 255,
                      "views, chains or fill is out of range");
    if (sound) {
        Py_ssize_t image_bytes = CHANNELS * (Py_ssize_t)height * width, count = images.len / image_bytes;
        Py_ssize_t value_bytes = output.is_float ? (Py_ssize_t)sizeof(float) : 1;
        sound = check(images.len == count * image_bytes &&
                          plans.len == count * (views - 1) * (Py_ssize_t)sizeof(Plan) &&
                          target.len == count * views * image_bytes * value_bytes,
                      "images, plans and target differ in the number of samples");
        for (Py_ssize_t i = 0; sound && i < count * (views - 1); i++)
            sound = check(is_plan((const Plan *)plans.buf + i, chains), "a plan is malformed");
        if (sound) {
            Py_BEGIN_ALLOW_THREADS;
            failed = render_all(images.buf, count, height, width, plans.buf, views, chains, fill, variant, target.buf,
                                &output);
            Py_END_ALLOW_THREADS;
        }
    }
    PyBuffer_Release(&images);
    PyBuffer_Release(&plans);
    PyBuffer_Release(&target);
    if (!sound) return NULL;
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *apply_op(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer image, target;
    int height, width, op, fill, variant;
    double magnitude;
    if (!PyArg_ParseTuple(arguments, "y*w*iiidii:apply_op", &image, &target, &height, &width, &op, &magnitude, &fill,
                          &variant))
        return NULL;
    Studio *studio = NULL;
    int sound = check_image(height, width) && check_variant(variant) &&
                check(op >= 0 && op < OP_COUNT && is_magnitude((Op)op, magnitude) && fill >= 0 && fill <= 255,
                      "op, magnitude or fill is out of range") &&
                check(image.len == CHANNELS * (Py_ssize_t)height * width && target.len == image.len,
                      "image and target must be (height, width, 3) uint8");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        studio = open_studio(variant, height, width, 1, (uint8_t)fill);
        if (studio != NULL) {
            load_clean(studio, image.buf);
            write_op(studio, (Op)op, magnitude, target.buf);
            close_studio(studio);
        }
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&image);
    PyBuffer_Release(&target);
    if (!sound) return NULL;
    if (studio == NULL) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *resize_box(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer image, target;
    int height, width, left, top, box_width, box_height, out_height, out_width, is_mirrored, variant, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiiiiiipi:resize_box", &image, &target, &height, &width, &left, &top,
                          &box_width, &box_height, &out_height, &out_width, &is_mirrored, &variant))
        return NULL;
    int sound = check_image(height, width) && check_image(out_height, out_width) && check_variant(variant) &&
                check(left >= 0 && top >= 0 && box_width >= 1 && box_height >= 1 && left <= width - box_width &&
                          top <= height - box_height,
                      "the box must lie inside the image") &&
                check(image.len == CHANNELS * (Py_ssize_t)height * width &&
                          target.len == CHANNELS * (Py_ssize_t)out_height * out_width,
                      "image and target must be (height, width, 3) uint8");
    if (sound) {
        const uint8_t *source = (const uint8_t *)image.buf + CHANNELS * ((size_t)top * (size_t)width + (size_t)left);
        Py_BEGIN_ALLOW_THREADS;
        failed = resize_bilinear(variant, source, CHANNELS * (ptrdiff_t)width, box_height, box_width, target.buf,
                                 out_height, out_width);
        if (is_mirrored && !failed) mirror_rows(target.buf, out_height, out_width);
        Py_END_ALLOW_THREADS;
    }
    PyBuffer_Release(&image);
    PyBuffer_Release(&target);
    if (!sound) return NULL;
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static int can_permute(const int64_t *index, const int64_t *size, const int64_t *epoch, const int64_t *window,
                       Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++)
        if (size[i] < 1 || size[i] > (int64_t)1 << 53 || index[i] < 0 || index[i] >= size[i] || epoch[i] < 0 ||
            epoch[i] > UINT32_MAX || window[i] < 0 || window[i] > INT32_MAX)
            return 0;
    return 1;
}

static PyObject *native_permute(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[4], *index = &buffers[0];
    unsigned long long key;
    int purpose;
    if (!PyArg_ParseTuple(arguments, "w*y*y*y*Ki:permute", index, &buffers[1], &buffers[2], &buffers[3], &key, &purpose))
        return NULL;
    Py_ssize_t count = index->len / (Py_ssize_t)sizeof(int64_t);
    int sound = check(purpose >= 0 && purpose < 256, "a purpose is a byte");
    for (int i = 0; i < 4; i++)
        sound = sound && check(buffers[i].len == count * (Py_ssize_t)sizeof(int64_t), "all must be (N,) int64");
    sound = sound && check(can_permute(index->buf, buffers[1].buf, buffers[2].buf, buffers[3].buf, count),
                           "indices lie below their sizes, sizes in 1 .. 2**53, epochs and windows in their words");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        permute(index->buf, buffers[1].buf, buffers[2].buf, buffers[3].buf, (size_t)count, key, (uint32_t)purpose);
        Py_END_ALLOW_THREADS;
    }
    for (int i = 0; i < 4; i++) PyBuffer_Release(&buffers[i]);
    if (!sound) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"variants", variants, METH_NOARGS, "Names of the variants that run here, fastest first."},
    {"draw_plans", draw_plans, METH_VARARGS, "Fill an array of Plan."},
    {"render", render, METH_VARARGS, "Images and plans to views."},
    {"apply_op", apply_op, METH_VARARGS, "One op on one image."},
    {"resize_box", resize_box, METH_VARARGS, "Cut a box, resize it, antialiased bilinear, and perhaps mirror it."},
    {"permute", native_permute, METH_VARARGS, "Send indices where keyed permutations send them."},
    {"draw_words", native_draw_words, METH_VARARGS, "Fill an array with the words of a stream."},
    {"draw_levels", native_draw_levels, METH_VARARGS, "Noise: a level drawn for each level."},
    {"displace", native_displace, METH_VARARGS, "Glass: pixels become their neighbours, in place."},
    {"sum_channels", native_sum_channels, METH_VARARGS, "The sums of red, green and blue."},
    {"look_up", native_look_up, METH_VARARGS, "Levels through tables by channel or by the largest level."},
    {"correlate", native_correlate, METH_VARARGS, "Weighted sums of neighbours."},
    {"multiply", native_multiply, METH_VARARGS, "A product of matrices, summed in order."},
    {"sum_of_zooms", native_sum_of_zooms, METH_VARARGS, "The sum of some enlarged images."},
    {"sample", native_sample, METH_VARARGS, "An image at given coordinates."},
    {"measure_distances", native_measure_distances, METH_VARARGS, "How far each pixel is from the nearest one found."},
    {NULL, NULL, 0, NULL},
};

/* Under the GIL. The tables are filled only once: another import must not touch what other threads are reading. */
static int prepare(PyObject *module) {
    static int is_prepared;
    if (!is_prepared) {
        prepare_planes();
        prepare_slide();
        is_prepared = 1;
    }
    return PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0 ||
                   PyModule_AddIntConstant(module, "PLAN_BYTES", sizeof(Plan)) < 0 ||
                   PyModule_AddIntConstant(module, "RULE_BYTES", sizeof(Rule)) < 0
               ? -1
               : 0;
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)prepare}, {0, NULL}};

static PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, "_augmix_native", "AugMix kernels.", 0, METHODS, SLOTS, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__augmix_native(void) { return PyModuleDef_Init(&MODULE); }
