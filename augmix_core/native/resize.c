/* Pillow's antialiased bilinear resize of 8-bit RGB, bit for bit.

   An output value is a weighted sum of neighbouring input values of its row, then, in a second pass, of its
   column:

       output[i] = min(255, ((1 << 21) + sum over t of weight[i][t] * input[first[i] + t]) >> 22)

   The weights are a triangle, as integers >= 0 that add up to 2^22 but for their rounding. Values between the
   two passes are rounded to 8 bits, so the order of the passes matters; the order within a sum does not:
   integers are exact, and a sum stays below 255 * (2^22 + taps / 2) + 2^21 < 2^31. A kernel may therefore cut
   weights into smaller parts, make many small products at once and add up their sums; each kernel says how.

   Source: Pillow 13.0, src/libImaging/Resample.c: precompute_coeffs, *_8bpc, ImagingResampleInner. */
#include "resize.h"

#include <stdlib.h>
#include <string.h>

#include "simd.h"

enum {
    PRECISION_BITS = 22,
    HALF = 1 << (PRECISION_BITS - 1),
    BLOCK = 4,          /* rows that a horizontal kernel resizes at once */
    AVX2_MIN_WIDTH = 11 /* output pixels that fill a vector of 32 bytes */
};

/* Along one axis: where each output value looks, and with which weights. */
typedef struct {
    int size;         /* of the output */
    int taps;         /* of every window */
    int quads;        /* taps in fours, rounded up */
    int *first;       /* (size): index of a window's first input value */
    int32_t *weights; /* (size, quads, 4): 0 behind the last tap */
} Windows;

/* Up to five neighbouring output pixels, for horizontal_avx512. */
typedef struct {
    int offset;            /* of the first pixel's window, in bytes */
    uint8_t tap_bytes[64]; /* from there: the bytes of four taps for each of 16 output values */
} Group;

/* An image, or the last `count` rows of one: row r lies where row r - count was. */
typedef struct {
    uint8_t *start;
    ptrdiff_t stride;
    int count;
} Rows;

typedef struct Resize Resize;

/* The two kinds of kernel: BLOCK rows along the rows, or one row (of `bytes` bytes) across `taps` rows. */
typedef void Horizontal(const Resize *resize, const uint8_t *const *source, uint8_t *const *target);
typedef void Vertical(const uint8_t *const *rows, const int32_t *weights, int taps,
                      uint8_t *target, int bytes);

struct Resize {
    int height, width;
    Windows columns, rows;
    Rows source, target;
    Rows between;                /* the two passes */
    const uint8_t **window_rows; /* (4 * rows.quads): the rows that the vertical pass sums up */
    Horizontal *horizontal;
    Vertical *vertical;
    uint8_t *padded;             /* AVX2: (BLOCK, padded_stride), copies of rows */
    size_t padded_stride;
    int group_pixels;            /* AVX-512: output pixels in a group */
    Group *groups;               /* AVX-512 */
    int32_t (*group_digits)[16]; /* AVX-512: (groups, quads, 3), see horizontal_avx512 */
};

static int minimum(int a, int b) { return a < b ? a : b; }

static int maximum(int a, int b) { return a > b ? a : b; }

/* The inputs that Pillow weighs for an output centred at `center`: sets *first, returns their number. */
static int pillow_window(double center, double support, int in_size, int *first) {
    *first = maximum(0, (int)(center - support + 0.5));
    return minimum(in_size, (int)(center + support + 0.5)) - *first;
}

static double triangle(double distance) {
    double magnitude = distance < 0.0 ? -distance : distance;
    return magnitude < 1.0 ? 1.0 - magnitude : 0.0;
}

static void pillow_weights(double center, double support, int first, int taps, int32_t *weights) {
    double per_pixel = 1.0 / support, total = 0.0;
    for (int tap = 0; tap < taps; tap++) total += triangle((tap + first - center + 0.5) * per_pixel);
    for (int tap = 0; tap < taps; tap++) {
        double weight = triangle((tap + first - center + 0.5) * per_pixel) / total;
        weights[tap] = (int32_t)(0.5 + weight * (1 << PRECISION_BITS));
    }
}

