/* Pillow maps each target pixel into the source, interpolates the four pixels around in double precision and truncates.

   The kernels compute the same value in fixed point, in 1/2**14 of a level and with an error below 4 of these (see
   ERROR). Where that leaves the truncation open, about 7 values in 10,000, they compute in double precision as Pillow
   does.
   - Coordinates: a row is walked in 1/2**42 of a pixel; the pixels of a group of 8 or 16 are steps of 1/2**26 apart.
   - Weights: products of the two fractions in 1/2**30, split into a high 16-bit and a low 15-bit half (they are even),
     so that 16-bit multiply-and-adds take two pixels at once and lose nothing: sum of high halves, plus the sum of low
     halves >> 15.
   - Source pixels: a group crosses few source rows, and in each of them spans fewer than 32 bytes. So no gathers: rows
     are loaded whole, and a byte permute picks each pixel's neighbours.
   Where a neighbour lies outside, the edge is repeated. */
#include "rotate.h"

#include <math.h>
#include <string.h>

#include "simd.h"

enum { WALK_BITS = 42, FRACTION_BITS = 26, FRACTION_MASK = (1 << FRACTION_BITS) - 1 };
enum { WEIGHT_BITS = 30, RESULT_BITS = 14, RESULT_MASK = (1 << RESULT_BITS) - 1 };

/* In 1/2**14 of a level. A coordinate is off by at most 17 / 2**26 (the cut of a group's first, 15 halves of the step's
   rounding, and 8 for 2**20 pixels of walking): 255 * 2 * 17 / 2**26 * 2**14 = 2.1. The product of two float32
   fractions: 510 * 1.5 / 2**24 * 2**14 = 0.75. Cutting the low halves: 1. */
enum { ERROR = 6 };

/* A coordinate this close to a whole number, in 1/2**26, may belong to the next pixel (it is off by up to 17). That
   matters only where our four pixels are equal: elsewhere the value is as near to a whole level as the coordinate is
   to a pixel, and so is settled. */
enum { UNCERTAIN = 32 };

typedef struct {
    double matrix[6];             /* source x = m0 x + m1 y + m2, source y = m3 x + m4 y + m5, of pixel centres */
    double inverse_x, inverse_y;  /* 1 / m0 and 1 / m3 */
    int is_level;                 /* whether one of those is too small to divide by */
    int64_t walk_x, walk_y;       /* one pixel further in x: in 1/2**42 */
    int32_t step_x, step_y;       /* the same in 1/2**26 */
    int height, width;
    size_t pitch;
} Rotation;

/* ---- geometry, as in Image.rotate and Geometry.c ---- */

/* Python's round(value, 15) for |value| <= 1: the product is split into a double and its exact rest. */
static double round_15(double value) {
    double product = value * 1e15, rest = fma(value, 1e15, -product);
    double whole = rint(product), fraction = (product - whole) + rest;
    if (fraction > 0.5) whole += 1;
    if (fraction < -0.5) whole -= 1;
    return whole / 1e15;
}

static double positive_angle(double degrees) {
    double angle = fmod(degrees, 360.0);
    return angle < 0 ? angle + 360.0 : angle;
}

int rotates_nothing(double degrees) { return positive_angle(degrees) == 0; }

static Rotation rotation_of(double angle, const Shape *shape) {
    double radians = -(angle * (3.141592653589793 / 180.0));
    double cosine = round_15(cos(radians)), sine = round_15(sin(radians)), minus_sine = round_15(-sin(radians));
    int is_level = fabs(cosine) < 1e-6 || fabs(sine) < 1e-6;
    double center_x = shape->width / 2.0, center_y = shape->height / 2.0;
    Rotation rotation = {
        .matrix = {cosine, sine, cosine * -center_x + sine * -center_y + center_x, minus_sine, cosine,
                   minus_sine * -center_x + cosine * -center_y + center_y},
        .inverse_x = is_level ? 1 : 1 / cosine,
        .inverse_y = is_level ? 1 : 1 / minus_sine,
        .is_level = is_level,
        .walk_x = (int64_t)rint(cosine * 0x1p42),
        .walk_y = (int64_t)rint(minus_sine * 0x1p42),
        .step_x = (int32_t)rint(cosine * (1 << FRACTION_BITS)),
        .step_y = (int32_t)rint(minus_sine * (1 << FRACTION_BITS)),
        .height = shape->height,
        .width = shape->width,
        .pitch = shape->pitch,
    };
    return rotation;
}

