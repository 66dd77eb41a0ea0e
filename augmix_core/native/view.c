#include "view.h"

#include <stdlib.h>
#include <string.h>

#include "enhance.h"
#include "mix.h"
#include "rotate.h"
#include "slide.h"
#include "tables.h"

enum { CLEAN = -1, MIX_BLOCK = 4096 };

/* An image on its way through a chain: pixels in a buffer, and tables that are still to be applied to them. */
typedef struct {
    int buffer; /* CLEAN, or a buffer of the studio */
    Tables pending;
} Picture;

struct Studio {
    int variant;
    uint8_t fill;
    Shape shape;
    uint8_t *clean;
    uint8_t *buffers[MAX_WIDTH + 1]; /* the chains' ends, and one to work in */
    int is_taken[MAX_WIDTH + 1];
    Picture pictures[MAX_WIDTH];
    uint8_t *looked_up; /* one block of one source after its table */
    uint8_t *mixed;     /* one block of the view, planar */
    uint8_t *bytes;     /* a view in uint8 on its way to float32 */
    Lines lines;
    int clean_is_counted, clean_is_measured;
    Counts clean_counts;
    Extrema clean_extrema;
    uint8_t *memory;
};

Studio *open_studio(int variant, int height, int width, int chains, uint8_t fill) {
    Shape shape = shape_of(height, width);
    size_t picture = CHANNELS * shape.pitch, block = MIX_BLOCK + OVERRUN;
    size_t lines = (lines_bytes(&shape) + 63) / 64 * 64;
    size_t total = (size_t)(chains + 2) * picture + (MAX_SOURCES + CHANNELS) * block + picture + lines + 64;
    Studio *studio = malloc(sizeof *studio);
    uint8_t *memory = malloc(total);
    if (studio == NULL || memory == NULL) {
        free(studio);
        free(memory);
        return NULL;
    }
    uint8_t *next = memory + (64 - (uintptr_t)memory % 64);
    studio->variant = variant;
    studio->fill = fill;
    studio->shape = shape;
    studio->memory = memory;
    studio->clean = next;
    next += picture;
    for (int i = 0; i < MAX_WIDTH + 1; i++) {
        studio->is_taken[i] = i > chains;
        studio->buffers[i] = i > chains ? NULL : next;
        next += i > chains ? 0 : picture;
    }
    studio->looked_up = next;
    next += MAX_SOURCES * block;
    studio->mixed = next;
    next += CHANNELS * block;
    studio->bytes = next;
    next += picture;
    studio->lines = lines_in(next, &shape);
    return studio;
}

void close_studio(Studio *studio) {
    free(studio->memory);
    free(studio);
}

void load_clean(Studio *studio, const uint8_t *image) {
    split_planes(studio->variant, image, studio->clean, studio->shape.pitch, studio->shape.pixels);
    studio->clean_is_counted = studio->clean_is_measured = 0;
}

/* ---- one op ---- */

static const uint8_t *pixels_of(const Studio *studio, const Picture *picture) {
    return picture->buffer == CLEAN ? studio->clean : studio->buffers[picture->buffer];
}

static int take_buffer(Studio *studio) {
    int buffer = 0;
    while (studio->is_taken[buffer]) buffer++; /* one more than chains: there is always one */
    studio->is_taken[buffer] = 1;
    return buffer;
}

static void move_to(Studio *studio, Picture *picture, int buffer) {
    if (picture->buffer != CLEAN) studio->is_taken[picture->buffer] = 0;
    picture->buffer = buffer;
}

/* Applies the pending tables to the pixels. */
static void settle(Studio *studio, Picture *picture) {
    if (picture->pending.identity) return;
    const uint8_t *source = pixels_of(studio, picture);
    int buffer = picture->buffer == CLEAN ? take_buffer(studio) : picture->buffer;
    for (int channel = 0; channel < CHANNELS; channel++)
        apply_table(studio->variant, picture->pending.value[channel], source + channel * studio->shape.pitch,
                    studio->buffers[buffer] + channel * studio->shape.pitch, studio->shape.pixels);
    picture->buffer = buffer;
    reset_tables(&picture->pending);
}

/* The smallest and largest levels that the picture will have once its tables are applied. */
static Extrema extrema_of(Studio *studio, Picture *picture) {
    if (!picture->pending.monotone) settle(studio, picture);
    Extrema found;
    if (picture->buffer == CLEAN) {
        if (!studio->clean_is_measured)
            studio->clean_extrema = find_extrema(studio->variant, studio->clean, &studio->shape);
        studio->clean_is_measured = 1;
        found = studio->clean_extrema;
    } else {
        found = find_extrema(studio->variant, pixels_of(studio, picture), &studio->shape);
    }
    for (int channel = 0; channel < CHANNELS && !picture->pending.identity; channel++) {
        found.low[channel] = picture->pending.value[channel][found.low[channel]];
        found.high[channel] = picture->pending.value[channel][found.high[channel]];
    }
    return found;
}

