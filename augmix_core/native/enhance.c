#include "enhance.h"

#include <string.h>

#include "blend.h"
#include "simd.h"

/* Image.convert("L"): ITU-R 601-2 luma in 16-bit fixed point. */
ALWAYS_INLINE int32_t grey_of(int red, int green, int blue) {
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

ALWAYS_INLINE void color_body(const uint8_t *source, uint8_t *restrict target, size_t pitch, size_t pixels,
                              float factor) {
    const uint8_t *red = source, *green = source + pitch, *blue = source + 2 * pitch;
    for (size_t i = 0; i < pixels; i++) {
        int32_t grey = grey_of(red[i], green[i], blue[i]);
        target[i] = blend(grey, red[i], factor);
        target[pitch + i] = blend(grey, green[i], factor);
        target[2 * pitch + i] = blend(grey, blue[i], factor);
    }
}

/* ImageFilter.SMOOTH is (8 neighbours + 5 centre) / 13, rounded. A thirteenth is never a half, so there are no ties,
   and the integer quotient is what Pillow's float32 sum gives. */
ALWAYS_INLINE void sharpen_row_body(const uint8_t *above, const uint8_t *row, const uint8_t *below,
                                    uint8_t *restrict out, int width, float factor) {
    for (int x = 1; x < width - 1; x++) {
        int32_t sum = above[x - 1] + above[x] + above[x + 1] + row[x - 1] + 5 * row[x] + row[x + 1] + below[x - 1] +
                      below[x] + below[x + 1];
        out[x] = blend((sum + 6) / 13, row[x], factor);
    }
}

ALWAYS_INLINE uint64_t grey_sum_body(const uint8_t *planes, size_t pitch, size_t pixels) {
    enum { BLOCK = 4096 }; /* sums of a block fit 32 bits */
    uint64_t total = 0;
    for (size_t start = 0; start < pixels; start += BLOCK) {
        size_t end = start + BLOCK < pixels ? start + BLOCK : pixels;
        int32_t sum = 0;
        for (size_t i = start; i < end; i++) sum += grey_of(planes[i], planes[pitch + i], planes[2 * pitch + i]);
        total += (uint64_t)sum;
    }
    return total;
}

static void color_portable(const uint8_t *source, uint8_t *target, size_t pitch, size_t pixels, float factor) {
    color_body(source, target, pitch, pixels, factor);
}
static void sharpen_row_portable(const uint8_t *above, const uint8_t *row, const uint8_t *below, uint8_t *out,
                                 int width, float factor) {
    sharpen_row_body(above, row, below, out, width, factor);
}
static uint64_t grey_sum_portable(const uint8_t *planes, size_t pitch, size_t pixels) {
    return grey_sum_body(planes, pitch, pixels);
}

#if defined(HAVE_X86)
WITH_AVX2 static void color_avx2(const uint8_t *source, uint8_t *target, size_t pitch, size_t pixels, float factor) {
    color_body(source, target, pitch, pixels, factor);
}
WITH_AVX2 static void sharpen_row_avx2(const uint8_t *above, const uint8_t *row, const uint8_t *below, uint8_t *out,
                                       int width, float factor) {
    sharpen_row_body(above, row, below, out, width, factor);
}
WITH_AVX2 static uint64_t grey_sum_avx2(const uint8_t *planes, size_t pitch, size_t pixels) {
    return grey_sum_body(planes, pitch, pixels);
}
WITH_AVX512 static void color_avx512(const uint8_t *source, uint8_t *target, size_t pitch, size_t pixels,
                                     float factor) {
    color_body(source, target, pitch, pixels, factor);
}
WITH_AVX512 static void sharpen_row_avx512(const uint8_t *above, const uint8_t *row, const uint8_t *below,
                                           uint8_t *out, int width, float factor) {
    sharpen_row_body(above, row, below, out, width, factor);
}
WITH_AVX512 static uint64_t grey_sum_avx512(const uint8_t *planes, size_t pitch, size_t pixels) {
    return grey_sum_body(planes, pitch, pixels);
}
#endif

void enhance_color(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double factor) {
    SELECT(variant, color)(source, target, shape->pitch, shape->pixels, (float)factor);
}

/* The filter leaves the outermost pixels alone, and with them images that are smaller than it. */
void enhance_sharpness(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double factor) {
    size_t width = (size_t)shape->width;
    for (int channel = 0; channel < CHANNELS; channel++) {
        const uint8_t *from = source + channel * shape->pitch;
        uint8_t *to = target + channel * shape->pitch;
        memcpy(to, from, shape->pixels);
        if (shape->width < 3 || shape->height < 3) continue;
        for (size_t y = 1; y + 1 < (size_t)shape->height; y++) {
            const uint8_t *row = from + y * width;
            SELECT(variant, sharpen_row)(row - width, row, row + width, to + y * width, shape->width, (float)factor);
        }
    }
}

int mean_grey(int variant, const uint8_t *planes, const Shape *shape) {
    uint64_t sum = SELECT(variant, grey_sum)(planes, shape->pitch, shape->pixels);
    return (int)((double)sum / (double)shape->pixels + 0.5);
}
