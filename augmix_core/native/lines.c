#include "lines.h"

static size_t line_count(const Shape *shape) {
    size_t longest = (size_t)(shape->height > shape->width ? shape->height : shape->width);
    return (longest + OVERRUN + 15) / 16 * 16;
}

size_t lines_bytes(const Shape *shape) {
    size_t a_line = sizeof(int64_t) + 5 * sizeof(int32_t) + 2 * sizeof(int16_t);
    return line_count(shape) * a_line + ((size_t)shape->height + 1) * ((size_t)shape->width + OVERRUN);
}

Lines lines_in(uint8_t *memory, const Shape *shape) {
    size_t count = line_count(shape);
    Lines lines;
    lines.position = (int64_t *)(void *)memory;
    lines.begin = (int32_t *)(void *)(lines.position + count);
    lines.end = lines.begin + count;
    lines.is_close = lines.end + count;
    lines.shift = lines.is_close + count;
    lines.weight = lines.shift + count;
    lines.low_weight = (int16_t *)(void *)(lines.weight + count);
    lines.carry = lines.low_weight + count;
    lines.rows = (uint8_t *)(lines.carry + count);
    return lines;
}
