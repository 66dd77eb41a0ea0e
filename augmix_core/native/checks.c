#include "checks.h"

#include "simd.h"

enum { MAX_SIDE = 1 << 20, MAX_PIXELS = 1 << 28 };

int can_run(int variant) {
#if defined(HAVE_X86)
    switch (variant) {
        case AVX512:
            return __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni") &&
                   __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("bmi2");
        case AVX2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
    }
#endif
    return variant == PORTABLE;
}

int check(int holds, const char *rule) {
    if (!holds) PyErr_SetString(PyExc_ValueError, rule);
    return holds;
}

int check_image(int height, int width) {
    return check(height >= 1 && width >= 1 && height <= MAX_SIDE && width <= MAX_SIDE &&
                     (int64_t)height * width <= MAX_PIXELS,
                 "height and width must be at least 1, and an image at most 2**28 pixels");
}

int check_variant(int variant) {
    if (can_run(variant)) return 1;
    PyErr_SetString(PyExc_RuntimeError, "this processor lacks the instructions of that variant");
    return 0;
}
