/* What a geometric op needs to know of each row or column before it touches pixels.

   These are a few double-precision sums a line. They are written as loops over all lines without branches, which
   compilers vectorise: on small images they would otherwise take as long as the pixels. */
#ifndef AUGMIX_LINES_H
#define AUGMIX_LINES_H

#include "planes.h"
#include "simd.h"

/* Working memory for images of one shape; the arrays have max(height, width) + OVERRUN elements. */
typedef struct {
    int32_t *begin, *end; /* the target pixels that have a source */
    int32_t *is_close;    /* whether rounding may have moved begin or end */
    int32_t *shift;       /* the source lies so many pixels further on, */
    int32_t *weight;      /* and so many 1/65536 */
    int64_t *position;
    int16_t *low_weight, *carry;
    uint8_t *rows; /* (height + 1) x (width + OVERRUN) */
} Lines;

size_t lines_bytes(const Shape *shape);
Lines lines_in(uint8_t *memory, const Shape *shape);

/* The first whole number at or above `bound`, within [0, length]. Raises *is_close, which starts at 0, where
   rounding might have moved it. */
ALWAYS_INLINE int32_t first_from(double bound, int length, int32_t *is_close) {
    double bounded = bound > -0.5 ? bound : -0.5;
    bounded = bounded < length + 0.5 ? bounded : length + 0.5;
    int32_t below = (int32_t)bounded;
    double rest = bounded - below;
    *is_close |= (rest > -1e-6) & (rest < 1e-6);
    *is_close |= rest > 1 - 1e-6;
    below += rest > 0;
    return below < length ? below : length;
}

#endif
