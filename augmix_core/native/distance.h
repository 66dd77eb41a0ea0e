/* Distances in a plane of pixels. */
#ifndef AUGMIX_DISTANCE_H
#define AUGMIX_DISTANCE_H

#include <stdint.h>

/* The lengths of a step to a neighbour, across a corner, and as a knight of chess; the first is the shortest, and the
   others are shorter than the ways around. */
typedef struct {
    int32_t straight, corner, knight;
} Steps;

/* target = each pixel's distance from the nearest one whose byte is not 0, in steps, at most `farthest`; all of them
   (height, width). Returns 0, or -1 when memory is short. */
int measure_distances(const uint8_t *found, int32_t *target, int height, int width, Steps steps, int32_t farthest);

#endif
