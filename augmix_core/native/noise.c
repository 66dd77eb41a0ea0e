#include "noise.h"

#include <string.h>

#include "philox.h"
#include "simd.h"

ALWAYS_INLINE void draw_words_body(uint32_t *target, size_t count, uint64_t key, uint32_t first) {
    Blocks blocks;
    for (size_t done = 0; done < count; done += 4 * BLOCKS_AT_ONCE) {
        memset(&blocks, 0, sizeof blocks);
        for (uint32_t i = 0; i < BLOCKS_AT_ONCE; i++) blocks.word[0][i] = first + (uint32_t)(done / 4) + i;
        philox_body(&blocks, BLOCKS_AT_ONCE, key);
        uint32_t drawn[4 * BLOCKS_AT_ONCE];
        for (int i = 0; i < BLOCKS_AT_ONCE; i++)
            for (int k = 0; k < 4; k++) drawn[4 * i + k] = blocks.word[k][i];
        size_t left = count - done;
        memcpy(target + done, drawn, (left < 4 * BLOCKS_AT_ONCE ? left : 4 * BLOCKS_AT_ONCE) * sizeof *target);
    }
}

ALWAYS_INLINE void draw_levels_body(const uint8_t *levels, const uint32_t *words, const uint32_t *table,
                                    uint8_t *target, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t word = words[i], entry = table[(uint32_t)levels[i] << 8 | (word & 255)];
        target[i] = (uint8_t)((word >> 8) < (entry >> 8) ? word : entry);
    }
}

static void draw_words_portable(uint32_t *target, size_t count, uint64_t key, uint32_t first) {
    draw_words_body(target, count, key, first);
}
static void draw_levels_portable(const uint8_t *levels, const uint32_t *words, const uint32_t *table, uint8_t *target,
                                 size_t count) {
    draw_levels_body(levels, words, table, target, count);
}
#if defined(HAVE_X86)
WITH_AVX2 static void draw_words_avx2(uint32_t *target, size_t count, uint64_t key, uint32_t first) {
    draw_words_body(target, count, key, first);
}
WITH_AVX512 static void draw_words_avx512(uint32_t *target, size_t count, uint64_t key, uint32_t first) {
    draw_words_body(target, count, key, first);
}
WITH_AVX2 static void draw_levels_avx2(const uint8_t *levels, const uint32_t *words, const uint32_t *table,
                                       uint8_t *target, size_t count) {
    draw_levels_body(levels, words, table, target, count);
}
WITH_AVX512 static void draw_levels_avx512(const uint8_t *levels, const uint32_t *words, const uint32_t *table,
                                           uint8_t *target, size_t count) {
    draw_levels_body(levels, words, table, target, count);
}
#endif

void draw_words(int variant, uint32_t *target, size_t count, uint64_t key, uint32_t first) {
    SELECT(variant, draw_words)(target, count, key, first);
}

void draw_levels(int variant, const uint8_t *levels, const uint32_t *words, const uint32_t *table, uint8_t *target,
                 size_t count) {
    SELECT(variant, draw_levels)(levels, words, table, target, count);
}

void displace(uint8_t *image, int height, int width, int reach, int passes, const uint32_t *words) {
    uint32_t bound = 2 * (uint32_t)reach;
    for (int pass = 0; pass < passes; pass++)
        for (int y = height - reach; y > reach; y--)
            for (int x = width - reach; x > reach; x--) {
                uint32_t word = *words++;
                int dx = (int)((word & 0xFFFF) * bound >> 16) - reach, dy = (int)((word >> 16) * bound >> 16) - reach;
                memcpy(image + 3 * ((size_t)y * (size_t)width + (size_t)x),
                       image + 3 * ((size_t)(y + dy) * (size_t)width + (size_t)(x + dx)), 3);
            }
}
