/* Bilinear resampling of (height, width, channels) float32 images. */
#ifndef AUGMIX_WARP_H
#define AUGMIX_WARP_H

#include <stdint.h>

#include "edges.h"

/* Value k of a resized axis lies between value before[k] of the axis and the next one, whose share is fraction[k]. */
typedef struct {
    const int32_t *before;
    const float *fraction;
} Axis;

/* target = sum of `count` resized images, each of the source's size; rows and columns hold one axis after the other.
   Returns 0, or -1 when memory is short. */
int sum_of_zooms(int variant, const float *source, float *target, int height, int width, int channels, Axis rows,
                 Axis columns, int count);

/* target[i] = source at (y[i], x[i]), pixels, for each of the height * width pixels; what lies between is interpolated
   along x first. Returns 0, or -1 when memory is short. */
int sample(const float *source, float *target, int height, int width, int channels, const float *y, const float *x,
           Mode mode);

#endif
