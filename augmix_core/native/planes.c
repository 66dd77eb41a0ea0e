#include "planes.h"

#include <string.h>

#include "simd.h"

Shape shape_of(int height, int width) {
    size_t pixels = (size_t)height * (size_t)width;
    size_t slack = 4 * (size_t)width + OVERRUN;
    return (Shape){height, width, pixels, (pixels + slack + 63) / 64 * 64};
}

static void split_planes_portable(const uint8_t *interleaved, uint8_t *planes, size_t pitch, size_t pixels) {
    uint8_t *red = planes, *green = planes + pitch, *blue = planes + 2 * pitch;
    for (size_t i = 0; i < pixels; i++) {
        red[i] = interleaved[3 * i];
        green[i] = interleaved[3 * i + 1];
        blue[i] = interleaved[3 * i + 2];
    }
}

static void join_planes_portable(const uint8_t *planes, size_t pitch, uint8_t *interleaved, size_t pixels) {
    const uint8_t *red = planes, *green = planes + pitch, *blue = planes + 2 * pitch;
    for (size_t i = 0; i < pixels; i++) {
        interleaved[3 * i] = red[i];
        interleaved[3 * i + 1] = green[i];
        interleaved[3 * i + 2] = blue[i];
    }
}

#if defined(HAVE_X86)
/* Vector v of three vectors of `size` interleaved bytes holds byte 3 i + c of pixel i in channel c, and so on: where
   each byte of the one side lies on the other. 0x80 tells pshufb to give 0; vpermb never sees those. */
static uint8_t split16[CHANNELS][3][16], join16[3][CHANNELS][16];
static uint8_t split64[CHANNELS][64], join64[3][64];
static uint64_t split64_last[CHANNELS], join64_blue[3];

void prepare_planes(void) {
    memset(split16, 0x80, sizeof split16);
    memset(join16, 0x80, sizeof join16);
    for (int at = 0; at < 3 * 16; at++) {
        split16[at % 3][at / 16][at / 3] = (uint8_t)(at % 16);
        join16[at / 16][at % 3][at % 16] = (uint8_t)(at / 3);
    }
    for (int at = 0; at < 3 * 64; at++) {
        int pixel = at / 3, channel = at % 3, vector = at / 64, lane = at % 64;
        /* two-source permutes take red and green (or vectors 0 and 1) first; blue (vector 2) is merged in after */
        split64[channel][pixel] = (uint8_t)(at % 128);
        if (vector == 2) split64_last[channel] |= (uint64_t)1 << pixel;
        join64[vector][lane] = (uint8_t)(channel == 1 ? 64 + pixel : pixel);
        if (channel == 2) join64_blue[vector] |= (uint64_t)1 << lane;
    }
}

WITH_AVX2 static inline __m128i pick16(const uint8_t index[3][16], __m128i a, __m128i b, __m128i c) {
    __m128i from_a = _mm_shuffle_epi8(a, _mm_loadu_si128((const __m128i *)index[0]));
    __m128i from_b = _mm_shuffle_epi8(b, _mm_loadu_si128((const __m128i *)index[1]));
    __m128i from_c = _mm_shuffle_epi8(c, _mm_loadu_si128((const __m128i *)index[2]));
    return _mm_or_si128(_mm_or_si128(from_a, from_b), from_c);
}

WITH_AVX2 static void split_planes_avx2(const uint8_t *interleaved, uint8_t *planes, size_t pitch, size_t pixels) {
    size_t i = 0;
    for (; i + 16 <= pixels; i += 16) {
        const __m128i *from = (const __m128i *)(interleaved + 3 * i);
        __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1), c = _mm_loadu_si128(from + 2);
        for (int channel = 0; channel < CHANNELS; channel++)
            _mm_storeu_si128((__m128i *)(planes + channel * pitch + i), pick16(split16[channel], a, b, c));
    }
    split_planes_portable(interleaved + 3 * i, planes + i, pitch, pixels - i);
}

WITH_AVX2 static void join_planes_avx2(const uint8_t *planes, size_t pitch, uint8_t *interleaved, size_t pixels) {
    size_t i = 0;
    for (; i + 16 <= pixels; i += 16) {
        __m128i red = _mm_loadu_si128((const __m128i *)(planes + i));
        __m128i green = _mm_loadu_si128((const __m128i *)(planes + pitch + i));
        __m128i blue = _mm_loadu_si128((const __m128i *)(planes + 2 * pitch + i));
        __m128i *to = (__m128i *)(interleaved + 3 * i);
        for (int vector = 0; vector < 3; vector++)
            _mm_storeu_si128(to + vector, pick16(join16[vector], red, green, blue));
    }
    join_planes_portable(planes + i, pitch, interleaved + 3 * i, pixels - i);
}

WITH_AVX512 static void split_planes_avx512(const uint8_t *interleaved, uint8_t *planes, size_t pitch, size_t pixels) {
    size_t i = 0;
    for (; i + 64 <= pixels; i += 64) {
        const uint8_t *from = interleaved + 3 * i;
        __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 64), c = _mm512_loadu_si512(from + 128);
        for (int channel = 0; channel < CHANNELS; channel++) {
            __m512i index = _mm512_loadu_si512(split64[channel]);
            __m512i plane = _mm512_permutex2var_epi8(a, index, b);
            plane = _mm512_mask_permutexvar_epi8(plane, split64_last[channel], index, c);
            _mm512_storeu_si512(planes + channel * pitch + i, plane);
        }
    }
    split_planes_portable(interleaved + 3 * i, planes + i, pitch, pixels - i);
}

WITH_AVX512 static void join_planes_avx512(const uint8_t *planes, size_t pitch, uint8_t *interleaved, size_t pixels) {
    size_t i = 0;
    for (; i + 64 <= pixels; i += 64) {
        __m512i red = _mm512_loadu_si512(planes + i);
        __m512i green = _mm512_loadu_si512(planes + pitch + i);
        __m512i blue = _mm512_loadu_si512(planes + 2 * pitch + i);
        for (int vector = 0; vector < 3; vector++) {
            __m512i index = _mm512_loadu_si512(join64[vector]);
            __m512i joined = _mm512_permutex2var_epi8(red, index, green);
            joined = _mm512_mask_permutexvar_epi8(joined, join64_blue[vector], index, blue);
            _mm512_storeu_si512(interleaved + 3 * i + 64 * vector, joined);
        }
    }
    join_planes_portable(planes + i, pitch, interleaved + 3 * i, pixels - i);
}
#else
void prepare_planes(void) {}
#endif

void split_planes(int variant, const uint8_t *interleaved, uint8_t *planes, size_t pitch, size_t pixels) {
    SELECT(variant, split_planes)(interleaved, planes, pitch, pixels);
}

void join_planes(int variant, const uint8_t *planes, size_t pitch, uint8_t *interleaved, size_t pixels) {
    SELECT(variant, join_planes)(planes, pitch, interleaved, pixels);
}
