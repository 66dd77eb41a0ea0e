#include "slide.h"

#include <math.h>
#include <string.h>

#include "simd.h"

enum { LARGEST_DIFFERENCE = 255, CELLS = 65536, CELL_END = 32768, NO_FRACTION = 0xFFFF, UNCERTAIN = 4 };
enum { IN_DOUBLE = -1 };

/* Where in its cell a fraction lies, in 1/32768 of the cell; CELL_END at its upper end. */
static uint16_t fraction_in_cell[CELLS];

void prepare_slide(void) {
    for (int cell = 0; cell < CELLS; cell++) fraction_in_cell[cell] = NO_FRACTION;
    for (uint64_t q = 1; q <= LARGEST_DIFFERENCE; q++) {
        for (uint64_t p = 0; p <= q; p++) {
            uint64_t position = (p << 32) / q, cell = position >> 16, within = (position & 0xFFFF) >> 1;
            if (cell < CELLS) fraction_in_cell[cell] = (uint16_t)within;
            if (within <= UNCERTAIN && cell > 0 && fraction_in_cell[cell - 1] == NO_FRACTION)
                fraction_in_cell[cell - 1] = CELL_END;
        }
    }
}

/* Further than any image is wide everything is fill; the bound keeps conversions to integers defined. */
ALWAYS_INLINE double bounded_distance(double distance) {
    double bounded = distance > -1e9 ? distance : -1e9;
    return bounded < 1e9 ? bounded : 1e9;
}

/* Pillow's sums for each line: where its source lies, how far it reaches, and whether that is certain. */
ALWAYS_INLINE void estimate_lines(Lines *lines, int count, int length, double slope, double offset) {
    for (int i = 0; i < count; i++) {
        double distance = slope * (i + 0.5) + offset;
        /* in 1/32768 of a cell; cut, by less than UNCERTAIN */
        lines->position[i] = (int64_t)(bounded_distance(distance) * 0x1p31);
        int32_t is_close = 0;
        lines->begin[i] = first_from(-distance - 0.5, length, &is_close);
        lines->end[i] = first_from(length - distance - 0.5, length, &is_close);
        lines->is_close[i] = is_close;
    }
}

static void estimate_portable(Lines *lines, int count, int length, double slope, double offset) {
    estimate_lines(lines, count, length, slope, offset);
}

#if defined(HAVE_X86)
WITH_AVX2 static void estimate_avx2(Lines *lines, int count, int length, double slope, double offset) {
    estimate_lines(lines, count, length, slope, offset);
}

WITH_AVX512 static void estimate_avx512(Lines *lines, int count, int length, double slope, double offset) {
    estimate_lines(lines, count, length, slope, offset);
}
#endif

/* Moves begin and end to where 0 <= i + 1/2 + distance < length holds for pixel i, by the sum that Pillow computes. */
static void settle_ends(Lines *lines, int line, int length, double distance) {
    int begin = lines->begin[line], end = lines->end[line];
    while (begin > 0 && begin - 0.5 + distance >= 0) begin--;
    while (begin < length && begin + 0.5 + distance < 0) begin++;
    while (end > begin && end - 0.5 + distance >= length) end--;
    while (end < length && end + 0.5 + distance < length) end++;
    lines->begin[line] = begin;
    lines->end[line] = end;
}

/* The weight that truncates as the fraction at `position` does, or IN_DOUBLE. */
static int weight_at(int64_t position) {
    int cell = (int)(position >> 15) & (CELLS - 1), within = (int)position & 0x7FFF;
    int fraction = fraction_in_cell[cell];
    if (fraction == NO_FRACTION || within < fraction - UNCERTAIN) return cell;
    return within > fraction + UNCERTAIN ? cell + 1 : IN_DOUBLE;
}

/* Fills in shift, weight, begin and end of `count` lines of `length` pixels. */
static void measure_lines(int variant, Lines *lines, int count, int length, double slope, double offset) {
    SELECT(variant, estimate)(lines, count, length, slope, offset);
    for (int i = 0; i < count; i++) {
        if (lines->is_close[i]) settle_ends(lines, i, length, slope * (i + 0.5) + offset);
        if (lines->end[i] < lines->begin[i]) lines->end[i] = lines->begin[i];
        lines->shift[i] = (int32_t)(lines->position[i] >> 31);
        lines->weight[i] = weight_at(lines->position[i]);
    }
}

