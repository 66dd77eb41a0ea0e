/* Pillow's Image.blend of one value, which all enhancements end with. */
#ifndef AUGMIX_BLEND_H
#define AUGMIX_BLEND_H

#include <stdint.h>

#include "simd.h"

/* other + factor (level - other) in float32, clipped and truncated. */
ALWAYS_INLINE uint8_t blend(int32_t other, int32_t level, float factor) {
    float blended = (float)other + factor * (float)(level - other);
    blended = blended > 0.0f ? blended : 0.0f;
    return (uint8_t)(int32_t)(blended < 255.0f ? blended : 255.0f);
}

#endif
