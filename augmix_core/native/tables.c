#include "tables.h"

#include <string.h>

#include "blend.h"
#include "simd.h"

void reset_tables(Tables *tables) {
    tables->identity = tables->monotone = 1; /* the values are written when something is composed */
}

static void set_all_channels(Tables *tables) {
    memcpy(tables->value[1], tables->value[0], LEVELS);
    memcpy(tables->value[2], tables->value[0], LEVELS);
    tables->identity = 0;
}

void compose_tables(int variant, Tables *pending, const Tables *then) {
    if (then->identity) return;
    if (pending->identity) {
        *pending = *then;
        return;
    }
    for (int channel = 0; channel < CHANNELS; channel++)
        apply_table(variant, then->value[channel], pending->value[channel], pending->value[channel], LEVELS);
    pending->monotone = pending->monotone && then->monotone;
}

void fill_posterize(Tables *tables, int bits_kept) {
    for (int level = 0; level < LEVELS; level++) tables->value[0][level] = (uint8_t)(level & (0xFF00 >> bits_kept));
    set_all_channels(tables);
    tables->monotone = 1;
}

void fill_solarize(Tables *tables, int threshold) {
    for (int level = 0; level < LEVELS; level++)
        tables->value[0][level] = (uint8_t)(level < threshold ? level : 255 - level);
    set_all_channels(tables);
    tables->monotone = 0;
}

ALWAYS_INLINE void stretch_body(uint8_t *table, double scale, double offset) {
    for (int level = 0; level < LEVELS; level++) {
        int stretched = (int)(level * scale + offset);
        table[level] = (uint8_t)(stretched < 0 ? 0 : stretched > 255 ? 255 : stretched);
    }
}

/* Whole quotients before / step by a multiplication: the half keeps the product at least half a step from any whole
   number, which is more than rounding can move it. */
ALWAYS_INLINE void divide_body(uint8_t *table, const int32_t *before, int32_t step) {
    double inverse = 1.0 / step;
    for (int level = 0; level < LEVELS; level++) {
        int32_t quotient = (int32_t)((before[level] + 0.5) * inverse);
        table[level] = (uint8_t)(quotient > 255 ? 255 : quotient);
    }
}

ALWAYS_INLINE void extrema_body(const uint8_t *plane, size_t length, uint8_t *low, uint8_t *high) {
    uint8_t smallest = 255, largest = 0;
    for (size_t i = 0; i < length; i++) {
        smallest = plane[i] < smallest ? plane[i] : smallest;
        largest = plane[i] > largest ? plane[i] : largest;
    }
    *low = smallest;
    *high = largest;
}

static void stretch_portable(uint8_t *table, double scale, double offset) { stretch_body(table, scale, offset); }
static void divide_portable(uint8_t *table, const int32_t *before, int32_t step) { divide_body(table, before, step); }
static void extrema_portable(const uint8_t *plane, size_t length, uint8_t *low, uint8_t *high) {
    extrema_body(plane, length, low, high);
}

/* Eight levels a step: one load and one store, where a byte at a time would wait for its stores. */
static void apply_table_portable(const uint8_t *table, const uint8_t *source, uint8_t *target, size_t length) {
    for (size_t i = 0; i < length; i += 8) {
        uint64_t levels, found = 0;
        memcpy(&levels, source + i, 8);
        for (int shift = 0; shift < 64; shift += 8) found |= (uint64_t)table[(levels >> shift) & 0xFF] << shift;
        memcpy(target + i, &found, 8);
    }
}

#if defined(HAVE_X86)
WITH_AVX2 static void stretch_avx2(uint8_t *table, double scale, double offset) { stretch_body(table, scale, offset); }
WITH_AVX512 static void stretch_avx512(uint8_t *table, double scale, double offset) {
    stretch_body(table, scale, offset);
}
WITH_AVX2 static void divide_avx2(uint8_t *table, const int32_t *before, int32_t step) {
    divide_body(table, before, step);
}
WITH_AVX512 static void divide_avx512(uint8_t *table, const int32_t *before, int32_t step) {
    divide_body(table, before, step);
}
WITH_AVX2 static void extrema_avx2(const uint8_t *plane, size_t length, uint8_t *low, uint8_t *high) {
    extrema_body(plane, length, low, high);
}
WITH_AVX512 static void extrema_avx512(const uint8_t *plane, size_t length, uint8_t *low, uint8_t *high) {
    extrema_body(plane, length, low, high);
}

/* pshufb looks up 16 entries and gives 0 where the index is negative. So step through the table in rows of 16: after k
   saturating subtractions of 16 the index is still non-negative exactly for values >= 16 k, and those take up the
   difference (exclusive or) of row k to row k - 1. Values of 128 and more, negative as signed bytes, have steps of
   their own. */
WITH_AVX2 static void apply_table_avx2(const uint8_t *table, const uint8_t *source, uint8_t *target, size_t length) {
    __m256i rows[16], sixteen = _mm256_set1_epi8(16), top = _mm256_set1_epi8((char)0x80);
    for (int k = 15; k >= 0; k--) {
        rows[k] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(table + 16 * k)));
        if (k % 8 != 7) rows[k + 1] = _mm256_xor_si256(rows[k + 1], rows[k]);
    }
    for (size_t i = 0; i < length; i += 32) {
        __m256i low = _mm256_loadu_si256((const __m256i *)(source + i)), high = _mm256_xor_si256(low, top);
        __m256i found = _mm256_xor_si256(_mm256_shuffle_epi8(rows[0], low), _mm256_shuffle_epi8(rows[8], high));
        for (int k = 1; k < 8; k++) {
            low = _mm256_subs_epi8(low, sixteen);
            high = _mm256_subs_epi8(high, sixteen);
            found = _mm256_xor_si256(found, _mm256_shuffle_epi8(rows[k], low));
            found = _mm256_xor_si256(found, _mm256_shuffle_epi8(rows[k + 8], high));
        }
        _mm256_storeu_si256((__m256i *)(target + i), found);
    }
}