static int is_whole(double slope, double offset) { return slope == 0 && offset == floor(offset); }

/* Pillow's own arithmetic for pixel i of a line of pixels `stride` bytes apart. */
static uint8_t exact_pixel(const uint8_t *line, size_t stride, int length, int i, double distance) {
    double at = i + 0.5 + distance - 0.5;
    int whole = (int)floor(at);
    double fraction = at - whole;
    int a = line[stride * (size_t)clamp(whole, 0, length - 1)];
    int b = line[stride * (size_t)clamp(whole + 1, 0, length - 1)];
    return (uint8_t)(a + (b - a) * fraction);
}

/* out = a + floor((b - a) weight / 65536). A signed 16-bit multiplication takes weights of 1/2 and more as negative,
   which counts (b - a) once too little: so start from b there. */
ALWAYS_INLINE void interpolate_body(const uint8_t *a, const uint8_t *b, uint8_t *out, int length, int weight) {
    const uint8_t *start = weight >= CELLS / 2 ? b : a;
    int16_t signed_weight = (int16_t)(weight >= CELLS / 2 ? weight - CELLS : weight);
    for (int i = 0; i < length; i++) {
        int16_t difference = (int16_t)(b[i] - a[i]);
        int16_t step = (int16_t)(((int32_t)difference * signed_weight) >> 16);
        out[i] = (uint8_t)(start[i] + step);
    }
}

/* The same with a weight for each pixel; carry is -1 where the weight is 1/2 or more, else 0. */
ALWAYS_INLINE void interpolate_each_body(const uint8_t *a, const uint8_t *b, uint8_t *out, int length,
                                         const int16_t *weight, const int16_t *carry) {
    for (int i = 0; i < length; i++) {
        int16_t difference = (int16_t)(b[i] - a[i]);
        int16_t step = (int16_t)(((int32_t)difference * weight[i]) >> 16);
        out[i] = (uint8_t)(a[i] + step + (difference & carry[i]));
    }
}

static void interpolate_portable(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length, int weight) {
    interpolate_body(a, b, out, length, weight);
}
static void interpolate_each_portable(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length,
                                      const int16_t *weight, const int16_t *carry) {
    interpolate_each_body(a, b, out, length, weight, carry);
}

#if defined(HAVE_X86)
WITH_AVX2 static inline __m256i widen16(const uint8_t *from) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
}

WITH_AVX2 static inline void narrow16(uint8_t *to, __m256i words) {
    __m256i packed = _mm256_packus_epi16(words, words);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}

WITH_AVX2 static void interpolate_avx2(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length,
                                       int weight) {
    __m256i weights = _mm256_set1_epi16((short)weight);
    __m256i from_b = _mm256_set1_epi16(weight >= CELLS / 2 ? -1 : 0);
    for (int i = 0; i < length; i += 16) {
        __m256i first = widen16(a + i), second = widen16(b + i);
        __m256i start = _mm256_blendv_epi8(first, second, from_b);
        __m256i step = _mm256_mulhi_epi16(_mm256_sub_epi16(second, first), weights);
        narrow16(out + i, _mm256_add_epi16(start, step));
    }
}

WITH_AVX2 static void interpolate_each_avx2(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length,
                                            const int16_t *weight, const int16_t *carry) {
    for (int i = 0; i < length; i += 16) {
        __m256i first = widen16(a + i), difference = _mm256_sub_epi16(widen16(b + i), first);
        __m256i step = _mm256_mulhi_epi16(difference, _mm256_loadu_si256((const __m256i *)(weight + i)));
        __m256i carried = _mm256_and_si256(difference, _mm256_loadu_si256((const __m256i *)(carry + i)));
        narrow16(out + i, _mm256_add_epi16(_mm256_add_epi16(first, step), carried));
    }
}

WITH_AVX512 static inline __m512i widen32(const uint8_t *from) {
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)from));
}

WITH_AVX512 static inline void narrow32(uint8_t *to, __m512i words) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi16_epi8(words));
}