static double source_x(const Rotation *r, int x, int y) {
    return r->matrix[0] * (x + 0.5) + r->matrix[1] * (y + 0.5) + r->matrix[2];
}

static double source_y(const Rotation *r, int x, int y) {
    return r->matrix[3] * (x + 0.5) + r->matrix[4] * (y + 0.5) + r->matrix[5];
}

static int is_inside(const Rotation *r, int x, int y) {
    double at_x = source_x(r, x, y), at_y = source_y(r, x, y);
    return at_x >= 0 && at_x < r->width && at_y >= 0 && at_y < r->height;
}

/* Narrows [*first, *last] to where 0 <= start + x / inverse_slope < length, give or take rounding. */
ALWAYS_INLINE void narrow(double start, double inverse_slope, double length, double *first, double *last) {
    double at_zero = -start * inverse_slope, at_length = (length - start) * inverse_slope;
    double low = inverse_slope > 0 ? at_zero : at_length, high = inverse_slope > 0 ? at_length : at_zero;
    *first = low > *first ? low : *first;
    *last = high < *last ? high : *last;
}

/* The pixels of each row that have a source. What the loop reads is copied first, so that the compiler knows that it
   stays. */
ALWAYS_INLINE void estimate_rows(const Rotation *rotation, const Lines *lines) {
    const Rotation r = *rotation;
    const Lines rows = *lines;
    for (int y = 0; y < r.height; y++) {
        double first = 0, last = r.width;
        narrow(source_x(&r, 0, y), r.inverse_x, r.width, &first, &last);
        narrow(source_y(&r, 0, y), r.inverse_y, r.height, &first, &last);
        int32_t is_close = r.is_level;
        rows.begin[y] = r.is_level ? 0 : first_from(first, r.width, &is_close);
        rows.end[y] = r.is_level ? r.width : first_from(last, r.width, &is_close);
        rows.is_close[y] = is_close;
    }
}

static void estimate_portable(const Rotation *r, const Lines *rows) { estimate_rows(r, rows); }
#if defined(HAVE_X86)
WITH_AVX2 static void estimate_avx2(const Rotation *r, const Lines *rows) { estimate_rows(r, rows); }
WITH_AVX512 static void estimate_avx512(const Rotation *r, const Lines *rows) { estimate_rows(r, rows); }
#endif

/* Settles what is not certain by Pillow's own sums. */
static void find_inside(const Rotation *r, const Lines *rows, int y) {
    int begin = rows->begin[y], end = rows->end[y];
    if (rows->is_close[y]) {
        begin = begin > 0 ? begin - 1 : 0;
        end = end < r->width ? end + 1 : r->width;
        while (begin < end && !is_inside(r, begin, y)) begin++;
        while (end > begin && !is_inside(r, end - 1, y)) end--;
    }
    rows->begin[y] = begin;
    rows->end[y] = end > begin ? end : begin;
}

/* Pillow's own arithmetic. */
static uint8_t exact_pixel(const Rotation *r, const uint8_t *plane, int x, int y) {
    double at_x = source_x(r, x, y) - 0.5, at_y = source_y(r, x, y) - 0.5;
    int left = (int)floor(at_x), top = (int)floor(at_y);
    double dx = at_x - left, dy = at_y - top;
    size_t x0 = (size_t)clamp(left, 0, r->width - 1), x1 = (size_t)clamp(left + 1, 0, r->width - 1);
    const uint8_t *upper = plane + (size_t)clamp(top, 0, r->height - 1) * (size_t)r->width;
    double above = upper[x0] + (upper[x1] - upper[x0]) * dx, below = above;
    if (top + 1 >= 0 && top + 1 < r->height) {
        const uint8_t *lower = plane + (size_t)(top + 1) * (size_t)r->width;
        below = lower[x0] + (lower[x1] - lower[x0]) * dx;
    }
    return (uint8_t)(above + (below - above) * dy);
}

/* Values that are to be settled in double: bit i of a channel is pixel i of a group. */
typedef struct {
    int any;
    uint32_t lanes[CHANNELS];
} Open;

