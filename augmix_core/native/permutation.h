/* Keyed permutations, evaluated by index: the order of a training stream. */
#ifndef AUGMIX_PERMUTATION_H
#define AUGMIX_PERMUTATION_H

#include <stddef.h>
#include <stdint.h>

/* Sends each index, in place, where a permutation of 0 .. size - 1 sends it: a Feistel network of six rounds on the
   smallest even number of bits that holds the size, walked until it lands below it. The round function is the first
   word of Philox4x32-10 of the counter (right half, window, purpose << 24 | round, epoch). */
void permute(int64_t *index, const int64_t *size, const int64_t *epoch, const int64_t *window, size_t count,
             uint64_t key, uint32_t purpose);

#endif