/* Every window gets as many taps as the longest: a shorter one has weights of 0 at its end or, if it would
   leave the image there, starts further left and has them at its start. */
static int make_windows(Windows *windows, int in_size, int out_size) {
    double scale = (double)in_size / out_size, support = scale < 1.0 ? 1.0 : scale;
    int first, longest = 0;
    for (int i = 0; i < out_size; i++) {
        longest = maximum(longest, pillow_window((i + 0.5) * scale, support, in_size, &first));
    }
    windows->size = out_size;
    windows->taps = longest;
    windows->quads = (longest + 3) / 4;
    windows->first = malloc((size_t)out_size * sizeof(int));
    windows->weights = calloc((size_t)out_size * windows->quads, 4 * sizeof(int32_t));
    if (!windows->first || !windows->weights) return -1;
    for (int i = 0; i < out_size; i++) {
        double center = (i + 0.5) * scale;
        int taps = pillow_window(center, support, in_size, &first);
        int moved = maximum(0, first + longest - in_size);
        windows->first[i] = first - moved;
        int32_t *weights = windows->weights + (size_t)i * 4 * windows->quads;
        pillow_weights(center, support, first, taps, weights + moved);
    }
    return 0;
}

/* ---- Portable: plain sums; the compiler vectorises the vertical pass ---- */

static uint8_t rounded(int32_t sum) { return (uint8_t)minimum(255, sum >> PRECISION_BITS); }

ALWAYS_INLINE void horizontal_row(const Windows *columns, int taps, const uint8_t *restrict source,
                                  uint8_t *restrict target) {
    const int *first = columns->first;
    const int32_t *weights = columns->weights;
    int size = columns->size, stride = 4 * columns->quads;
    for (int pixel = 0; pixel < size; pixel++, weights += stride, target += 3) {
        const uint8_t *values = source + 3 * first[pixel];
        int32_t red = HALF, green = HALF, blue = HALF;
        for (int tap = 0; tap < taps; tap++, values += 3) {
            red += weights[tap] * values[0];
            green += weights[tap] * values[1];
            blue += weights[tap] * values[2];
        }
        target[0] = rounded(red);
        target[1] = rounded(green);
        target[2] = rounded(blue);
    }
}

static void horizontal_portable(const Resize *resize, const uint8_t *const *source, uint8_t *const *target) {
    const Windows *columns = &resize->columns;
    for (int row = 0; row < BLOCK; row++) {
        /* The usual lengths as constants: the compiler then drops the loop, a tenth of the time. */
        if (columns->taps == 2) horizontal_row(columns, 2, source[row], target[row]);
        else if (columns->taps == 3) horizontal_row(columns, 3, source[row], target[row]);
        else if (columns->taps == 4) horizontal_row(columns, 4, source[row], target[row]);
        else horizontal_row(columns, columns->taps, source[row], target[row]);
    }
}

static void vertical_portable(const uint8_t *const *rows, const int32_t *weights, int taps,
                              uint8_t *target, int bytes) {
    enum { CHUNK = 32 };
    for (int start = 0; start < bytes; start += CHUNK) {
        int length = minimum(CHUNK, bytes - start);
        int32_t sums[CHUNK];
        for (int i = 0; i < length; i++) sums[i] = HALF;
        for (int tap = 0; tap < taps; tap++) {
            for (int i = 0; i < length; i++) sums[i] += weights[tap] * rows[tap][start + i];
        }
        for (int i = 0; i < length; i++) target[start + i] = rounded(sums[i]);
    }
}

#if defined(HAVE_X86)

/* ---- AVX2: two taps at once ----

   A weight is high * 2^15 + low with 0 <= low < 2^15 and high <= 2^7; vpmaddwd multiplies two pairs of 16-bit
   values in each 32-bit lane and adds the products. Both sums are parts of the full one, so fit. */

/* Four weights become {low 0 and 1, low 2 and 3, high 0 and 1, high 2 and 3}, two 16-bit values in each. */
WITH_AVX2 static void split_weights_avx2(Windows *windows) {
    int32_t *end = windows->weights + (size_t)windows->size * windows->quads * 4;
    for (int32_t *quad = windows->weights; quad < end; quad += 4) {
        __m128i weights = _mm_loadu_si128((const __m128i *)quad);
        __m128i low = _mm_and_si128(weights, _mm_set1_epi32(0x7fff));
        _mm_storeu_si128((__m128i *)quad, _mm_packs_epi32(low, _mm_srli_epi32(weights, 15)));
    }
}

