#include "warp.h"

#include <stdlib.h>
#include <string.h>

#include "simd.h"

/* Between two rows of `length` values. */
ALWAYS_INLINE void mix_rows(const float *upper, const float *lower, float share, float *target, size_t length) {
    for (size_t i = 0; i < length; i++) target[i] = upper[i] + (lower[i] - upper[i]) * share;
}

/* A pixel of up to four values, at any address. */
typedef float Pixel __attribute__((vector_size(16), aligned(4), may_alias));
enum { LANES = sizeof(Pixel) / sizeof(float) };

/* Adds a row of 3 channels that is resized along x to a row of pixels. The next pixel of the last one is the last one. */
ALWAYS_INLINE void add_pixels(const float *row, Pixel *total, const int32_t *before, const float *fraction, int width) {
    int next = width > 1 ? 3 : 0;
    for (int x = 0; x < width; x++) {
        const float *near = row + 3 * before[x];
        Pixel first = *(const Pixel *)near, second = *(const Pixel *)(near + next);
        total[x] += first + (second - first) * fraction[x];
    }
}

/* The same for any number of channels. */
ALWAYS_INLINE void add_values(const float *row, float *total, const int32_t *before, const float *fraction, int width,
                              int channels) {
    int next = width > 1 ? channels : 0;
    for (int x = 0; x < width; x++) {
        const float *near = row + before[x] * (ptrdiff_t)channels;
        for (int c = 0; c < channels; c++) total[c] += near[c] + (near[next + c] - near[c]) * fraction[x];
        total += channels;
    }
}

typedef struct {
    const float *source;
    float *target, *row; /* row: one of the source, and LANES more */
    Pixel *total;        /* width */
    int height, width, channels, count;
    Axis rows, columns;
} Zooms;

ALWAYS_INLINE void zooms_body(const Zooms *zooms) {
    const Zooms z = *zooms;
    size_t line = (size_t)z.width * (size_t)z.channels, next = z.height > 1 ? line : 0;
    for (int y = 0; y < z.height; y++) {
        float *target = z.target + (size_t)y * line;
        memset(target, 0, line * sizeof *target);
        memset(z.total, 0, (size_t)z.width * sizeof *z.total);
        for (size_t i = 0; i < (size_t)z.count; i++) {
            size_t at = i * (size_t)z.height + (size_t)y;
            const float *upper = z.source + (size_t)z.rows.before[at] * line;
            const int32_t *before = z.columns.before + i * (size_t)z.width;
            const float *fraction = z.columns.fraction + i * (size_t)z.width;
            mix_rows(upper, upper + next, z.rows.fraction[at], z.row, line);
            if (z.channels == 3)
                add_pixels(z.row, z.total, before, fraction, z.width);
            else
                add_values(z.row, target, before, fraction, z.width, z.channels);
        }
        for (int x = 0; x < z.width && z.channels == 3; x++) memcpy(target + 3 * x, z.total + x, 3 * sizeof *target);
    }
}

static void zooms_portable(const Zooms *zooms) { zooms_body(zooms); }
#if defined(HAVE_X86)
WITH_AVX2 static void zooms_avx2(const Zooms *zooms) { zooms_body(zooms); }
WITH_AVX512 static void zooms_avx512(const Zooms *zooms) { zooms_body(zooms); }
#endif

int sum_of_zooms(int variant, const float *source, float *target, int height, int width, int channels, Axis rows,
                 Axis columns, int count) {
    size_t line = (size_t)width * (size_t)channels;
    float *row = calloc(line + LANES, sizeof *row);
    Pixel *total = malloc((size_t)width * sizeof *total);
    int failed = row == NULL || total == NULL;
    if (!failed) {
        Zooms zooms = {source, target, row, total, height, width, channels, count, rows, columns};
        SELECT(variant, zooms)(&zooms);
    }
    free(row);
    free(total);
    return failed ? -1 : 0;
}

/* The whole number at or below a value, which an int can hold. */
ALWAYS_INLINE int floor_of(float value) {
    int whole = (int)value;
    return whole - (value < (float)whole);
}

/* The four pixels around a place, and how far it lies from the first ones. */
typedef struct {
    size_t upper_left, upper_right, lower_left, lower_right;
    float share_x, share_y;
} Place;

ALWAYS_INLINE Place place_of(float y, float x, int height, int width, Mode mode) {
    int above = floor_of(y), before = floor_of(x);
    size_t upper = (size_t)beyond_edges(above, height, mode) * (size_t)width;
    size_t lower = (size_t)beyond_edges(above + 1, height, mode) * (size_t)width;
    size_t left = (size_t)beyond_edges(before, width, mode), right = (size_t)beyond_edges(before + 1, width, mode);
    return (Place){upper + left, upper + right, lower + left, lower + right, x - (float)before, y - (float)above};
}

/* 3 channels; one value past the source is read. */
static void sample_pixels(const float *source, float *target, int height, int width, const float *y, const float *x,
                          Mode mode) {
    for (size_t i = 0; i < (size_t)height * (size_t)width; i++) {
        Place at = place_of(y[i], x[i], height, width, mode);
        Pixel upper = *(const Pixel *)(source + 3 * at.upper_left), lower = *(const Pixel *)(source + 3 * at.lower_left);
        upper += (*(const Pixel *)(source + 3 * at.upper_right) - upper) * at.share_x;
        lower += (*(const Pixel *)(source + 3 * at.lower_right) - lower) * at.share_x;
        upper += (lower - upper) * at.share_y;
        memcpy(target + 3 * i, &upper, 3 * sizeof *target);
    }
}

static void sample_values(const float *source, float *target, int height, int width, int channels, const float *y,
                          const float *x, Mode mode) {
    size_t pixel = (size_t)channels;
    for (size_t i = 0; i < (size_t)height * (size_t)width; i++) {
        Place at = place_of(y[i], x[i], height, width, mode);
        for (size_t c = 0; c < pixel; c++) {
            float upper = source[pixel * at.upper_left + c], lower = source[pixel * at.lower_left + c];
            upper += (source[pixel * at.upper_right + c] - upper) * at.share_x;
            lower += (source[pixel * at.lower_right + c] - lower) * at.share_x;
            *target++ = upper + (lower - upper) * at.share_y;
        }
    }
}

int sample(const float *source, float *target, int height, int width, int channels, const float *y, const float *x,
           Mode mode) {
    if (channels != 3) {
        sample_values(source, target, height, width, channels, y, x, mode);
        return 0;
    }
    size_t values = 3 * (size_t)height * (size_t)width;
    float *copy = malloc((values + 1) * sizeof *copy);
    if (copy == NULL) return -1;
    memcpy(copy, source, values * sizeof *copy);
    copy[values] = 0;
    sample_pixels(copy, target, height, width, y, x, mode);
    free(copy);
    return 0;
}