__attribute__((noinline)) static void settle(const Rotation *r, const uint8_t *source, uint8_t *target, int x, int y,
                                             int count, const Open *open) {
    for (int channel = 0; channel < CHANNELS; channel++) {
        const uint8_t *plane = source + channel * r->pitch;
        uint8_t *row = target + channel * r->pitch + (size_t)y * (size_t)r->width;
        for (uint32_t lanes = open->lanes[channel] & ((1u << count) - 1); lanes; lanes &= lanes - 1) {
            int at = x + __builtin_ctz(lanes);
            row[at] = exact_pixel(r, plane, at, y);
        }
    }
}

/* ---- rows ---- */

/* Neighbouring target pixels whose sources are found together. */
typedef struct {
    int count;
    int column, row;               /* of the first pixel's source */
    int32_t column_part, row_part; /* and its fractions */
    int left, top, bottom;         /* what the sources span, clamped to the image */
    int is_edge;                   /* whether a neighbour of any lies outside */
} Group;

static inline Group group_at(const Rotation *r, int64_t at_x, int64_t at_y, int count) {
    Group group = {
        .count = count,
        .column = (int)(at_x >> WALK_BITS),
        .row = (int)(at_y >> WALK_BITS),
        .column_part = (int32_t)(at_x >> (WALK_BITS - FRACTION_BITS)) & FRACTION_MASK,
        .row_part = (int32_t)(at_y >> (WALK_BITS - FRACTION_BITS)) & FRACTION_MASK,
    };
    int last_column = group.column + ((group.column_part + (count - 1) * r->step_x) >> FRACTION_BITS);
    int last_row = group.row + ((group.row_part + (count - 1) * r->step_y) >> FRACTION_BITS);
    int left = group.column < last_column ? group.column : last_column;
    int right = group.column < last_column ? last_column : group.column;
    int top = group.row < last_row ? group.row : last_row, bottom = group.row < last_row ? last_row : group.row;
    group.is_edge = left < 0 || right >= r->width - 1 || top < 0 || bottom >= r->height - 1;
    group.left = clamp(left, 0, r->width - 1);
    group.top = clamp(top, 0, r->height - 1);
    group.bottom = clamp(bottom, 0, r->height - 1);
    return group;
}

static inline int is_uncertain(int32_t at) { return ((at + UNCERTAIN) & FRACTION_MASK) < 2 * UNCERTAIN; }

/* What the versions below have in common: one group, whose first target pixel lies `out` bytes into each plane. They
   may write up to OVERRUN bytes too many. */

/* In float32, whose rounding takes the place of the cut: 6 operations on values up to 255 * 2**14 are off by up to 1.5.
   Written as loops over the group that compilers vectorise. */
