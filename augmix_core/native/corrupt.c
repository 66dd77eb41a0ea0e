#include "corrupt.h"

#include "distance.h"
#include "filter.h"
#include "noise.h"
#include "tone.h"
#include "warp.h"

enum { LEVELS = 256, MAX_REACH = 1 << 16, MAX_CHANNELS = 64, MAX_DISTANCE = 1 << 30 };
static const Py_ssize_t MAX_VALUES = (Py_ssize_t)1 << 30;
static const float MAX_COORDINATE = 0x1p20f;

static void release(Py_buffer *buffers, int count) {
    for (int i = 0; i < count; i++) PyBuffer_Release(&buffers[i]);
}

/* What a method returns when its checks held or set an exception, and its kernel ran or found memory short. */
static PyObject *end(int sound, int failed) {
    if (!sound) return NULL;
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static int holds_floats(const Py_buffer *buffer, Py_ssize_t count) {
    return buffer->len == count * (Py_ssize_t)sizeof(float);
}

/* A float32 image of any number of channels, and a target like it. */
static int check_floats(const Py_buffer *source, const Py_buffer *target, int height, int width, int channels) {
    return check_image(height, width) &&
           check(channels >= 1 && channels <= MAX_CHANNELS, "there must be 1 to 64 channels") &&
           check(holds_floats(source, (Py_ssize_t)height * width * channels) && target->len == source->len,
                 "source and target must be (height, width, channels) float32");
}

static int check_mode(int mode) { return check(mode >= 0 && mode < MODE_COUNT, "the mode is unknown"); }

PyObject *native_draw_words(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer target;
    unsigned long long key;
    Py_ssize_t first;
    int variant;
    if (!PyArg_ParseTuple(arguments, "w*Kni:draw_words", &target, &key, &first, &variant)) return NULL;
    Py_ssize_t count = target.len / 4;
    int sound = check_variant(variant) && check(target.len == 4 * count && first >= 0 &&
                                                    first + count / 4 < (Py_ssize_t)UINT32_MAX,
                                                "words must be uint32, of the stream's first 2**32 blocks");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        draw_words(variant, target.buf, (size_t)count, key, (uint32_t)first);
        Py_END_ALLOW_THREADS;
    }
    release(&target, 1);
    return end(sound, 0);
}

PyObject *native_draw_levels(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[4], *levels = &buffers[0], *words = &buffers[1], *table = &buffers[2], *target = &buffers[3];
    int variant;
    if (!PyArg_ParseTuple(arguments, "y*y*y*w*i:draw_levels", levels, words, table, target, &variant)) return NULL;
    int sound = check_variant(variant) &&
                check(target->len == levels->len && words->len == 4 * levels->len &&
                          table->len == LEVELS * LEVELS * 4,
                      "levels and target must be uint8, words uint32 of the same number, the table 256 x 256 uint32");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        draw_levels(variant, levels->buf, words->buf, table->buf, target->buf, (size_t)levels->len);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 4);
    return end(sound, 0);
}

PyObject *native_displace(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[2], *image = &buffers[0], *words = &buffers[1];
    int height, width, reach, passes;
    if (!PyArg_ParseTuple(arguments, "w*y*iiii:displace", image, words, &height, &width, &reach, &passes)) return NULL;
    int sound = check_image(height, width) &&
                check(reach >= 1 && passes >= 1 && reach < MAX_REACH / 2 && passes < MAX_REACH,
                      "reach or passes is out of range");
    if (sound) {
        Py_ssize_t rows = height - 2 * reach, columns = width - 2 * reach;
        Py_ssize_t moved = rows > 0 && columns > 0 ? rows * columns * passes : 0;
        sound = check(image->len == (Py_ssize_t)3 * height * width && words->len == 4 * moved,
                      "the image must be (height, width, 3) uint8, with one uint32 word for each pixel that moves");
    }
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        displace(image->buf, height, width, reach, passes, words->buf);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 2);
    return end(sound, 0);
}

PyObject *native_sum_channels(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer image;
    int variant;
    uint64_t sums[3];
    if (!PyArg_ParseTuple(arguments, "y*i:sum_channels", &image, &variant)) return NULL;
    int sound = check_variant(variant) && check(image.len % 3 == 0, "the image must have three channels");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        sum_channels(variant, image.buf, (size_t)image.len / 3, sums);
        Py_END_ALLOW_THREADS;
    }
    release(&image, 1);
    if (!sound) return NULL;
    return Py_BuildValue("KKK", (unsigned long long)sums[0], (unsigned long long)sums[1], (unsigned long long)sums[2]);
}

PyObject *native_look_up(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[3], *image = &buffers[0], *table = &buffers[1], *target = &buffers[2];
    if (!PyArg_ParseTuple(arguments, "y*y*w*:look_up", image, table, target)) return NULL;
    int by_value = table->len == LEVELS * LEVELS;
    int sound = check((by_value || table->len == 3 * LEVELS) && image->len % 3 == 0 && target->len == image->len,
                      "image and target must be (.., 3) uint8, the table (3, 256) or (256, 256) uint8");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        (by_value ? look_up_by_value : look_up_channels)(image->buf, table->buf, target->buf, (size_t)image->len / 3);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 3);
    return end(sound, 0);
}

