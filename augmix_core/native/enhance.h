/* Pillow's ImageEnhance where a look-up table is not enough: colour and sharpness, and the mean that contrast needs. */
#ifndef AUGMIX_ENHANCE_H
#define AUGMIX_ENHANCE_H

#include "planes.h"

void enhance_color(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double factor);
void enhance_sharpness(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double factor);

/* The mean grey level, rounded as ImageEnhance.Contrast rounds it. */
int mean_grey(int variant, const uint8_t *planes, const Shape *shape);

#endif
