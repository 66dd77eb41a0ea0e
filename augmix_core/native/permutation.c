#include "permutation.h"

#include "philox.h"

enum { ROUNDS = 6 };

static int half_bits_of(uint64_t size) {
    int half = 1;
    while (half < 31 && (uint64_t)1 << 2 * half < size) half++;
    return half;
}

void permute(int64_t *index, const int64_t *size, const int64_t *epoch, const int64_t *window, size_t count,
             uint64_t key, uint32_t purpose) {
    for (size_t i = 0; i < count; i++) {
        int half = half_bits_of((uint64_t)size[i]);
        uint64_t mask = ((uint64_t)1 << half) - 1, at = (uint64_t)index[i];
        do {
            uint64_t left = at >> half, right = at & mask;
            for (uint32_t round = 0; round < ROUNDS; round++) {
                Words counter = {{(uint32_t)right, (uint32_t)window[i], purpose << 24 | round, (uint32_t)epoch[i]}};
                uint64_t drawn = philox4x32(counter, key).word[0] & mask;
                uint64_t next = left ^ drawn;
                left = right;
                right = next;
            }
            at = left << half | right;
        } while (at >= (uint64_t)size[i]);
        index[i] = (int64_t)at;
    }
}