/* Where the low parts of a pair of taps lie among split weights; the high parts are 2 further. */
static const int32_t *pair_weights(const int32_t *weights, int pair) {
    return weights + 4 * (pair / 2) + pair % 2;
}

WITH_AVX2 static inline void add_pair(__m256i *low, __m256i *high, __m256i values, const int32_t *weights) {
    *low = _mm256_add_epi32(*low, _mm256_madd_epi16(values, _mm256_set1_epi32(weights[0])));
    *high = _mm256_add_epi32(*high, _mm256_madd_epi16(values, _mm256_set1_epi32(weights[2])));
}

WITH_AVX2 static inline __m256i rounded_avx2(__m256i low, __m256i high) {
    return _mm256_srli_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, 15)), PRECISION_BITS);
}

/* 4 x 8 values to bytes: 0 to 3 of the low half of each vector, then of the high half. */
WITH_AVX2 static inline __m256i packed_avx2(const __m256i values[4]) {
    __m256i left = _mm256_packs_epi32(values[0], values[1]), right = _mm256_packs_epi32(values[2], values[3]);
    return _mm256_packus_epi16(left, right);
}

/* Red, green and blue of two taps, in pairs, of two rows: one row in each half of the result. */
WITH_AVX2 static inline __m256i load_pair(const uint8_t *row, const uint8_t *next_row) {
    const __m256i pairs = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    __m256i bytes = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)row));
    bytes = _mm256_inserti128_si256(bytes, _mm_loadu_si128((const __m128i *)next_row), 1);
    return _mm256_shuffle_epi8(bytes, pairs);
}

/* Four pixels of four bytes, of which the last is dropped. */
WITH_AVX2 static inline void store_pixels(uint8_t *target, __m128i pixels) {
    const __m128i without_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    __m128i bytes = _mm_shuffle_epi8(pixels, without_fourth);
    int last = _mm_extract_epi32(bytes, 2);
    _mm_storel_epi64((__m128i *)target, bytes);
    memcpy(target + 8, &last, sizeof last);
}

/* Four rows of one output pixel: a 128-bit half holds red, green, blue and nothing of one row. */
WITH_AVX2 ALWAYS_INLINE void horizontal_pixel(const uint8_t *const *rows, int offset, const int32_t *weights,
                                              int pairs, __m256i *values01, __m256i *values23) {
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(HALF);
    __m256i low01 = half, low23 = half, high01 = zero, high23 = zero;
    for (int pair = 0; pair < pairs; pair++, offset += 6) {
        const int32_t *part = pair_weights(weights, pair);
        add_pair(&low01, &high01, load_pair(rows[0] + offset, rows[1] + offset), part);
        add_pair(&low23, &high23, load_pair(rows[2] + offset, rows[3] + offset), part);
    }
    *values01 = rounded_avx2(low01, high01);
    *values23 = rounded_avx2(low23, high23);
}

WITH_AVX2 ALWAYS_INLINE void horizontal_pairs(const Windows *columns, int pairs, const uint8_t *const *rows,
                                              uint8_t *const *target) {
    int size = columns->size;
    ptrdiff_t stride = 4 * columns->quads;
    for (int start = 0; start < size; start += 4) {
        int pixel = minimum(start, size - 4);
        const int *first = columns->first + pixel;
        const int32_t *weights = columns->weights + pixel * stride;
        __m256i values[2][4];
        for (int i = 0; i < 4; i++, weights += stride) {
            horizontal_pixel(rows, 3 * first[i], weights, pairs, &values[0][i], &values[1][i]);
        }
        for (int i = 0; i < 2; i++) {
            __m256i pixels = packed_avx2(values[i]);
            store_pixels(target[2 * i] + 3 * pixel, _mm256_castsi256_si128(pixels));
            store_pixels(target[2 * i + 1] + 3 * pixel, _mm256_extracti128_si256(pixels, 1));
        }
    }
}