ALWAYS_INLINE Open rotate_group1(const Rotation *r, const Group *group, const uint8_t *source, uint8_t *target,
                                 size_t out, int is_edge) {
    enum { GROUP = 16 };
    size_t width = (size_t)r->width, at[GROUP], right[GROUP], below[GROUP];
    int32_t at_x[GROUP], at_y[GROUP], sum[CHANNELS][GROUP];
    float dx[GROUP], dy[GROUP];
    for (int i = 0; i < GROUP; i++) {
        at_x[i] = group->column_part + i * r->step_x;
        at_y[i] = group->row_part + i * r->step_y;
        dx[i] = (float)(at_x[i] & FRACTION_MASK) * (1.0f / (1 << FRACTION_BITS));
        dy[i] = (float)(at_y[i] & FRACTION_MASK) * (1.0f / (1 << FRACTION_BITS));
    }
    for (int i = 0; i < GROUP; i++) {
        int column = group->column + (at_x[i] >> FRACTION_BITS), row = group->row + (at_y[i] >> FRACTION_BITS);
        right[i] = 1;
        below[i] = width;
        if (is_edge || i >= group->count) {
            right[i] = column >= 0 && column < r->width - 1;
            below[i] = row >= 0 && row < r->height - 1 ? width : 0;
            column = clamp(column, 0, r->width - 1);
            row = clamp(row, 0, r->height - 1);
        }
        at[i] = (size_t)row * width + (size_t)column;
    }
    /* All channels are fetched before the first is used: what was stored in small pieces is slow to load at once. */
    uint8_t upper[CHANNELS][2 * GROUP], lower[CHANNELS][2 * GROUP];
    for (int channel = 0; channel < CHANNELS; channel++) {
        const uint8_t *plane = source + channel * r->pitch;
        for (int i = 0; i < GROUP; i++) {
            memcpy(upper[channel] + 2 * i, plane + at[i], 2);
            memcpy(lower[channel] + 2 * i, plane + at[i] + below[i], 2);
            if (!is_edge || right[i]) continue;
            upper[channel][2 * i + 1] = upper[channel][2 * i];
            lower[channel][2 * i + 1] = lower[channel][2 * i];
        }
    }
    int is_close = 0;
    for (int channel = 0; channel < CHANNELS; channel++) {
        uint8_t *to = target + channel * r->pitch + out;
        for (int i = 0; i < GROUP; i++) {
            float a = upper[channel][2 * i], b = upper[channel][2 * i + 1];
            float c = lower[channel][2 * i], d = lower[channel][2 * i + 1];
            float first = a + (b - a) * dx[i], second = c + (d - c) * dx[i];
            sum[channel][i] = (int32_t)((first + (second - first) * dy[i]) * (1 << RESULT_BITS)) + ERROR;
            is_close |= (sum[channel][i] & RESULT_MASK) < 2 * ERROR;
            to[i] = (uint8_t)(sum[channel][i] >> RESULT_BITS);
        }
    }
    Open open = {.any = is_close};
    for (int i = 0; is_close && i < group->count; i++) {
        for (int channel = 0; channel < CHANNELS; channel++) {
            if ((sum[channel][i] & RESULT_MASK) >= 2 * ERROR) continue;
            const uint8_t *a = source + channel * r->pitch + at[i], *c = a + below[i];
            int is_flat = a[0] == a[right[i]] && a[0] == c[0] && a[0] == c[right[i]];
            if (!is_flat || is_uncertain(at_x[i]) || is_uncertain(at_y[i])) open.lanes[channel] |= 1u << i;
        }
    }
    return open;
}

#if defined(HAVE_X86)

/* Weights as 16-bit pairs (left, right) for the upper and the lower row, in high and low halves. */
typedef struct {
    __m256i upper_high, upper_low, lower_high, lower_low;
} Weights8;

WITH_AVX2 ALWAYS_INLINE __m256i high_pair8(__m256i left, __m256i right) {
    return _mm256_blend_epi16(_mm256_srli_epi32(left, 16), right, 0xAA);
}

WITH_AVX2 ALWAYS_INLINE __m256i low_pair8(__m256i left, __m256i right) {
    return _mm256_srli_epi16(_mm256_blend_epi16(left, _mm256_slli_epi32(right, 16), 0xAA), 1);
}

WITH_AVX2 ALWAYS_INLINE Weights8 weights8(__m256i dx, __m256i dy) {
    __m256 product = _mm256_mul_ps(_mm256_cvtepi32_ps(dx), _mm256_cvtepi32_ps(dy));
    __m256i both = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(product, _mm256_set1_ps(0x1p-23f))), 1);
    __m256i right = _mm256_sub_epi32(_mm256_slli_epi32(dx, 4), both);
    __m256i below = _mm256_sub_epi32(_mm256_slli_epi32(dy, 4), both);
    __m256i rest = _mm256_sub_epi32(_mm256_set1_epi32(1 << WEIGHT_BITS), _mm256_slli_epi32(dx, 4));
    __m256i here = _mm256_sub_epi32(rest, below);
    return (Weights8){high_pair8(here, right), low_pair8(here, right), high_pair8(below, both),
                      low_pair8(below, both)};
}

/* Lanes' whole coordinates within the image; `has_next` is -1 where the next one is inside too, else 0. */
WITH_AVX2 ALWAYS_INLINE __m256i clamp8(int first, __m256i at, int length, __m256i *has_next) {
    __m256i whole = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_srai_epi32(at, FRACTION_BITS));
    __m256i last = _mm256_set1_epi32(length - 1);
    *has_next = _mm256_andnot_si256(_mm256_srai_epi32(whole, 31), _mm256_cmpgt_epi32(last, whole));
    return _mm256_min_epi32(_mm256_max_epi32(whole, _mm256_setzero_si256()), last);
}

WITH_AVX2 ALWAYS_INLINE __m256i uncertain8(__m256i at) {
    __m256i within = _mm256_and_si256(_mm256_add_epi32(at, _mm256_set1_epi32(UNCERTAIN)),
                                      _mm256_set1_epi32(FRACTION_MASK));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(2 * UNCERTAIN), within);
}