static void count_picture(Studio *studio, const Picture *picture, Counts counts) {
    if (picture->buffer == CLEAN) {
        if (!studio->clean_is_counted) count_levels(studio->clean, &studio->shape, studio->clean_counts);
        studio->clean_is_counted = 1;
        memcpy(counts, studio->clean_counts, sizeof(Counts));
    } else {
        count_levels(pixels_of(studio, picture), &studio->shape, counts);
    }
    map_counts(counts, &picture->pending);
}

static int is_identity(Op op, double magnitude) {
    switch (op) {
        case POSTERIZE:
            return magnitude == 8;
        case SOLARIZE:
            return magnitude == 256;
        case ROTATE:
            return rotates_nothing(magnitude);
        case SHEAR_X:
        case SHEAR_Y:
        case TRANSLATE_X:
        case TRANSLATE_Y:
            return magnitude == 0;
        case COLOR:
        case CONTRAST:
        case BRIGHTNESS:
        case SHARPNESS:
            return (float)magnitude == 1.0f;
        default:
            return 0;
    }
}

/* The tables of an op that is nothing but tables; 0 if it is another kind. */
static int tables_of(Studio *studio, Picture *picture, Op op, double magnitude, Tables *tables) {
    Counts counts;
    Extrema extrema;
    switch (op) {
        case AUTOCONTRAST:
            extrema = extrema_of(studio, picture);
            fill_autocontrast(studio->variant, tables, &extrema);
            return 1;
        case EQUALIZE:
            count_picture(studio, picture, counts);
            fill_equalize(studio->variant, tables, counts, studio->shape.pixels);
            return 1;
        case POSTERIZE:
            fill_posterize(tables, (int)magnitude);
            return 1;
        case SOLARIZE:
            fill_solarize(tables, (int)magnitude);
            return 1;
        case BRIGHTNESS:
            fill_blend(tables, 0, magnitude);
            return 1;
        case CONTRAST:
            settle(studio, picture);
            fill_blend(tables, mean_grey(studio->variant, pixels_of(studio, picture), &studio->shape), magnitude);
            return 1;
        default:
            return 0;
    }
}

static void transform(Studio *studio, Op op, double magnitude, const uint8_t *source, uint8_t *target) {
    int variant = studio->variant;
    const Shape *shape = &studio->shape;
    Lines *lines = &studio->lines;
    switch (op) {
        case ROTATE:
            rotate(variant, source, target, shape, magnitude, studio->fill, lines);
            break;
        case SHEAR_X:
            slide_rows(variant, source, target, shape, magnitude, 0, studio->fill, lines);
            break;
        case SHEAR_Y:
            slide_columns(variant, source, target, shape, magnitude, 0, studio->fill, lines);
            break;
        case TRANSLATE_X:
            slide_rows(variant, source, target, shape, 0, magnitude, studio->fill, lines);
            break;
        case TRANSLATE_Y:
            slide_columns(variant, source, target, shape, 0, magnitude, studio->fill, lines);
            break;
        case COLOR:
            enhance_color(variant, source, target, shape, magnitude);
            break;
        default:
            enhance_sharpness(variant, source, target, shape, magnitude);
            break;
    }
}

static void run_op(Studio *studio, Picture *picture, Op op, double magnitude) {
    Tables tables;
    if (is_identity(op, magnitude)) return;
    if (tables_of(studio, picture, op, magnitude, &tables)) {
        compose_tables(studio->variant, &picture->pending, &tables);
        return;
    }
    settle(studio, picture);
    int buffer = take_buffer(studio);
    transform(studio, op, magnitude, pixels_of(studio, picture), studio->buffers[buffer]);
    move_to(studio, picture, buffer);
}

/* ---- mixing ---- */

/* What goes into a view: pixels, the table that each channel still needs, and a weight. */
typedef struct {
    const uint8_t *pixels;
    const Tables *tables;
    int32_t weight;
} Source;

