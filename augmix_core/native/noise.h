/* Random words in bulk, and what takes one for each value or pixel: noise and glass. */
#ifndef AUGMIX_NOISE_H
#define AUGMIX_NOISE_H

#include <stddef.h>
#include <stdint.h>

/* Words 0, 1, .. of the blocks first, first + 1, ..: block i is Philox4x32-10 of the counter (i, 0, 0, 0). */
void draw_words(int variant, uint32_t *target, size_t count, uint64_t key, uint32_t first);

/* Draws a level for each level, by its row of 256 entries of an alias table (Walker, 1977): a word's low byte names an
   entry; where the word's other 24 bits are below the entry's, the level is that byte, else the entry's low byte. */
void draw_levels(int variant, const uint8_t *levels, const uint32_t *words, const uint32_t *table, uint8_t *target,
                 size_t count);

/* Glass: `passes` times, from the last pixel to the first but for a margin of `reach`, each pixel of the (H, W, 3) image
   becomes what its neighbour is by then, up to `reach` rows and columns away. A pixel takes one word: the low half
   gives the column, the high half the row. */
void displace(uint8_t *image, int height, int width, int reach, int passes, const uint32_t *words);

#endif
