#include "mix.h"

#include <string.h>

#include "planes.h"
#include "simd.h"

enum { HALF = 16384, BITS = 15 };

/* In 16 bits, of which a vector holds twice as many: with weight = 128 high + low, the sum of high x level stays below
   2**16 as all weights add up to 2**15, and so does low x level of two sources; the latter's multiples of 128 carry
   over, and the rest counts once it adds up to 128. */
static void mix_portable(const uint8_t *const *sources, const int16_t *weights, int count, uint8_t *target,
                         size_t length) {
    enum { BLOCK = 64 };
    for (size_t start = 0; start < length; start += BLOCK) {
        uint16_t sum[BLOCK], rest[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            sum[i] = HALF / 128;
            rest[i] = 0;
        }
        for (int source = 0; source < count; source += 2) {
            int partner = source + 1 < count ? source + 1 : source;
            const uint8_t *a = sources[source] + start, *b = sources[partner] + start;
            uint16_t weight_a = (uint16_t)weights[source];
            uint16_t weight_b = partner > source ? (uint16_t)weights[partner] : 0;
            uint16_t high_a = weight_a / 128, low_a = weight_a % 128;
            uint16_t high_b = weight_b / 128, low_b = weight_b % 128;
            for (int i = 0; i < BLOCK; i++) {
                uint16_t low = (uint16_t)(a[i] * low_a + b[i] * low_b);
                sum[i] = (uint16_t)(sum[i] + a[i] * high_a + b[i] * high_b + low / 128);
                rest[i] = (uint16_t)(rest[i] + low % 128);
            }
        }
        for (int i = 0; i < BLOCK; i++) target[start + i] = (uint8_t)((uint16_t)(sum[i] + rest[i] / 128) / 256);
    }
}

#if defined(HAVE_X86)
/* Two sources at a time: their bytes are interleaved and widened to 16-bit pairs, of which one multiply-and-add makes
   32-bit sums. Interleaving and packing both work within 128 bits, so order is kept. */
static int32_t pair_of(const int16_t *weights, int source, int count) {
    int second = source + 1 < count ? weights[source + 1] : 0;
    return (int32_t)((uint32_t)(uint16_t)weights[source] | (uint32_t)second << 16);
}

WITH_AVX2 static void mix_avx2(const uint8_t *const *sources, const int16_t *weights, int count, uint8_t *target,
                               size_t length) {
    const __m256i zero = _mm256_setzero_si256();
    for (size_t i = 0; i < length; i += 32) {
        __m256i sum0 = _mm256_set1_epi32(HALF), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for (int source = 0; source < count; source += 2) {
            const uint8_t *partner = sources[source + 1 < count ? source + 1 : source];
            __m256i pair = _mm256_set1_epi32(pair_of(weights, source, count));
            __m256i a = _mm256_loadu_si256((const __m256i *)(sources[source] + i));
            __m256i b = _mm256_loadu_si256((const __m256i *)(partner + i));
            __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), pair));
            sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), pair));
            sum2 = _mm256_add_epi32(sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), pair));
            sum3 = _mm256_add_epi32(sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), pair));
        }
        __m256i low = _mm256_packs_epi32(_mm256_srli_epi32(sum0, BITS), _mm256_srli_epi32(sum1, BITS));
        __m256i high = _mm256_packs_epi32(_mm256_srli_epi32(sum2, BITS), _mm256_srli_epi32(sum3, BITS));
        _mm256_storeu_si256((__m256i *)(target + i), _mm256_packus_epi16(low, high));
    }
}

WITH_AVX512 static void mix_avx512(const uint8_t *const *sources, const int16_t *weights, int count, uint8_t *target,
                                   size_t length) {
    const __m512i zero = _mm512_setzero_si512();
    for (size_t i = 0; i < length; i += 64) {
        __m512i sum0 = _mm512_set1_epi32(HALF), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for (int source = 0; source < count; source += 2) {
            const uint8_t *partner = sources[source + 1 < count ? source + 1 : source];
            __m512i pair = _mm512_set1_epi32(pair_of(weights, source, count));
            __m512i a = _mm512_loadu_si512(sources[source] + i), b = _mm512_loadu_si512(partner + i);
            __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
            sum0 = _mm512_dpwssd_epi32(sum0, _mm512_unpacklo_epi8(low, zero), pair);
            sum1 = _mm512_dpwssd_epi32(sum1, _mm512_unpackhi_epi8(low, zero), pair);
            sum2 = _mm512_dpwssd_epi32(sum2, _mm512_unpacklo_epi8(high, zero), pair);
            sum3 = _mm512_dpwssd_epi32(sum3, _mm512_unpackhi_epi8(high, zero), pair);
        }
        __m512i low = _mm512_packs_epi32(_mm512_srli_epi32(sum0, BITS), _mm512_srli_epi32(sum1, BITS));
        __m512i high = _mm512_packs_epi32(_mm512_srli_epi32(sum2, BITS), _mm512_srli_epi32(sum3, BITS));
        _mm512_storeu_si512(target + i, _mm512_packus_epi16(low, high));
    }
}
#endif

void mix(int variant, const uint8_t *const *sources, const int16_t *weights, int count, uint8_t *target,
         size_t length) {
    SELECT(variant, mix)(sources, weights, count, target, length);
}

/* Multiplication and addition are rounded one by one on every machine (the build forbids fusing them). */
ALWAYS_INLINE void normalise_body(const uint8_t *view, float *restrict target, size_t pixels, int interleaved,
                                  const float scale[3], const float shift[3]) {
    if (interleaved) {
        /* 16 pixels are 48 values: the three channels' constants then repeat at fixed places */
        float scales[48], shifts[48];
        for (int i = 0; i < 48; i++) {
            scales[i] = scale[i % 3];
            shifts[i] = shift[i % 3];
        }
        size_t values = CHANNELS * pixels, start = 0;
        for (; start + 48 <= values; start += 48)
            for (int i = 0; i < 48; i++) target[start + i] = view[start + i] * scales[i] + shifts[i];
        for (; start < values; start++) target[start] = view[start] * scale[start % 3] + shift[start % 3];
    } else {
        for (int channel = 0; channel < CHANNELS; channel++)
            for (size_t i = channel * pixels; i < (channel + 1) * pixels; i++)
                target[i] = view[i] * scale[channel] + shift[channel];
    }
}

static void normalise_portable(const uint8_t *view, float *restrict target, size_t pixels, int interleaved,
                               const float scale[3], const float shift[3]) {
    normalise_body(view, target, pixels, interleaved, scale, shift);
}

#if defined(HAVE_X86)
WITH_AVX2 static void normalise_avx2(const uint8_t *view, float *restrict target, size_t pixels, int interleaved,
                                     const float scale[3], const float shift[3]) {
    normalise_body(view, target, pixels, interleaved, scale, shift);
}

WITH_AVX512 static void normalise_avx512(const uint8_t *view, float *restrict target, size_t pixels, int interleaved,
                                         const float scale[3], const float shift[3]) {
    normalise_body(view, target, pixels, interleaved, scale, shift);
}
#endif

void normalise(int variant, const uint8_t *view, float *target, size_t pixels, int interleaved, const float scale[3],
               const float shift[3]) {
    SELECT(variant, normalise)(view, target, pixels, interleaved, scale, shift);
}
