/* The corruptions' part of the Python module: methods that take buffers and sizes. */
#ifndef AUGMIX_CORRUPT_H
#define AUGMIX_CORRUPT_H

#include "checks.h"

PyObject *native_draw_words(PyObject *self, PyObject *arguments);
PyObject *native_draw_levels(PyObject *self, PyObject *arguments);
PyObject *native_displace(PyObject *self, PyObject *arguments);
PyObject *native_sum_channels(PyObject *self, PyObject *arguments);
PyObject *native_look_up(PyObject *self, PyObject *arguments);
PyObject *native_correlate(PyObject *self, PyObject *arguments);
PyObject *native_multiply(PyObject *self, PyObject *arguments);
PyObject *native_sum_of_zooms(PyObject *self, PyObject *arguments);
PyObject *native_sample(PyObject *self, PyObject *arguments);
PyObject *native_measure_distances(PyObject *self, PyObject *arguments);

#endif