WITH_AVX512 static void interpolate_avx512(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length,
                                           int weight) {
    __m512i weights = _mm512_set1_epi16((short)weight);
    __mmask32 from_b = weight >= CELLS / 2 ? 0xFFFFFFFFu : 0;
    for (int i = 0; i < length; i += 32) {
        __m512i first = widen32(a + i), second = widen32(b + i);
        __m512i step = _mm512_mulhi_epi16(_mm512_sub_epi16(second, first), weights);
        narrow32(out + i, _mm512_add_epi16(_mm512_mask_mov_epi16(first, from_b, second), step));
    }
}

WITH_AVX512 static void interpolate_each_avx512(const uint8_t *a, const uint8_t *b, uint8_t *restrict out, int length,
                                                const int16_t *weight, const int16_t *carry) {
    for (int i = 0; i < length; i += 32) {
        __m512i first = widen32(a + i), difference = _mm512_sub_epi16(widen32(b + i), first);
        __m512i step = _mm512_mulhi_epi16(difference, _mm512_loadu_si512(weight + i));
        __m512i carried = _mm512_and_si512(difference, _mm512_loadu_si512(carry + i));
        narrow32(out + i, _mm512_add_epi16(_mm512_add_epi16(first, step), carried));
    }
}
#endif

/* One row of one plane, from left to right; the end may be overrun, the next row is written later. */
static void slide_row(int variant, const uint8_t *row, uint8_t *out, int width, const Lines *lines, int y,
                      double distance, uint8_t fill) {
    int begin = lines->begin[y], end = lines->end[y], shift = lines->shift[y];
    paint(out, fill, begin < end ? begin : width);
    if (begin == end) return;
    if (lines->weight[y] == IN_DOUBLE) {
        for (int x = begin; x < end; x++) out[x] = exact_pixel(row, 1, width, x, distance);
    } else {
        /* left and right of [from, to) one of the two neighbours is outside: Pillow repeats the edge */
        int from = clamp(-shift, begin, end), to = clamp(width - 1 - shift, from, end);
        const uint8_t *a = row + from + shift;
        paint(out + begin, row[0], from - begin);
        if (to > from) SELECT(variant, interpolate)(a, a + 1, out + from, to - from, lines->weight[y]);
        paint(out + to, row[width - 1], end - to);
    }
    paint(out + end, fill, width - end);
}

/* Whole pixels along rows: all rows at once, and then the columns that were pulled in. */
static void shift_along_rows(const uint8_t *plane, uint8_t *out, const Shape *shape, int shift, uint8_t fill) {
    size_t width = (size_t)shape->width;
    int begin = clamp(-shift, 0, shape->width), end = clamp(shape->width - shift, begin, shape->width);
    if (begin == end) {
        memset(out, fill, shape->pixels);
        return;
    }
    size_t skipped = (size_t)(shift < 0 ? -shift : shift);
    memcpy(out + begin, plane + begin + shift, shape->pixels - skipped);
    for (uint8_t *row = out; row < out + shape->pixels; row += width) {
        for (int x = 0; x < begin; x++) row[x] = fill;
        for (int x = end; x < shape->width; x++) row[x] = fill;
    }
}

void slide_rows(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double slope, double offset,
                uint8_t fill, Lines *lines) {
    if (is_whole(slope, offset)) {
        for (int channel = 0; channel < CHANNELS; channel++)
            shift_along_rows(source + channel * shape->pitch, target + channel * shape->pitch, shape,
                             (int)bounded_distance(offset), fill);
        return;
    }
    measure_lines(variant, lines, shape->height, shape->width, slope, offset);
    for (int y = 0; y < shape->height; y++) {
        size_t row = (size_t)y * (size_t)shape->width;
        for (int channel = 0; channel < CHANNELS; channel++)
            slide_row(variant, source + channel * shape->pitch + row, target + channel * shape->pitch + row,
                      shape->width, lines, y, slope * (y + 0.5) + offset, fill);
    }
}

/* rows(x, r) = plane(x, r + shift of column x), rows outside repeating the edge, for r = 0 .. height: what is left is
   to interpolate between one row and the next. Columns of equal shift are copied as a strip, 32 bytes at a time; what
   a strip writes too much belongs to the next strip, or to the padding. */