WITH_AVX2 ALWAYS_INLINE Open rotate_group8(const Rotation *r, const Group *group, const uint8_t *source,
                                           uint8_t *target, size_t out, int is_edge) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), mask = _mm256_set1_epi32(FRACTION_MASK);
    /* pshufb indices of the bytes (x, none, x + 1, none) of each lane: it gives 0 for 0x80 and above */
    const __m256i first_byte = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    __m256i pair_bytes = _mm256_set1_epi32((int)0x80018000);
    size_t width = (size_t)r->width;
    __m256i at_x = _mm256_add_epi32(_mm256_set1_epi32(group->column_part),
                                    _mm256_mullo_epi32(lanes, _mm256_set1_epi32(r->step_x)));
    __m256i at_y = _mm256_add_epi32(_mm256_set1_epi32(group->row_part),
                                    _mm256_mullo_epi32(lanes, _mm256_set1_epi32(r->step_y)));
    Weights8 weights = weights8(_mm256_and_si256(at_x, mask), _mm256_and_si256(at_y, mask));
    __m256i column = _mm256_add_epi32(_mm256_srai_epi32(at_x, FRACTION_BITS), _mm256_set1_epi32(group->column));
    __m256i row = _mm256_add_epi32(_mm256_srai_epi32(at_y, FRACTION_BITS), _mm256_set1_epi32(group->row));
    __m256i next_row = _mm256_add_epi32(row, _mm256_set1_epi32(1));
    if (is_edge) {
        __m256i has_right, has_lower;
        column = clamp8(group->column, at_x, r->width, &has_right);
        row = clamp8(group->row, at_y, r->height, &has_lower);
        next_row = _mm256_sub_epi32(row, has_lower);
        pair_bytes = _mm256_or_si256(_mm256_set1_epi32((int)0x80008000),
                                     _mm256_and_si256(has_right, _mm256_set1_epi32(0x00010000)));
    }
    __m256i index = _mm256_shuffle_epi8(_mm256_sub_epi32(column, _mm256_set1_epi32(group->left)), first_byte);
    index = _mm256_add_epi8(index, pair_bytes);
    __m256i upper[CHANNELS], lower[CHANNELS], within[CHANNELS];
    for (int channel = 0; channel < CHANNELS; channel++) upper[channel] = lower[channel] = _mm256_setzero_si256();
    const uint8_t *from = source + (size_t)group->top * width + (size_t)group->left;
    for (int at = group->top; at <= group->bottom + 1; at++, from += width) {
        __m256i is_upper = _mm256_cmpeq_epi32(row, _mm256_set1_epi32(at));
        __m256i is_lower = _mm256_cmpeq_epi32(next_row, _mm256_set1_epi32(at));
        for (int channel = 0; channel < CHANNELS; channel++) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(from + channel * r->pitch));
            __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), index);
            upper[channel] = _mm256_or_si256(upper[channel], _mm256_and_si256(pairs, is_upper));
            lower[channel] = _mm256_or_si256(lower[channel], _mm256_and_si256(pairs, is_lower));
        }
    }
    for (int channel = 0; channel < CHANNELS; channel++) {
        __m256i high = _mm256_add_epi32(_mm256_madd_epi16(upper[channel], weights.upper_high),
                                        _mm256_madd_epi16(lower[channel], weights.lower_high));
        __m256i low = _mm256_add_epi32(_mm256_madd_epi16(upper[channel], weights.upper_low),
                                       _mm256_madd_epi16(lower[channel], weights.lower_low));
        __m256i sum = _mm256_add_epi32(_mm256_add_epi32(high, _mm256_set1_epi32(ERROR)), _mm256_srai_epi32(low, 15));
        within[channel] = _mm256_and_si256(sum, _mm256_set1_epi32(RESULT_MASK));
        __m256i level = _mm256_srli_epi32(sum, RESULT_BITS);
        __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(level), _mm256_extracti128_si256(level, 1));
        _mm_storel_epi64((__m128i *)(target + channel * r->pitch + out), _mm_packus_epi16(words, words));
    }
    const __m256i limit = _mm256_set1_epi32(2 * ERROR);
    __m256i nearest = _mm256_min_epi32(_mm256_min_epi32(within[0], within[1]), within[2]);
    if (_mm256_testz_si256(_mm256_cmpgt_epi32(limit, nearest), _mm256_set1_epi32(-1))) return (Open){0};
    __m256i uncertain = _mm256_or_si256(uncertain8(at_x), uncertain8(at_y));
    Open open = {.any = 1};
    for (int channel = 0; channel < CHANNELS; channel++) { /* equal neighbours are exact, and large areas are flat */
        __m256i turned = _mm256_or_si256(_mm256_slli_epi32(upper[channel], 16), _mm256_srli_epi32(upper[channel], 16));
        __m256i flat = _mm256_and_si256(_mm256_cmpeq_epi32(upper[channel], lower[channel]),
                                        _mm256_cmpeq_epi32(upper[channel], turned));
        __m256i exact = _mm256_andnot_si256(uncertain, flat);
        __m256i inexact = _mm256_andnot_si256(exact, _mm256_cmpgt_epi32(limit, within[channel]));
        open.lanes[channel] = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(inexact));
    }
    return open;
}