/* The whole table fits four registers: each of two permutes looks up one half, bit 7 says which counts. */
WITH_AVX512 static void apply_table_avx512(const uint8_t *table, const uint8_t *source, uint8_t *target,
                                           size_t length) {
    __m512i quarter0 = _mm512_loadu_si512(table), quarter1 = _mm512_loadu_si512(table + 64);
    __m512i quarter2 = _mm512_loadu_si512(table + 128), quarter3 = _mm512_loadu_si512(table + 192);
    for (size_t i = 0; i < length; i += 64) {
        __m512i level = _mm512_loadu_si512(source + i);
        __m512i below = _mm512_permutex2var_epi8(quarter0, level, quarter1);
        __m512i above = _mm512_permutex2var_epi8(quarter2, level, quarter3);
        _mm512_storeu_si512(target + i, _mm512_mask_mov_epi8(below, _mm512_movepi8_mask(level), above));
    }
}
#endif

void apply_table(int variant, const uint8_t *table, const uint8_t *source, uint8_t *target, size_t length) {
    SELECT(variant, apply_table)(table, source, target, length);
}

/* ImageOps.autocontrast without cutoff: [low, high] stretched to [0, 255], truncated. */
void fill_autocontrast(int variant, Tables *tables, const Extrema *extrema) {
    tables->identity = 1;
    tables->monotone = 1;
    for (int channel = 0; channel < CHANNELS; channel++) {
        int low = extrema->low[channel], high = extrema->high[channel];
        if (low == 0 && high == 255) continue;
        tables->identity = 0;
    }
    for (int channel = 0; channel < CHANNELS && !tables->identity; channel++) {
        int low = extrema->low[channel], high = extrema->high[channel];
        double scale = high > low ? 255.0 / (high - low) : 1.0, offset = high > low ? -low * scale : 0.0;
        SELECT(variant, stretch)(tables->value[channel], scale, offset);
    }
}

/* ImageOps.equalize: the running count in steps of a 255th of all pixels (but those of the highest level). */
void fill_equalize(int variant, Tables *tables, Counts counts, size_t pixels) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        int last = LEVELS - 1;
        while (counts[channel][last] == 0) last--;
        int32_t step = (int32_t)((pixels - counts[channel][last]) / 255);
        int32_t before[LEVELS], running = step / 2;
        for (int level = 0; level < LEVELS; level++) {
            before[level] = step == 0 ? level : running;
            running += (int32_t)counts[channel][level];
        }
        SELECT(variant, divide)(tables->value[channel], before, step == 0 ? 1 : step);
    }
    tables->identity = 0;
    tables->monotone = 1;
}

void fill_blend(Tables *tables, int other, double factor) {
    for (int level = 0; level < LEVELS; level++) tables->value[0][level] = blend(other, level, (float)factor);
    set_all_channels(tables);
    tables->monotone = 1;
}

/* Adds the levels of up to 2**16 pixels, in four tables in turn: equal neighbours would otherwise wait for each other's
   increment. `part` is all 0 before and after. */
static void count_run(const uint8_t *pixels, size_t length, uint16_t part[4][LEVELS], uint32_t *counts) {
    size_t i = 0;
    for (; i + 8 <= length; i += 8) {
        uint64_t eight;
        memcpy(&eight, pixels + i, 8);
        for (int k = 0; k < 8; k++) part[k % 4][(eight >> (8 * k)) & 0xFF]++;
    }
    for (; i < length; i++) part[0][pixels[i]]++;
    for (int level = 0; level < LEVELS; level++) {
        counts[level] += (uint32_t)part[0][level] + part[1][level] + part[2][level] + part[3][level];
        part[0][level] = part[1][level] = part[2][level] = part[3][level] = 0;
    }
}

void count_levels(const uint8_t *planes, const Shape *shape, Counts counts) {
    enum { RUN = 1 << 16 };
    uint16_t part[4][LEVELS] = {{0}};
    memset(counts, 0, sizeof(Counts));
    for (int channel = 0; channel < CHANNELS; channel++)
        for (size_t start = 0; start < shape->pixels; start += RUN) {
            size_t length = start + RUN < shape->pixels ? RUN : shape->pixels - start;
            count_run(planes + channel * shape->pitch + start, length, part, counts[channel]);
        }
}

void map_counts(Counts counts, const Tables *tables) {
    if (tables->identity) return;
    for (int channel = 0; channel < CHANNELS; channel++) {
        uint32_t mapped[LEVELS] = {0};
        for (int level = 0; level < LEVELS; level++) mapped[tables->value[channel][level]] += counts[channel][level];
        memcpy(counts[channel], mapped, sizeof mapped);
    }
}

Extrema find_extrema(int variant, const uint8_t *planes, const Shape *shape) {
    Extrema found;
    for (int channel = 0; channel < CHANNELS; channel++)
        SELECT(variant, extrema)
        (planes + channel * shape->pitch, shape->pixels, &found.low[channel], &found.high[channel]);
    return found;
}
