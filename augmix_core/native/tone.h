/* Levels through tables. image and target: (pixels, 3) uint8. */
#ifndef AUGMIX_TONE_H
#define AUGMIX_TONE_H

#include <stddef.h>
#include <stdint.h>

/* The sum of each channel's levels. */
void sum_channels(int variant, const uint8_t *image, size_t pixels, uint64_t sums[3]);

/* target[i, c] = tables[c][image[i, c]] */
void look_up_channels(const uint8_t *image, const uint8_t *tables, uint8_t *target, size_t pixels);

/* target[i, c] = table[m][image[i, c]], m the largest of the pixel's three levels. */
void look_up_by_value(const uint8_t *image, const uint8_t *table, uint8_t *target, size_t pixels);

#endif