static void shift_columns(const uint8_t *plane, const Shape *shape, const int32_t *shift, uint8_t *rows) {
    size_t pitch = (size_t)shape->width + OVERRUN;
    int height = shape->height, width = shape->width;
    for (int x = 0; x < width;) {
        int strip_end = x + 1;
        while (strip_end < width && shift[strip_end] == shift[x]) strip_end++;
        int first = clamp(-shift[x], 0, height + 1), last = clamp(height - shift[x], first, height + 1);
        for (int at = x; at < strip_end; at += 32) {
            const uint8_t *bottom = plane + (size_t)(height - 1) * (size_t)width + at;
            const uint8_t *from = last > first ? plane + (ptrdiff_t)(first + shift[x]) * width + at : plane;
            uint8_t *to = rows + at;
            int r = 0;
            for (; r < first; r++, to += pitch) memcpy(to, plane + at, 32);
            for (; r < last; r++, to += pitch, from += width) memcpy(to, from, 32);
            for (; r <= height; r++, to += pitch) memcpy(to, bottom, 32);
        }
        x = strip_end;
    }
}

/* Fill above `begin` and below `end` of each column, in runs of columns that agree. */
static void fill_outside(uint8_t *plane, const Shape *shape, const int32_t *begin, const int32_t *end, uint8_t fill) {
    size_t width = (size_t)shape->width;
    for (size_t x = 0; x < width;) {
        size_t run_end = x + 1;
        while (run_end < width && begin[run_end] == begin[x] && end[run_end] == end[x]) run_end++;
        for (size_t y = 0; y < (size_t)begin[x]; y++) memset(plane + y * width + x, fill, run_end - x);
        for (size_t y = (size_t)end[x]; y < (size_t)shape->height; y++)
            memset(plane + y * width + x, fill, run_end - x);
        x = run_end;
    }
}

static void shift_along_columns(const uint8_t *plane, uint8_t *out, const Shape *shape, int shift, uint8_t fill) {
    size_t width = (size_t)shape->width;
    int begin = clamp(-shift, 0, shape->height), end = clamp(shape->height - shift, begin, shape->height);
    memset(out, fill, (size_t)begin * width);
    if (end > begin)
        memcpy(out + (size_t)begin * width, plane + (size_t)(begin + shift) * width, (size_t)(end - begin) * width);
    memset(out + (size_t)end * width, fill, (size_t)(shape->height - end) * width);
}

static void slide_plane_columns(int variant, const uint8_t *plane, uint8_t *out, const Shape *shape, double slope,
                                double offset, uint8_t fill, Lines *lines) {
    size_t width = (size_t)shape->width, pitch = width + OVERRUN;
    shift_columns(plane, shape, lines->shift, lines->rows);
    for (size_t y = 0; y < (size_t)shape->height; y++)
        SELECT(variant, interpolate_each)
        (lines->rows + y * pitch, lines->rows + (y + 1) * pitch, out + y * width, shape->width, lines->low_weight,
         lines->carry);
    for (int x = 0; x < shape->width; x++) {
        if (lines->weight[x] != IN_DOUBLE) continue;
        for (int y = lines->begin[x]; y < lines->end[x]; y++)
            out[(size_t)y * width + (size_t)x] =
                exact_pixel(plane + x, width, shape->height, y, slope * (x + 0.5) + offset);
    }
    fill_outside(out, shape, lines->begin, lines->end, fill);
}

void slide_columns(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double slope,
                   double offset, uint8_t fill, Lines *lines) {
    if (is_whole(slope, offset)) {
        for (int channel = 0; channel < CHANNELS; channel++)
            shift_along_columns(source + channel * shape->pitch, target + channel * shape->pitch, shape,
                                (int)bounded_distance(offset), fill);
        return;
    }
    measure_lines(variant, lines, shape->width, shape->height, slope, offset);
    for (int x = 0; x < shape->width + OVERRUN; x++) {
        int weight = x < shape->width ? lines->weight[x] : 0;
        lines->low_weight[x] = (int16_t)weight;
        lines->carry[x] = (int16_t)(weight >= CELLS / 2 ? -1 : 0);
    }
    for (int channel = 0; channel < CHANNELS; channel++)
        slide_plane_columns(variant, source + channel * shape->pitch, target + channel * shape->pitch, shape, slope,
                            offset, fill, lines);
}