/* Loads run up to 16 bytes past a row's end, hence the copies of the rows. Most windows are one or two pairs
   long: constants, for the compiler to drop the loop, save a fifth of the time. */
WITH_AVX2 static void horizontal_avx2(const Resize *resize, const uint8_t *const *source,
                                      uint8_t *const *target) {
    const uint8_t *rows[BLOCK];
    for (int row = 0; row < BLOCK; row++) {
        uint8_t *padded = resize->padded + row * resize->padded_stride;
        rows[row] = memcpy(padded, source[row], 3 * (size_t)resize->width);
    }
    int pairs = (resize->columns.taps + 1) / 2;
    if (pairs == 1) horizontal_pairs(&resize->columns, 1, rows, target);
    else if (pairs == 2) horizontal_pairs(&resize->columns, 2, rows, target);
    else horizontal_pairs(&resize->columns, pairs, rows, target);
}

/* 32 columns: the bytes of two rows are interleaved and widened to pairs of 16-bit values. */
WITH_AVX2 static void vertical_avx2(const uint8_t *const *rows, const int32_t *weights, int taps,
                                    uint8_t *target, int bytes) {
    const __m256i zero = _mm256_setzero_si256();
    for (int start = 0; start < bytes; start += 32) {
        int column = minimum(start, bytes - 32);
        __m256i low[4], high[4];
        for (int i = 0; i < 4; i++) low[i] = _mm256_set1_epi32(HALF), high[i] = zero;
        for (int pair = 0; 2 * pair < taps; pair++) {
            const int32_t *part = pair_weights(weights, pair);
            __m256i even = _mm256_loadu_si256((const __m256i *)(rows[2 * pair] + column));
            __m256i odd = _mm256_loadu_si256((const __m256i *)(rows[2 * pair + 1] + column));
            __m256i left = _mm256_unpacklo_epi8(even, odd), right = _mm256_unpackhi_epi8(even, odd);
            add_pair(&low[0], &high[0], _mm256_unpacklo_epi8(left, zero), part);
            add_pair(&low[1], &high[1], _mm256_unpackhi_epi8(left, zero), part);
            add_pair(&low[2], &high[2], _mm256_unpacklo_epi8(right, zero), part);
            add_pair(&low[3], &high[3], _mm256_unpackhi_epi8(right, zero), part);
        }
        for (int i = 0; i < 4; i++) low[i] = rounded_avx2(low[i], high[i]);
        _mm256_storeu_si256((__m256i *)(target + column), packed_avx2(low));
    }
}

/* ---- AVX-512: four taps at once ----

   A weight is digit0 + digit1 * 2^8 + digit2 * 2^16 with digits from -128 to 127; vpdpbusd multiplies four
   unsigned bytes with four such digits and adds the products to a 32-bit lane. The three sums are combined
   modulo 2^32, where the full sum fits. */

/* Four weights become {digit0 of all four, digit1, digit2, 0}, a byte each. With 128 added, digits are the
   bytes of weight + 0x808080; flipping a byte's top bit takes the 128 off again. */
WITH_AVX512 static void split_weights_avx512(Windows *windows) {
    const __m128i transposed = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1);
    const __m128i offset = _mm_set1_epi32(0x808080);
    int32_t *end = windows->weights + (size_t)windows->size * windows->quads * 4;
    for (int32_t *quad = windows->weights; quad < end; quad += 4) {
        __m128i weights = _mm_loadu_si128((const __m128i *)quad);
        __m128i digits = _mm_xor_si128(_mm_add_epi32(weights, offset), offset);
        _mm_storeu_si128((__m128i *)quad, _mm_shuffle_epi8(digits, transposed));
    }
}

WITH_AVX512 static inline void add_quad(__m512i sums[3], __m512i values, const __m512i digits[3]) {
    for (int i = 0; i < 3; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], values, digits[i]);
}

WITH_AVX512 static inline __m512i rounded_avx512(const __m512i sums[3]) {
    __m512i high = _mm512_add_epi32(_mm512_slli_epi32(sums[1], 8), _mm512_slli_epi32(sums[2], 16));
    return _mm512_srli_epi32(_mm512_add_epi32(sums[0], high), PRECISION_BITS);
}

