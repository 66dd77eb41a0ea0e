/* Philox4x32-10: four random words as a pure function of a 64-bit key and a 128-bit counter.
   Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3". */
#ifndef AUGMIX_PHILOX_H
#define AUGMIX_PHILOX_H

#include <stdint.h>

#include "simd.h"

typedef struct {
    uint32_t word[4];
} Words;

/* The counters of many blocks, word by word; philox_body turns them into the random words in their place. */
enum { BLOCKS_AT_ONCE = 48 };

typedef struct {
    uint32_t word[4][BLOCKS_AT_ONCE];
} Blocks;

ALWAYS_INLINE Words philox4x32(Words counter, uint64_t key) {
    uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * counter.word[0];
        uint64_t product1 = (uint64_t)0xCD9E8D57u * counter.word[2];
        counter = (Words){{(uint32_t)(product1 >> 32) ^ counter.word[1] ^ key0, (uint32_t)product1,
                           (uint32_t)(product0 >> 32) ^ counter.word[3] ^ key1, (uint32_t)product0}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

/* A multiple of 16 blocks, as a loop that compilers vectorise. */
ALWAYS_INLINE void philox_body(Blocks *blocks, int count, uint64_t key) {
    for (int i = 0; i < count; i++) {
        Words counter = {{blocks->word[0][i], blocks->word[1][i], blocks->word[2][i], blocks->word[3][i]}};
        Words drawn = philox4x32(counter, key);
        for (int k = 0; k < 4; k++) blocks->word[k][i] = drawn.word[k];
    }
}

#endif