/* The sources that count; a chain that did nothing adds its weight to the clean image's. */
static int gather_sources(const Studio *studio, const Plan *plan, int width, Source *sources) {
    static const Tables nothing = {.identity = 1, .monotone = 1};
    int count = 1;
    sources[0] = (Source){studio->clean, &nothing, plan->q15_weight[0]};
    for (int chain = 0; chain < width; chain++) {
        const Picture *picture = &studio->pictures[chain];
        int32_t weight = plan->q15_weight[chain + 1];
        if (picture->buffer == CLEAN && picture->pending.identity)
            sources[0].weight += weight;
        else if (weight > 0)
            sources[count++] = (Source){pixels_of(studio, picture), &picture->pending, weight};
    }
    if (sources[0].weight > 0) return count;
    memmove(sources, sources + 1, (size_t)(count - 1) * sizeof *sources);
    return count - 1;
}

/* Pixels [start, start + length) of one channel of all sources, mixed into `target`. */
static void mix_block(const Studio *studio, const Source *sources, int count, int channel, size_t start,
                      size_t length, uint8_t *target) {
    const uint8_t *rows[MAX_SOURCES];
    int16_t weights[MAX_SOURCES];
    for (int i = 0; i < count; i++) {
        rows[i] = sources[i].pixels + channel * studio->shape.pitch + start;
        weights[i] = (int16_t)sources[i].weight;
        if (!sources[i].tables->identity) {
            uint8_t *looked_up = studio->looked_up + (size_t)i * (MIX_BLOCK + OVERRUN);
            apply_table(studio->variant, sources[i].tables->value[channel], rows[i], looked_up, length);
            rows[i] = looked_up;
        }
    }
    if (sources[0].weight == ONE_Q15)
        memcpy(target, rows[0], length);
    else
        mix(studio->variant, rows, weights, count, target, length);
}

static void write_mixture(const Studio *studio, const Source *sources, int count, uint8_t *target, int interleaved) {
    size_t pixels = studio->shape.pixels, pitch = MIX_BLOCK + OVERRUN;
    for (size_t start = 0; start < pixels; start += MIX_BLOCK) {
        size_t length = start + MIX_BLOCK < pixels ? MIX_BLOCK : pixels - start;
        for (int channel = 0; channel < CHANNELS; channel++)
            mix_block(studio, sources, count, channel, start, length, studio->mixed + channel * pitch);
        if (interleaved)
            join_planes(studio->variant, studio->mixed, pitch, target + CHANNELS * start, length);
        else
            for (int channel = 0; channel < CHANNELS; channel++)
                memcpy(target + channel * pixels + start, studio->mixed + channel * pitch, length);
    }
}

static void write_sources(Studio *studio, const Source *sources, int count, void *target, const Output *output) {
    uint8_t *bytes = output->is_float ? studio->bytes : target;
    write_mixture(studio, sources, count, bytes, output->interleaved);
    if (output->is_float)
        normalise(studio->variant, bytes, target, studio->shape.pixels, output->interleaved, output->scale,
                  output->shift);
}

static void copy_planes(const Studio *studio, uint8_t *target) {
    for (int channel = 0; channel < CHANNELS; channel++)
        memcpy(target + channel * studio->shape.pixels, studio->clean + channel * studio->shape.pitch,
               studio->shape.pixels);
}

void write_clean(Studio *studio, const uint8_t *image, void *target, const Output *output) {
    size_t pixels = studio->shape.pixels;
    if (!output->is_float) {
        if (output->interleaved)
            memcpy(target, image, CHANNELS * pixels);
        else
            copy_planes(studio, target);
        return;
    }
    if (!output->interleaved) copy_planes(studio, studio->bytes);
    normalise(studio->variant, output->interleaved ? image : studio->bytes, target, pixels, output->interleaved,
              output->scale, output->shift);
}

void write_view(Studio *studio, const Plan *plan, int width, void *target, const Output *output) {
    for (int chain = 0; chain < width; chain++) {
        Picture *picture = &studio->pictures[chain];
        picture->buffer = CLEAN;
        reset_tables(&picture->pending);
        for (int k = 0; k < plan->depth[chain] && plan->q15_weight[chain + 1] > 0; k++)
            run_op(studio, picture, plan->op[chain][k], plan->magnitude[chain][k]);
    }
    Source sources[MAX_SOURCES];
    int count = gather_sources(studio, plan, width, sources);
    write_sources(studio, sources, count, target, output);
    for (int chain = 0; chain < width; chain++) move_to(studio, &studio->pictures[chain], CLEAN);
}

void write_op(Studio *studio, Op op, double magnitude, uint8_t *target) {
    Picture *picture = &studio->pictures[0];
    picture->buffer = CLEAN;
    reset_tables(&picture->pending);
    run_op(studio, picture, op, magnitude);
    Source source = {pixels_of(studio, picture), &picture->pending, ONE_Q15};
    write_mixture(studio, &source, 1, target, 1);
    move_to(studio, picture, CLEAN);
}