WITH_AVX512 static inline __mmask64 first_bytes(int count) {
    return count >= 64 ? ~(__mmask64)0 : _bzhi_u64(~(__mmask64)0, (unsigned)count);
}

/* Up to five output pixels of a row, whose windows start close together: one vpermb takes four taps of all of
   them from the 64 bytes at the first window; every further quad of taps lies 12 bytes on. */
WITH_AVX512 static void horizontal_avx512(const Resize *resize, const uint8_t *const *source,
                                          uint8_t *const *target) {
    const Windows *columns = &resize->columns;
    const int32_t(*lanes)[16] = (const int32_t(*)[16])resize->group_digits;
    const Group *group = resize->groups;
    for (int pixel = 0; pixel < columns->size; pixel += resize->group_pixels, group++) {
        __m512i tap_bytes = _mm512_loadu_si512(group->tap_bytes);
        __m512i sums[BLOCK][3];
        for (int row = 0; row < BLOCK; row++) {
            sums[row][0] = _mm512_set1_epi32(HALF);
            sums[row][1] = sums[row][2] = _mm512_setzero_si512();
        }
        int offset = group->offset;
        for (int quad = 0; quad < columns->quads; quad++, offset += 12, lanes += 3) {
            __m512i digits[3];
            for (int i = 0; i < 3; i++) digits[i] = _mm512_loadu_si512(lanes[i]);
            __mmask64 inside = first_bytes(3 * resize->width - offset);
            for (int row = 0; row < BLOCK; row++) {
                __m512i bytes = _mm512_maskz_loadu_epi8(inside, source[row] + offset);
                add_quad(sums[row], _mm512_permutexvar_epi8(tap_bytes, bytes), digits);
            }
        }
        int values = 3 * minimum(resize->group_pixels, columns->size - pixel);
        for (int row = 0; row < BLOCK; row++) {
            __m128i bytes = _mm512_cvtusepi32_epi8(rounded_avx512(sums[row]));
            _mm_mask_storeu_epi8(target[row] + 3 * pixel, (__mmask16)first_bytes(values), bytes);
        }
    }
}

/* 64 columns: the bytes of four rows are interleaved. */
WITH_AVX512 static void vertical_avx512(const uint8_t *const *rows, const int32_t *weights, int taps,
                                        uint8_t *target, int bytes) {
    for (int column = 0; column < bytes; column += 64) {
        __mmask64 inside = first_bytes(bytes - column);
        __m512i sums[4][3];
        for (int i = 0; i < 4; i++) {
            sums[i][0] = _mm512_set1_epi32(HALF);
            sums[i][1] = sums[i][2] = _mm512_setzero_si512();
        }
        for (int tap = 0; tap < taps; tap += 4) {
            __m512i row[4], digits[3];
            for (int i = 0; i < 4; i++) row[i] = _mm512_maskz_loadu_epi8(inside, rows[tap + i] + column);
            for (int i = 0; i < 3; i++) digits[i] = _mm512_set1_epi32(weights[tap + i]);
            __m512i left0 = _mm512_unpacklo_epi8(row[0], row[1]);
            __m512i right0 = _mm512_unpackhi_epi8(row[0], row[1]);
            __m512i left2 = _mm512_unpacklo_epi8(row[2], row[3]);
            __m512i right2 = _mm512_unpackhi_epi8(row[2], row[3]);
            add_quad(sums[0], _mm512_unpacklo_epi16(left0, left2), digits);
            add_quad(sums[1], _mm512_unpackhi_epi16(left0, left2), digits);
            add_quad(sums[2], _mm512_unpacklo_epi16(right0, right2), digits);
            add_quad(sums[3], _mm512_unpackhi_epi16(right0, right2), digits);
        }
        __m512i left = _mm512_packs_epi32(rounded_avx512(sums[0]), rounded_avx512(sums[1]));
        __m512i right = _mm512_packs_epi32(rounded_avx512(sums[2]), rounded_avx512(sums[3]));
        _mm512_mask_storeu_epi8(target + column, inside, _mm512_packus_epi16(left, right));
    }
}

