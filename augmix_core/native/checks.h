/* What the wrappers of the Python module check alike; each sets a Python exception where it returns 0. */
#ifndef AUGMIX_CHECKS_H
#define AUGMIX_CHECKS_H

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

/* Whether this processor has the instructions of a variant; sets nothing. */
int can_run(int variant);

int check(int holds, const char *rule);
int check_image(int height, int width);
int check_variant(int variant);

#endif