typedef struct {
    __m512i upper_high, upper_low, lower_high, lower_low;
} Weights16;

/* 16-bit words of two vectors, in turn: the odd (high) or the even (low) ones. */
WITH_AVX512 ALWAYS_INLINE __m512i high_pair16(__m512i left, __m512i right) {
    return _mm512_mask_mov_epi16(_mm512_srli_epi32(left, 16), 0xAAAAAAAAu, right);
}

WITH_AVX512 ALWAYS_INLINE __m512i low_pair16(__m512i left, __m512i right) {
    return _mm512_srli_epi16(_mm512_mask_mov_epi16(left, 0xAAAAAAAAu, _mm512_slli_epi32(right, 16)), 1);
}

WITH_AVX512 ALWAYS_INLINE Weights16 weights16(__m512i dx, __m512i dy) {
    __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dx), _mm512_cvtepi32_ps(dy));
    __m512i both = _mm512_slli_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(product, _mm512_set1_ps(0x1p-23f))), 1);
    __m512i right = _mm512_sub_epi32(_mm512_slli_epi32(dx, 4), both);
    __m512i below = _mm512_sub_epi32(_mm512_slli_epi32(dy, 4), both);
    __m512i rest = _mm512_sub_epi32(_mm512_set1_epi32(1 << WEIGHT_BITS), _mm512_slli_epi32(dx, 4));
    __m512i here = _mm512_sub_epi32(rest, below);
    return (Weights16){high_pair16(here, right), low_pair16(here, right), high_pair16(below, both),
                       low_pair16(below, both)};
}

WITH_AVX512 ALWAYS_INLINE __m512i clamp16(int first, __m512i at, int length, __mmask16 *has_next) {
    __m512i whole = _mm512_add_epi32(_mm512_set1_epi32(first), _mm512_srai_epi32(at, FRACTION_BITS));
    __m512i last = _mm512_set1_epi32(length - 1);
    *has_next = _mm512_cmplt_epu32_mask(whole, last);
    return _mm512_min_epi32(_mm512_max_epi32(whole, _mm512_setzero_si512()), last);
}

WITH_AVX512 ALWAYS_INLINE __mmask16 uncertain16(__m512i at) {
    __m512i within = _mm512_and_si512(_mm512_add_epi32(at, _mm512_set1_epi32(UNCERTAIN)),
                                      _mm512_set1_epi32(FRACTION_MASK));
    return _mm512_cmplt_epu32_mask(within, _mm512_set1_epi32(2 * UNCERTAIN));
}

/* The neighbours of each lane as bytes (above left, below left, above right, below right): one permute serves lanes in
   three consecutive rows from a table of four rows of 32 bytes. */
WITH_AVX512 ALWAYS_INLINE __m512i neighbours16(const uint8_t *from, size_t width, __m512i index) {
    __m512i rows01 = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)from));
    __m512i rows23 = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(from + 2 * width)));
    rows01 = _mm512_inserti64x4(rows01, _mm256_loadu_si256((const __m256i *)(from + width)), 1);
    rows23 = _mm512_inserti64x4(rows23, _mm256_loadu_si256((const __m256i *)(from + 3 * width)), 1);
    return _mm512_permutex2var_epi8(rows01, index, rows23);
}