/* As many pixels to a group as keep all their first quads of taps within 64 bytes. */
static int count_group_pixels(const Windows *columns) {
    for (int pixels = 5; pixels > 1; pixels--) {
        int span = 0;
        for (int pixel = 0; pixel < columns->size; pixel += pixels) {
            int last = minimum(pixel + pixels, columns->size) - 1;
            span = maximum(span, columns->first[last] - columns->first[pixel]);
        }
        if (3 * (span + 4) <= 64) return pixels;
    }
    return 1;
}

/* Lay out for horizontal_avx512 what its 16 lanes need: lane 3 * pixel + channel of the group. A pixel fills
   four lanes; the next one takes the fourth back, and the last lane of all goes unused. */
WITH_AVX512 static int make_groups(Resize *resize) {
    const Windows *columns = &resize->columns;
    const __m128i taps = _mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, 0, 0, 0, 0);
    const int32_t *digits = columns->weights;
    int pixels = resize->group_pixels = count_group_pixels(columns), quads = columns->quads;
    int groups = (columns->size + pixels - 1) / pixels;
    resize->groups = calloc((size_t)groups, sizeof(Group));
    resize->group_digits = calloc((size_t)groups * quads, 3 * sizeof *resize->group_digits);
    if (!resize->groups || !resize->group_digits) return -1;
    for (int i = 0; i < groups; i++) {
        Group *group = &resize->groups[i];
        group->offset = 3 * columns->first[i * pixels];
        for (int pixel = i * pixels; pixel < minimum((i + 1) * pixels, columns->size); pixel++) {
            int lane = 3 * (pixel - i * pixels);
            __m128i offset = _mm_set1_epi8((char)(3 * columns->first[pixel] - group->offset));
            _mm_storeu_si128((__m128i *)(group->tap_bytes + 4 * lane), _mm_add_epi8(taps, offset));
            int32_t(*lanes)[16] = resize->group_digits + (size_t)i * quads * 3;
            for (int quad = 0; quad < quads; quad++, digits += 4, lanes += 3) {
                _mm_storeu_si128((__m128i *)&lanes[0][lane], _mm_set1_epi32(digits[0]));
                _mm_storeu_si128((__m128i *)&lanes[1][lane], _mm_set1_epi32(digits[1]));
                _mm_storeu_si128((__m128i *)&lanes[2][lane], _mm_set1_epi32(digits[2]));
            }
        }
    }
    return 0;
}

#endif

/* ---- The two passes ---- */

/* Pillow 13 saves work on tall images; Pillow 12 and older always went along the rows first. */
static int goes_vertical_first(const Resize *resize) {
    int fewer_rows = resize->height - resize->rows.size, fewer_columns = resize->width - resize->columns.size;
    return fewer_rows > 0 && fewer_rows > 2 * fewer_columns;
}

/* Choose the kernels, and turn weights into what they expect. */
static int choose_kernels(Resize *resize, int variant) {
    if (variant == AVX2 && minimum(resize->width, resize->columns.size) < AVX2_MIN_WIDTH) variant = PORTABLE;
    resize->horizontal = SELECT(variant, horizontal);
    resize->vertical = SELECT(variant, vertical);
#if defined(HAVE_X86)
    if (variant == AVX512) {
        split_weights_avx512(&resize->columns);
        split_weights_avx512(&resize->rows);
        return make_groups(resize);
    }
    if (variant == AVX2) {
        split_weights_avx2(&resize->columns);
        split_weights_avx2(&resize->rows);
        resize->padded_stride = 3 * (size_t)resize->width + 16;
        resize->padded = calloc(BLOCK, resize->padded_stride);
        return resize->padded ? 0 : -1;
    }
#endif
    return 0;
}

static int prepare(Resize *resize, int variant, int out_width) {
    if (make_windows(&resize->columns, resize->width, out_width)) return -1;
    if (make_windows(&resize->rows, resize->height, resize->target.count)) return -1;
    Rows *between = &resize->between;
    between->count = goes_vertical_first(resize) ? BLOCK : resize->rows.taps + BLOCK;
    between->stride = 3 * (ptrdiff_t)(goes_vertical_first(resize) ? resize->width : resize->columns.size);
    between->start = malloc((size_t)between->count * (size_t)between->stride);
    resize->window_rows = malloc((size_t)resize->rows.quads * 4 * sizeof *resize->window_rows);
    if (!between->start || !resize->window_rows) return -1;
    return choose_kernels(resize, variant);
}

