#include "distance.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { MARGIN = 2 };

static int32_t lesser(int32_t a, int32_t b) { return a < b ? a : b; }

/* The shortest way to a pixel through those of the two rows on one side of it (row is that far away) and the one before
   it in its own row. */
static int32_t nearest(const int32_t *pixel, ptrdiff_t row, ptrdiff_t before, Steps steps) {
    const int32_t *near = pixel + row, *far = near + row;
    int32_t knight = lesser(lesser(near[-2], near[2]), lesser(far[-1], far[1])) + steps.knight;
    int32_t corner = lesser(near[-1], near[1]) + steps.corner;
    int32_t straight = lesser(near[0], pixel[before]) + steps.straight;
    return lesser(lesser(pixel[0], knight), lesser(corner, straight));
}

int measure_distances(const uint8_t *found, int32_t *target, int height, int width, Steps steps, int32_t farthest) {
    size_t line = (size_t)width + 2 * MARGIN, count = line * ((size_t)height + 2 * MARGIN);
    int32_t *padded = malloc(count * sizeof *padded);
    if (padded == NULL) return -1;
    for (size_t i = 0; i < count; i++) padded[i] = farthest;
    int32_t *first = padded + MARGIN * line + MARGIN;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            if (found[(size_t)y * (size_t)width + (size_t)x]) first[(size_t)y * line + (size_t)x] = 0;
    /* A shortest way can be walked so that its steps down or right all come last: two passes find it. */
    for (int y = 0; y < height; y++)
        for (int32_t *row = first + (size_t)y * line, *pixel = row; pixel < row + width; pixel++)
            *pixel = nearest(pixel, -(ptrdiff_t)line, -1, steps);
    for (int y = height - 1; y >= 0; y--)
        for (int32_t *row = first + (size_t)y * line, *pixel = row + width - 1; pixel >= row; pixel--)
            *pixel = nearest(pixel, (ptrdiff_t)line, 1, steps);
    for (int y = 0; y < height; y++)
        memcpy(target + (size_t)y * (size_t)width, first + (size_t)y * line, (size_t)width * sizeof *target);
    free(padded);
    return 0;
}
