/* Look-up tables: autocontrast, equalize, posterize, solarize, brightness and contrast are nothing else.

   Tables compose, so a chain keeps one pending table a channel and touches pixels only when another kind of op, or the
   end, needs them. */
#ifndef AUGMIX_TABLES_H
#define AUGMIX_TABLES_H

#include <stddef.h>
#include <stdint.h>

#include "planes.h"

enum { LEVELS = 256 };

typedef struct {
    uint8_t value[CHANNELS][LEVELS];
    int identity;
    int monotone; /* never falling: extrema map to extrema */
} Tables;

typedef uint32_t Counts[CHANNELS][LEVELS];

typedef struct {
    uint8_t low[CHANNELS], high[CHANNELS];
} Extrema;

void reset_tables(Tables *tables);

/* pending := then(pending) */
void compose_tables(int variant, Tables *pending, const Tables *then);

void fill_posterize(Tables *tables, int bits_kept);
void fill_solarize(Tables *tables, int threshold);
void fill_autocontrast(int variant, Tables *tables, const Extrema *extrema);
void fill_equalize(int variant, Tables *tables, Counts counts, size_t pixels);
void fill_blend(Tables *tables, int other, double factor);

/* target may be source; reads and writes up to OVERRUN bytes past the end. */
void apply_table(int variant, const uint8_t *table, const uint8_t *source, uint8_t *target, size_t length);

void count_levels(const uint8_t *planes, const Shape *shape, Counts counts);
void map_counts(Counts counts, const Tables *tables);
Extrema find_extrema(int variant, const uint8_t *planes, const Shape *shape);

#endif
