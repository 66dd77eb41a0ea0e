#include "filter.h"

#include <stdlib.h>
#include <string.h>

#include "simd.h"

/* Values that are summed side by side: 3 channels of 224 or 32 pixels are a multiple, and the sums fit the registers. */
enum { CHUNK = 48 };

/* target[y * length + i] = sum over t of weights[y * weights_pitch + t] * source[y * source_pitch + steps[t] + i], for
   y < rows and i < length. The source is read up to CHUNK values past what that needs. */
typedef struct {
    const float *source;
    size_t source_pitch;
    const ptrdiff_t *steps;
    const float *weights;
    size_t weights_pitch;
    int count;
    float *target;
    int rows;
    size_t length;
} Sums;

/* Written with vectors, because compilers keep an array of 48 sums in memory. A Vector holds CHUNK / COUNT values, at
   any address. A chunk goes down all rows, so that what its taps reach stays in the cache; ROWS of them at a time, so
   that additions need not wait for each other. */
#define DEFINE_SUM_UP(name, attribute, Vector, COUNT, ROWS)                                                          \
    attribute static void name(const Sums *sums) {                                                                   \
        const ptrdiff_t *steps = sums->steps;                                                                        \
        size_t rows = (size_t)sums->rows, length = sums->length;                                                     \
        int count = sums->count;                                                                                     \
        for (size_t start = 0; start < length; start += CHUNK) {                                                     \
            size_t bytes = (length - start < CHUNK ? length - start : CHUNK) * sizeof(float);                        \
            for (size_t y = 0; y < rows; y += ROWS) {                                                                \
                const float *source[ROWS], *weights[ROWS];                                                           \
                Vector sum[ROWS][COUNT] = {{{0}}};                                                                   \
                _Pragma("GCC unroll 2") for (size_t r = 0; r < ROWS; r++) {                                          \
                    size_t row = y + r < rows ? y + r : y; /* an odd last row is summed twice */                     \
                    source[r] = sums->source + row * sums->source_pitch + start;                                     \
                    weights[r] = sums->weights + row * sums->weights_pitch;                                          \
                }                                                                                                    \
                for (int t = 0; t < count; t++)                                                                      \
                    _Pragma("GCC unroll 2") for (int r = 0; r < ROWS; r++) {                                         \
                        const Vector *from = (const Vector *)(source[r] + steps[t]);                                 \
                        _Pragma("GCC unroll 12") for (int i = 0; i < COUNT; i++)                                     \
                            sum[r][i] += weights[r][t] * from[i];                                                    \
                    }                                                                                                \
                for (size_t r = 0; r < ROWS && y + r < rows; r++)                                                    \
                    memcpy(sums->target + (y + r) * length + start, sum[r], bytes);                                  \
            }                                                                                                        \
        }                                                                                                            \
    }

typedef float Vector4 __attribute__((vector_size(16), aligned(4), may_alias));
DEFINE_SUM_UP(sum_up_portable, , Vector4, 12, 1)
#if defined(HAVE_X86)
typedef float Vector8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float Vector16 __attribute__((vector_size(64), aligned(4), may_alias));
DEFINE_SUM_UP(sum_up_avx2, WITH_AVX2, Vector8, 6, 2)
DEFINE_SUM_UP(sum_up_avx512, WITH_AVX512, Vector16, 3, 2)
#endif

/* Room for values that a chunk may be read from; NULL when memory is short. */
static float *open_values(size_t count) {
    float *values = malloc((count + CHUNK) * sizeof *values);
    if (values != NULL) memset(values + count, 0, CHUNK * sizeof *values);
    return values;
}

/* How far the taps reach along one axis, before and after; 0 or more. */
static void measure_reach(const int32_t *offsets, int count, int *before, int *after) {
    *before = *after = 0;
    for (int t = 0; t < count; t++) {
        if (-offsets[2 * t] > *before) *before = -offsets[2 * t];
        if (offsets[2 * t] > *after) *after = offsets[2 * t];
    }
}

static void pad_row(const float *source, float *target, int width, int channels, int left, int right, Mode mode) {
    size_t pixel = (size_t)channels;
    float *middle = target + (size_t)left * pixel;
    memcpy(middle, source, (size_t)width * pixel * sizeof(float));
    for (int i = 0; i < left + right; i++) {
        int x = i < left ? i - left : width + i - left;
        memcpy(middle + x * (ptrdiff_t)pixel, source + (size_t)beyond_edges(x, width, mode) * pixel,
               pixel * sizeof(float));
    }
}

int correlate(int variant, const float *source, float *target, int height, int width, int channels,
              const int32_t *offsets, const float *weights, int count, Mode mode) {
    int top, bottom, left, right;
    measure_reach(offsets, count, &top, &bottom);
    measure_reach(offsets + 1, count, &left, &right);
    size_t line = (size_t)width * (size_t)channels, pitch = line + (size_t)(left + right) * (size_t)channels;
    float *padded = open_values((size_t)(top + height + bottom) * pitch);
    ptrdiff_t *steps = malloc((size_t)count * sizeof *steps);
    int failed = padded == NULL || steps == NULL;
    if (!failed) {
        for (int y = -top; y < height + bottom; y++)
            pad_row(source + (size_t)beyond_edges(y, height, mode) * line, padded + (size_t)(top + y) * pitch, width,
                    channels, left, right, mode);
        for (int t = 0; t < count; t++)
            steps[t] = offsets[2 * t] * (ptrdiff_t)pitch + offsets[2 * t + 1] * (ptrdiff_t)channels;
        const float *first = padded + (size_t)top * pitch + (size_t)left * (size_t)channels;
        Sums sums = {first, pitch, steps, weights, 0, count, target, height, line};
        SELECT(variant, sum_up)(&sums);
    }
    free(padded);
    free(steps);
    return failed ? -1 : 0;
}

int multiply(int variant, const float *left, const float *right, float *target, int rows, int inner, int columns) {
    size_t line = (size_t)columns, values = (size_t)inner * line;
    float *lines = open_values(values);
    ptrdiff_t *steps = malloc((size_t)inner * sizeof *steps);
    int failed = lines == NULL || steps == NULL;
    if (!failed) {
        memcpy(lines, right, values * sizeof *lines);
        for (int k = 0; k < inner; k++) steps[k] = k * (ptrdiff_t)line;
        Sums sums = {lines, 0, steps, left, (size_t)inner, inner, target, rows, line};
        SELECT(variant, sum_up)(&sums);
    }
    free(lines);
    free(steps);
    return failed ? -1 : 0;
}
