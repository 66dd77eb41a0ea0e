/* Plan + image -> view: runs the chains, touching pixels as rarely as possible, and mixes them. */
#ifndef AUGMIX_VIEW_H
#define AUGMIX_VIEW_H

#include "plan.h"
#include "planes.h"

typedef struct Studio Studio;

typedef struct {
    int interleaved; /* (H, W, 3), else (3, H, W) */
    int is_float;    /* float32 = level x scale + shift, else uint8 */
    float scale[CHANNELS], shift[CHANNELS];
} Output;

/* Working memory for images of one size; NULL when memory is short. */
Studio *open_studio(int variant, int height, int width, int chains, uint8_t fill);
void close_studio(Studio *studio);

/* Takes in the clean image, (H, W, 3) uint8; what follows works on it. */
void load_clean(Studio *studio, const uint8_t *image);

/* Writes 3 H W values in the form of `output`. */
void write_clean(Studio *studio, const uint8_t *image, void *target, const Output *output);
void write_view(Studio *studio, const Plan *plan, int width, void *target, const Output *output);

/* One op on the clean image, (H, W, 3) uint8. */
void write_op(Studio *studio, Op op, double magnitude, uint8_t *target);

#endif