/* In 1/2**14, plus ERROR. */
WITH_AVX512 ALWAYS_INLINE __m512i interpolate16(__m512i neighbours, const Weights16 *weights) {
    __m512i upper = _mm512_and_si512(neighbours, _mm512_set1_epi16(0xFF)), lower = _mm512_srli_epi16(neighbours, 8);
    __m512i high = _mm512_dpwssd_epi32(_mm512_set1_epi32(ERROR), upper, weights->upper_high);
    __m512i low = _mm512_madd_epi16(upper, weights->upper_low);
    high = _mm512_dpwssd_epi32(high, lower, weights->lower_high);
    low = _mm512_dpwssd_epi32(low, lower, weights->lower_low);
    return _mm512_add_epi32(high, _mm512_srai_epi32(low, 15));
}

WITH_AVX512 ALWAYS_INLINE Open rotate_group16(const Rotation *r, const Group *group, const uint8_t *source,
                                              uint8_t *target, size_t out, int is_edge) {
    enum { TABLE_ROWS = 3 };
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i first_byte =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    const __m512i to_right = _mm512_set1_epi32(0x01010000), to_lower = _mm512_set1_epi32(0x20002000);
    const __m512i mask = _mm512_set1_epi32(FRACTION_MASK), limit = _mm512_set1_epi32(2 * ERROR);
    size_t width = (size_t)r->width;
    __m512i at_x = _mm512_add_epi32(_mm512_set1_epi32(group->column_part),
                                    _mm512_mullo_epi32(lanes, _mm512_set1_epi32(r->step_x)));
    __m512i at_y = _mm512_add_epi32(_mm512_set1_epi32(group->row_part),
                                    _mm512_mullo_epi32(lanes, _mm512_set1_epi32(r->step_y)));
    Weights16 weights = weights16(_mm512_and_si512(at_x, mask), _mm512_and_si512(at_y, mask));
    __m512i column = _mm512_add_epi32(_mm512_srai_epi32(at_x, FRACTION_BITS), _mm512_set1_epi32(group->column));
    __m512i row = _mm512_add_epi32(_mm512_srai_epi32(at_y, FRACTION_BITS), _mm512_set1_epi32(group->row));
    __m512i offsets = _mm512_or_si512(to_right, to_lower);
    if (is_edge) {
        __mmask16 has_right, has_lower;
        column = clamp16(group->column, at_x, r->width, &has_right);
        row = clamp16(group->row, at_y, r->height, &has_lower);
        offsets = _mm512_maskz_mov_epi32(has_right, to_right);
        offsets = _mm512_mask_or_epi32(offsets, has_lower, offsets, to_lower);
    }
    __m512i neighbours[CHANNELS] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    __m512i within[CHANNELS];
    const uint8_t *from = source + (size_t)group->top * width + (size_t)group->left;
    column = _mm512_sub_epi32(column, _mm512_set1_epi32(group->left));
    for (int at = group->top; at <= group->bottom; at += TABLE_ROWS, from += TABLE_ROWS * width) {
        __m512i below = _mm512_sub_epi32(row, _mm512_set1_epi32(at));
        __m512i index = _mm512_add_epi32(_mm512_slli_epi32(below, 5), column);
        index = _mm512_add_epi8(_mm512_shuffle_epi8(index, first_byte), offsets);
        __mmask16 served = _mm512_cmplt_epu32_mask(below, _mm512_set1_epi32(TABLE_ROWS));
        for (int channel = 0; channel < CHANNELS; channel++)
            neighbours[channel] = _mm512_mask_mov_epi32(neighbours[channel], served,
                                                        neighbours16(from + channel * r->pitch, width, index));
    }
    for (int channel = 0; channel < CHANNELS; channel++) {
        __m512i sum = interpolate16(neighbours[channel], &weights);
        within[channel] = _mm512_and_si512(sum, _mm512_set1_epi32(RESULT_MASK));
        _mm_storeu_si128((__m128i *)(target + channel * r->pitch + out),
                         _mm512_cvtepi32_epi8(_mm512_srli_epi32(sum, RESULT_BITS)));
    }
    __m512i nearest = _mm512_min_epu32(_mm512_min_epu32(within[0], within[1]), within[2]);
    if (_mm512_cmplt_epu32_mask(nearest, limit) == 0) return (Open){0};
    __mmask16 uncertain = uncertain16(at_x) | uncertain16(at_y);
    Open open = {.any = 1};
    for (int channel = 0; channel < CHANNELS; channel++) { /* equal neighbours are exact, and large areas are flat */
        __m512i turned = _mm512_rol_epi32(neighbours[channel], 8);
        __mmask16 inexact = uncertain | _mm512_cmpneq_epi32_mask(neighbours[channel], turned);
        open.lanes[channel] = inexact & _mm512_cmplt_epu32_mask(within[channel], limit);
    }
    return open;
}
#endif

