#include "tone.h"

#include "simd.h"

/* Blocks of pixels whose sums fit 32 bits and whose loop compilers vectorise. */
enum { LINES = 16, BLOCK = 1 << 16 };

ALWAYS_INLINE void sum_body(const uint8_t *image, size_t pixels, uint64_t *sums) {
    sums[0] = sums[1] = sums[2] = 0;
    while (pixels > 0) {
        size_t block = pixels < BLOCK ? pixels : BLOCK, i = 0;
        uint32_t lines[3 * LINES] = {0};
        for (; i + LINES <= block; i += LINES)
            for (int k = 0; k < 3 * LINES; k++) lines[k] += image[3 * i + (size_t)k];
        for (; i < block; i++)
            for (int c = 0; c < 3; c++) lines[c] += image[3 * i + (size_t)c];
        for (int k = 0; k < 3 * LINES; k++) sums[k % 3] += lines[k];
        image += 3 * block;
        pixels -= block;
    }
}

static void sum_portable(const uint8_t *image, size_t pixels, uint64_t *sums) { sum_body(image, pixels, sums); }
#if defined(HAVE_X86)
WITH_AVX2 static void sum_avx2(const uint8_t *image, size_t pixels, uint64_t *sums) { sum_body(image, pixels, sums); }
WITH_AVX512 static void sum_avx512(const uint8_t *image, size_t pixels, uint64_t *sums) {
    sum_body(image, pixels, sums);
}
#endif

void sum_channels(int variant, const uint8_t *image, size_t pixels, uint64_t sums[3]) {
    SELECT(variant, sum)(image, pixels, sums);
}

void look_up_channels(const uint8_t *image, const uint8_t *tables, uint8_t *target, size_t pixels) {
    for (size_t i = 0; i < 3 * pixels; i += 3) {
        target[i] = tables[image[i]];
        target[i + 1] = tables[256 + image[i + 1]];
        target[i + 2] = tables[512 + image[i + 2]];
    }
}

void look_up_by_value(const uint8_t *image, const uint8_t *table, uint8_t *target, size_t pixels) {
    for (size_t i = 0; i < 3 * pixels; i += 3) {
        uint8_t red = image[i], green = image[i + 1], blue = image[i + 2];
        uint8_t larger = red > green ? red : green;
        const uint8_t *row = table + 256 * (larger > blue ? larger : blue);
        target[i] = row[red];
        target[i + 1] = row[green];
        target[i + 2] = row[blue];
    }
}
