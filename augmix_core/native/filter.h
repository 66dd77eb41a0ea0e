/* Weighted sums of float32 values. Each result is one sum in the order of its weights, a product and an addition at a
   time, so that its bits are the same on every machine. */
#ifndef AUGMIX_FILTER_H
#define AUGMIX_FILTER_H

#include <stdint.h>

#include "edges.h"

/* target[y, x] = sum of weight * source[y + dy, x + dx] over `count` taps; source and target (height, width, channels),
   offsets (count, 2): dy, dx. Returns 0, or -1 when memory is short. */
int correlate(int variant, const float *source, float *target, int height, int width, int channels,
              const int32_t *offsets, const float *weights, int count, Mode mode);

/* target (rows, columns) = left (rows, inner) times right (inner, columns). Returns 0, or -1 when memory is short. */
int multiply(int variant, const float *left, const float *right, float *target, int rows, int inner, int columns);

#endif
