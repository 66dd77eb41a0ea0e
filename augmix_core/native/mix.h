/* The weighted mean of up to nine images, in integers: (sum of weight x level + 16384) >> 15, weights in 1/32768. */
#ifndef AUGMIX_MIX_H
#define AUGMIX_MIX_H

#include <stddef.h>
#include <stdint.h>

/* Weights are from 0 to 32767 and add up to 32768. Reads and writes up to OVERRUN bytes past the end of each row of
   bytes. */
void mix(int variant, const uint8_t *const *sources, const int16_t *weights, int count, uint8_t *target,
         size_t length);

/* target = level x scale + shift of its channel; interleaved: channels alternate, else each has its own plane. */
void normalise(int variant, const uint8_t *view, float *target, size_t pixels, int interleaved, const float scale[3],
               const float shift[3]);

#endif