static void release(Resize *resize) {
    free(resize->columns.first);
    free(resize->columns.weights);
    free(resize->rows.first);
    free(resize->rows.weights);
    free(resize->between.start);
    free(resize->window_rows);
    free(resize->padded);
    free(resize->groups);
    free(resize->group_digits);
}

static uint8_t *row_of(const Rows *rows, int row) { return rows->start + row % rows->count * rows->stride; }

/* Rows `start` to `start` + BLOCK - 1; past `last`, the last one again. */
static void horizontal_block(const Resize *resize, const Rows *from, const Rows *to, int start, int last) {
    const uint8_t *source[BLOCK];
    uint8_t *target[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        source[i] = row_of(from, minimum(start + i, last));
        target[i] = row_of(to, minimum(start + i, last));
    }
    resize->horizontal(resize, source, target);
}

/* Row `i` of the output; past the end of its window, weights are 0 and any row will do. */
static void vertical_row(const Resize *resize, const Rows *from, const Rows *to, int i) {
    const Windows *rows = &resize->rows;
    for (int tap = 0; tap < 4 * rows->quads; tap++) {
        resize->window_rows[tap] = row_of(from, rows->first[i] + minimum(tap, rows->taps - 1));
    }
    const int32_t *weights = rows->weights + (size_t)i * 4 * rows->quads;
    resize->vertical(resize->window_rows, weights, rows->taps, row_of(to, i), (int)to->stride);
}

/* A pass that keeps the size is skipped. Between passes few rows are kept: they stay in the nearest cache. */
static void resize_image(const Resize *resize) {
    const Rows *source = &resize->source, *between = &resize->between, *target = &resize->target;
    int last = resize->height - 1, out_last = target->count - 1, done = 0;
    if (resize->height == target->count) {
        for (; done <= last; done += BLOCK) horizontal_block(resize, source, target, done, last);
    } else if (resize->width == resize->columns.size) {
        for (; done <= out_last; done++) vertical_row(resize, source, target, done);
    } else if (goes_vertical_first(resize)) {
        for (; done <= out_last; done += BLOCK) {
            int end = minimum(done + BLOCK, out_last + 1);
            for (int i = done; i < end; i++) vertical_row(resize, source, between, i);
            horizontal_block(resize, between, target, done, out_last);
        }
    } else {
        for (int i = 0; i <= out_last; i++) {
            int needed = resize->rows.first[i] + resize->rows.taps;
            for (; done < needed; done += BLOCK) horizontal_block(resize, source, between, done, last);
            vertical_row(resize, between, target, i);
        }
    }
}

static void copy_image(const Resize *resize) {
    for (int row = 0; row < resize->height; row++) {
        memcpy(row_of(&resize->target, row), row_of(&resize->source, row), (size_t)resize->target.stride);
    }
}

int resize_bilinear(int variant, const uint8_t *source, ptrdiff_t row_stride, int height, int width,
                    uint8_t *target, int out_height, int out_width) {
    Resize resize = {
        .height = height,
        .width = width,
        .source = {(uint8_t *)source, row_stride, height}, /* never written to */
        .target = {target, 3 * (ptrdiff_t)out_width, out_height},
    };
    if (height == out_height && width == out_width) {
        copy_image(&resize);
        return 0;
    }
    int status = prepare(&resize, variant, out_width);
    if (status == 0) resize_image(&resize);
    release(&resize);
    return status;
}

void mirror_rows(uint8_t *image, int height, int width) {
    for (int y = 0; y < height; y++, image += 3 * (size_t)width) {
        uint8_t *left = image, *right = image + 3 * (size_t)(width - 1);
        for (; left < right; left += 3, right -= 3) {
            uint8_t pixel[3];
            memcpy(pixel, left, 3);
            memcpy(left, right, 3);
            memcpy(right, pixel, 3);
        }
    }
}
