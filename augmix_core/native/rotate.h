/* Rotation about the centre with Pillow's bilinear pixels. */
#ifndef AUGMIX_ROTATE_H
#define AUGMIX_ROTATE_H

#include "lines.h"
#include "planes.h"

void rotate(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double degrees, uint8_t fill,
            Lines *lines);

/* Whether Pillow would return a copy. */
int rotates_nothing(double degrees);

#endif
