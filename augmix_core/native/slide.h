/* Shears and translations: rows slide along x, or columns along y, each by its own distance.

   Pillow interpolates in double precision and truncates: a + (b - a) d, where d is the fraction of the distance. The
   kernels do it in 16 bits with the same result. For whole |b - a| <= 255 the truncated value depends only on which
   two neighbouring fractions p / q, q <= 255 (a Farey sequence), d lies between, and those are more than 1 / 65536
   apart: so between them lies a weight w / 65536 that truncates alike. A table over the 65536 cells of [0, 1) says
   where in the cell the fraction is, if there is one. Where d lies too close to a fraction for Pillow's own rounding
   to be certain, the row or column is computed in double precision as Pillow does. */
#ifndef AUGMIX_SLIDE_H
#define AUGMIX_SLIDE_H

#include "lines.h"
#include "planes.h"

/* Pillow's AFFINE (1, slope, offset, 0, 1, 0): target(x, y) = source(x + slope (y + 1/2) + offset, y).
   One of slope and offset is 0. */
void slide_rows(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double slope, double offset,
                uint8_t fill, Lines *lines);

/* Pillow's AFFINE (1, 0, 0, slope, 1, offset): target(x, y) = source(x, y + slope (x + 1/2) + offset). */
void slide_columns(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double slope,
                   double offset, uint8_t fill, Lines *lines);

/* Fills the table of fractions; called once, before anything else. */
void prepare_slide(void);

#endif