PyObject *native_correlate(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[4], *source = &buffers[0], *target = &buffers[1], *offsets = &buffers[2], *weights = &buffers[3];
    int height, width, channels, mode, variant, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiy*y*ii:correlate", source, target, &height, &width, &channels, offsets,
                          weights, &mode, &variant))
        return NULL;
    Py_ssize_t count = weights->len / (Py_ssize_t)sizeof(float), reach = 0;
    int sound = check_floats(source, target, height, width, channels) && check_mode(mode) && check_variant(variant) &&
                check(count >= 1 && count <= MAX_REACH && holds_floats(weights, count) && offsets->len == 8 * count,
                      "offsets must be (T, 2) int32 and weights (T,) float32, T at least 1");
    const int32_t *offset = offsets->buf;
    for (Py_ssize_t i = 0; sound && i < 2 * count; i++) {
        sound = check(offset[i] > -MAX_REACH && offset[i] < MAX_REACH, "a tap must lie within 2**16 pixels");
        if (sound && (offset[i] < 0 ? -offset[i] : offset[i]) > reach) reach = offset[i] < 0 ? -offset[i] : offset[i];
    }
    sound = sound && check((height + 2 * reach) * (width + 2 * reach) <= MAX_VALUES / channels,
                           "the taps reach too far for an image of this size");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        failed = correlate(variant, source->buf, target->buf, height, width, channels, offset, weights->buf, (int)count,
                           (Mode)mode);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 4);
    return end(sound, failed);
}

PyObject *native_multiply(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[3], *left = &buffers[0], *right = &buffers[1], *target = &buffers[2];
    int rows, inner, columns, variant, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*y*w*iiii:multiply", left, right, target, &rows, &inner, &columns, &variant))
        return NULL;
    int sound = check_variant(variant) && check_image(rows, inner) && check_image(inner, columns) &&
                check_image(rows, columns) &&
                check(holds_floats(left, (Py_ssize_t)rows * inner) && holds_floats(right, (Py_ssize_t)inner * columns) &&
                          holds_floats(target, (Py_ssize_t)rows * columns),
                      "matrices must be float32, (rows, inner) times (inner, columns)");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        failed = multiply(variant, left->buf, right->buf, target->buf, rows, inner, columns);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 3);
    return end(sound, failed);
}

/* Whether (count, length) indices each name a value that has a next one, as far as the axis has two. */
static int check_axis(const Py_buffer *before, const Py_buffer *fraction, Py_ssize_t count, int length) {
    if (!check(before->len == 4 * count * length && holds_floats(fraction, count * length),
               "indices must be (count, length) int32, and fractions float32 of that shape"))
        return 0;
    const int32_t *value = before->buf;
    for (Py_ssize_t i = 0; i < count * length; i++)
        if (value[i] < 0 || value[i] > (length > 1 ? length - 2 : 0))
            return check(0, "an index must lie before the last value of its axis");
    return 1;
}

PyObject *native_sum_of_zooms(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[6], *source = &buffers[0], *target = &buffers[1];
    int height, width, channels, variant, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiy*y*y*y*i:sum_of_zooms", source, target, &height, &width, &channels,
                          &buffers[2], &buffers[3], &buffers[4], &buffers[5], &variant))
        return NULL;
    int sound = check_floats(source, target, height, width, channels) && check_variant(variant);
    if (sound) {
        Py_ssize_t count = buffers[2].len / (4 * (Py_ssize_t)height);
        sound = check(count <= MAX_REACH, "there are too many zooms") &&
                check_axis(&buffers[2], &buffers[3], count, height) &&
                check_axis(&buffers[4], &buffers[5], count, width);
        if (sound) {
            Py_BEGIN_ALLOW_THREADS;
            failed = sum_of_zooms(variant, source->buf, target->buf, height, width, channels,
                                  (Axis){buffers[2].buf, buffers[3].buf}, (Axis){buffers[4].buf, buffers[5].buf},
                                  (int)count);
            Py_END_ALLOW_THREADS;
        }
    }
    release(buffers, 6);
    return end(sound, failed);
}

static int check_coordinates(const Py_buffer *buffer, Py_ssize_t pixels) {
    if (!check(holds_floats(buffer, pixels), "coordinates must be (height, width) float32")) return 0;
    const float *value = buffer->buf;
    int are_near = 1;
    for (Py_ssize_t i = 0; i < pixels; i++) are_near &= value[i] > -MAX_COORDINATE && value[i] < MAX_COORDINATE;
    return check(are_near, "coordinates must lie within 2**20");
}

PyObject *native_sample(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[4], *source = &buffers[0], *target = &buffers[1], *y = &buffers[2], *x = &buffers[3];
    int height, width, channels, mode, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiy*y*i:sample", source, target, &height, &width, &channels, y, x, &mode))
        return NULL;
    int sound = check_floats(source, target, height, width, channels) && check_mode(mode) &&
                check_coordinates(y, (Py_ssize_t)height * width) && check_coordinates(x, (Py_ssize_t)height * width);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        failed = sample(source->buf, target->buf, height, width, channels, y->buf, x->buf, (Mode)mode);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 4);
    return end(sound, failed);
}

PyObject *native_measure_distances(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer buffers[2], *found = &buffers[0], *target = &buffers[1];
    int height, width, straight, corner, knight, farthest, failed = 0;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiiii:measure_distances", found, target, &height, &width, &straight, &corner,
                          &knight, &farthest))
        return NULL;
    int sound = check_image(height, width) &&
                check(found->len == (Py_ssize_t)height * width && target->len == 4 * found->len,
                      "found must be (height, width) bytes and target int32 of that shape") &&
                check(straight >= 1 && corner >= straight && knight >= corner && knight < MAX_DISTANCE &&
                          farthest >= 0 && farthest < MAX_DISTANCE,
                      "steps must be positive and rising, and no distance above 2**30");
    if (sound) {
        Py_BEGIN_ALLOW_THREADS;
        failed = measure_distances(found->buf, target->buf, height, width, (Steps){straight, corner, knight}, farthest);
        Py_END_ALLOW_THREADS;
    }
    release(buffers, 2);
    return end(sound, failed);
}
