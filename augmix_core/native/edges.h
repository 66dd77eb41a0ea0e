/* What lies beyond the edges of an axis, as scipy.ndimage names it. */
#ifndef AUGMIX_EDGES_H
#define AUGMIX_EDGES_H

#include <stdint.h>

#include "simd.h"

/* The edge repeated: a a | a b c; the edge within the mirror: b a | a b c; the mirror in the last pixel: c b | a b c. */
typedef enum { NEAREST, REFLECT, MIRROR, MODE_COUNT } Mode;

/* The index in 0 .. length - 1 that stands for any index. */
ALWAYS_INLINE int beyond_edges(int index, int length, Mode mode) {
    if (index >= 0 && index < length) return index;
    if (mode == NEAREST || length == 1) return index < 0 ? 0 : length - 1;
    int period = mode == REFLECT ? 2 * length : 2 * length - 2;
    int folded = index % period;
    if (folded < 0) folded += period;
    return folded < length ? folded : (mode == REFLECT ? period - 1 : period) - folded;
}

#endif
