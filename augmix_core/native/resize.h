/* Pillow's antialiased bilinear resize of 8-bit RGB, bit for bit. */
#ifndef AUGMIX_RESIZE_H
#define AUGMIX_RESIZE_H

#include <stddef.h>
#include <stdint.h>

/* source: (height, width, 3), rows row_stride >= 3 * width bytes apart; only the rows' own bytes are read.
   target: contiguous (out_height, out_width, 3), not overlapping source. All sizes are at least 1.
   variant: one of simd.h that this processor has.
   Returns 0, or -1 when memory is short; target is then untouched. */
int resize_bilinear(int variant, const uint8_t *source, ptrdiff_t row_stride, int height, int width,
                    uint8_t *target, int out_height, int out_width);

/* Mirrors (height, width, 3) left to right, in place. */
void mirror_rows(uint8_t *image, int height, int width);

#endif
