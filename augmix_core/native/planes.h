/* Planar images: what the kernels work on.

   A picture is three planes (red, green, blue) of height x width bytes, rows without gaps, `pitch` bytes from plane to
   plane. Each plane is followed by slack, so that kernels may read and write whole vectors: up to OVERRUN bytes, and
   four rows, past the last pixel. */
#ifndef AUGMIX_PLANES_H
#define AUGMIX_PLANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { CHANNELS = 3, OVERRUN = 64 };

typedef struct {
    int height, width;
    size_t pixels; /* height x width */
    size_t pitch;
} Shape;

Shape shape_of(int height, int width);

/* (pixels, 3) interleaved -> planes, and back. Exactly the given pixels of the interleaved side are touched. */
void split_planes(int variant, const uint8_t *interleaved, uint8_t *planes, size_t pitch, size_t pixels);
void join_planes(int variant, const uint8_t *planes, size_t pitch, uint8_t *interleaved, size_t pixels);

static inline int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

/* `count` pixels of one level in whole vectors, so up to 31 too many: what belongs there is to be written after. */
static inline void paint(uint8_t *pixels, uint8_t level, int count) {
    for (int i = 0; i < count; i += 32) memset(pixels + i, level, 32);
}

/* Fills index tables; called once, before anything else. */
void prepare_planes(void);

#endif