typedef Open RotateGroup(const Rotation *, const Group *, const uint8_t *, uint8_t *, size_t, int);

/* Pixels [begin, end) of row y, by a function that is inlined here. */
ALWAYS_INLINE void rotate_row_body(const Rotation *r, const uint8_t *source, uint8_t *target, int y, int begin, int end,
                                   int size, RotateGroup *rotate_group) {
    int64_t at_x = (int64_t)((source_x(r, begin, y) - 0.5) * 0x1p42);
    int64_t at_y = (int64_t)((source_y(r, begin, y) - 0.5) * 0x1p42);
    size_t row = (size_t)y * (size_t)r->width;
    for (int x = begin; x < end; x += size, at_x += size * r->walk_x, at_y += size * r->walk_y) {
        Group group = group_at(r, at_x, at_y, end - x < size ? end - x : size);
        Open open = group.is_edge ? rotate_group(r, &group, source, target, row + (size_t)x, 1)
                                  : rotate_group(r, &group, source, target, row + (size_t)x, 0);
        if (open.any) settle(r, source, target, x, y, group.count, &open);
    }
}

static void rotate_row_portable(const Rotation *r, const uint8_t *source, uint8_t *target, int y, int begin, int end) {
    rotate_row_body(r, source, target, y, begin, end, 16, rotate_group1);
}

#if defined(HAVE_X86)
WITH_AVX2 static void rotate_row_avx2(const Rotation *r, const uint8_t *source, uint8_t *target, int y, int begin,
                                      int end) {
    rotate_row_body(r, source, target, y, begin, end, 8, rotate_group8);
}

WITH_AVX512 static void rotate_row_avx512(const Rotation *r, const uint8_t *source, uint8_t *target, int y, int begin,
                                          int end) {
    rotate_row_body(r, source, target, y, begin, end, 16, rotate_group16);
}
#endif

/* ---- images ---- */

/* By 90, 180 or 270 degrees Pillow moves pixels; 90 and 270 only where the image is square. */
static void turn(const uint8_t *source, uint8_t *target, const Shape *shape, int degrees) {
    size_t height = (size_t)shape->height, width = (size_t)shape->width;
    for (int channel = 0; channel < CHANNELS; channel++) {
        const uint8_t *from = source + channel * shape->pitch;
        uint8_t *to = target + channel * shape->pitch;
        for (size_t y = 0; y < height; y++)
            for (size_t x = 0; x < width; x++)
                *to++ = degrees == 180  ? from[(height - 1 - y) * width + width - 1 - x]
                        : degrees == 90 ? from[x * width + width - 1 - y]
                                        : from[(height - 1 - x) * width + y];
    }
}

void rotate(int variant, const uint8_t *source, uint8_t *target, const Shape *shape, double degrees, uint8_t fill,
            Lines *lines) {
    double angle = positive_angle(degrees);
    if (angle == 180 || ((angle == 90 || angle == 270) && shape->height == shape->width)) {
        turn(source, target, shape, (int)angle);
        return;
    }
    Rotation rotation = rotation_of(angle, shape);
    SELECT(variant, estimate)(&rotation, lines);
    for (int y = 0; y < shape->height; y++) {
        find_inside(&rotation, lines, y);
        int begin = lines->begin[y], end = lines->end[y];
        uint8_t *row = target + (size_t)y * (size_t)shape->width;
        for (int channel = 0; channel < CHANNELS; channel++)
            paint(row + channel * shape->pitch, fill, begin < end ? begin : shape->width);
        if (begin == end) continue;
        SELECT(variant, rotate_row)(&rotation, source, target, y, begin, end);
        for (int channel = 0; channel < CHANNELS; channel++)
            paint(row + channel * shape->pitch + end, fill, shape->width - end);
    }
}
