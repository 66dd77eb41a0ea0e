/* The plan, word for word as augmix_core/plan.py draws it; that file holds the layout of blocks and the sources.

   Only + - * / sqrt and integer operations touch the words (and no fused multiply-add: the build forbids contraction),
   so both sides give the same bits on every machine. */
#include "plan.h"

#include <math.h>
#include <string.h>

#include "philox.h"

enum { PLAN_PURPOSE = 1, DEPTH_BLOCK = 2, OPS_BLOCK = 4, GAMMA_BLOCK = 64, GAMMA_BLOCKS_EACH = 32, GAMMA_TRIES = 48 };
enum { RANDOM_DEPTH = 3, ONE_Q15 = 32768 };

static const double MIN_LEVEL = 0.1, TINY = 1e-300, LN2 = 0.6931471805599453;

typedef struct {
    uint64_t seed;
    uint64_t sample_id;
    uint32_t epoch, view;
} Stream;

static Words draw(const Stream *stream, uint32_t block) {
    Words counter = {{(uint32_t)stream->sample_id, (uint32_t)(stream->sample_id >> 32),
                      (uint32_t)PLAN_PURPOSE << 24 | stream->view << 16 | block, stream->epoch}};
    return philox4x32(counter, stream->seed);
}

static double uniform(uint32_t word) { return word * 0x1p-32; }

static double open_uniform(uint32_t word) { return word * 0x1p-32 + 0x1p-33; }

static uint32_t below(uint32_t word, uint32_t bound) { return (uint32_t)(((uint64_t)word * bound) >> 32); }

/* Natural logarithm: 2 artanh((m - 1) / (m + 1)) of the mantissa, plus the exponent. */
static double natural_log(double positive) {
    int exponent;
    double mantissa = frexp(positive, &exponent);
    if (mantissa < 0.75) {
        mantissa = 2 * mantissa;
        exponent -= 1;
    }
    double t = (mantissa - 1) / (mantissa + 1), square = t * t, series = 0;
    for (int odd = 23; odd > 0; odd -= 2) series = series * square + 1.0 / odd;
    return 2 * t * series + exponent * LN2;
}

/* exp of values <= 0: 2**k times a Taylor sum on [-ln 2 / 2, ln 2 / 2]. */
static double exp_of_negative(double negative) {
    double floored = negative > -745.0 ? negative : -745.0;
    double k = rint(floored / LN2), r = floored - k * LN2, series = 1;
    for (int n = 16; n > 0; n--) series = series * r / n + 1;
    return ldexp(series, (int)k);
}

/* The logarithm of a Gamma(alpha) variate by Best's rejection method XG, two tries a block. */
static double draw_log_gamma(const Stream *stream, int variate, double alpha) {
    uint32_t first = (uint32_t)(GAMMA_BLOCK + GAMMA_BLOCKS_EACH * variate);
    double boost = open_uniform(draw(stream, first).word[0]), gamma = alpha;
    Words words = {{0}};
    for (int k = 0; k < GAMMA_TRIES; k++) {
        if (k % 2 == 0) words = draw(stream, first + 1 + (uint32_t)k / 2);
        double u = open_uniform(words.word[2 * (k % 2)]), v = open_uniform(words.word[2 * (k % 2) + 1]);
        double w = u * (1 - u);
        double y = sqrt((3 * (alpha + 1) - 0.75) / w) * (u - 0.5);
        double candidate = alpha + y > TINY ? alpha + y : TINY;
        if (alpha + y > 0 &&
            natural_log(64 * w * w * w * v * v) <= 2 * (alpha * natural_log(candidate / alpha) - y)) {
            gamma = candidate;
            break;
        }
    }
    return natural_log(gamma) + natural_log(boost) / alpha;
}

/* exp(x) over their sum, summed left to right; in place. */
static void normalise_exp(double *log_gamma, int count) {
    double largest = log_gamma[0], total = 0;
    for (int i = 1; i < count; i++) largest = log_gamma[i] > largest ? log_gamma[i] : largest;
    for (int i = 0; i < count; i++) log_gamma[i] = exp_of_negative(log_gamma[i] - largest);
    for (int i = 0; i < count; i++) total += log_gamma[i];
    for (int i = 0; i < count; i++) log_gamma[i] /= total;
}

/* alpha = 1: Dirichlet(1, ..) is the spacings of sorted uniforms, Beta(1, 1) a uniform. */
static void draw_uniform_weights(Plan *plan, const Stream *stream, int width) {
    Words words[2] = {draw(stream, 0), width > 4 ? draw(stream, 1) : (Words){{0}}};
    double cuts[MAX_WIDTH];
    plan->skip_weight = uniform(words[0].word[0]);
    for (int i = 0; i < width - 1; i++) {
        double cut = uniform(words[(i + 1) / 4].word[(i + 1) % 4]);
        int at = i;
        for (; at > 0 && cuts[at - 1] > cut; at--) cuts[at] = cuts[at - 1];
        cuts[at] = cut;
    }
    double edge = 0;
    for (int i = 0; i < width - 1; i++) {
        plan->mixture_weight[i] = cuts[i] - edge;
        edge = cuts[i];
    }
    plan->mixture_weight[width - 1] = 1.0 - edge;
}

static void draw_gamma_weights(Plan *plan, const Stream *stream, int width, double alpha) {
    double skip[2];
    for (int i = 0; i < width; i++) plan->mixture_weight[i] = draw_log_gamma(stream, i, alpha);
    for (int i = 0; i < 2; i++) skip[i] = draw_log_gamma(stream, width + i, alpha);
    normalise_exp(plan->mixture_weight, width);
    normalise_exp(skip, 2);
    plan->skip_weight = skip[0];
}

/* The weights in 1/32768 by largest remainder, ties to the smaller index: augmix_core.reference.q15_weights. */
void round_weights(Plan *plan, int width) {
    double remainder[MAX_SOURCES];
    int missing = ONE_Q15;
    for (int i = 0; i <= width; i++) {
        double exact =
            i == 0 ? plan->skip_weight * ONE_Q15 : (1.0 - plan->skip_weight) * plan->mixture_weight[i - 1] * ONE_Q15;
        plan->q15_weight[i] = (int32_t)exact;
        remainder[i] = exact - plan->q15_weight[i];
        missing -= plan->q15_weight[i];
    }
    for (; missing > 0; missing--) {
        int most = 0;
        for (int i = 1; i <= width; i++) most = remainder[i] > remainder[most] ? i : most;
        plan->q15_weight[most] += 1;
        remainder[most] = -1;
    }
}

static double draw_level(const PlanLaw *law, uint32_t word) {
    switch (law->dialect) {
        case TORCHVISION:
            return below(word, (uint32_t)law->aug_severity); /* a bin: 0 .. 9 */
        case TIMM:
            return uniform(word) * law->aug_severity;
        default:
            return MIN_LEVEL + uniform(word) * (law->aug_severity - MIN_LEVEL);
    }
}

static double official_magnitude(Op op, double level, int sign, double height, double width) {
    switch (op) {
        case POSTERIZE:
            return 4 - trunc(level * 4 / 10);
        case SOLARIZE:
            return 256 - trunc(level * 256 / 10);
        case ROTATE:
            return sign * trunc(level * 30 / 10);
        case SHEAR_X:
        case SHEAR_Y:
            return sign * (level * 0.3 / 10);
        case TRANSLATE_X:
            return sign * trunc(level * (width / 3) / 10);
        case TRANSLATE_Y:
            return sign * trunc(level * (height / 3) / 10);
        case COLOR:
        case CONTRAST:
        case BRIGHTNESS:
        case SHARPNESS:
            return level * 1.8 / 10 + 0.1;
        default:
            return 0;
    }
}

static double torchvision_magnitude(Op op, double bin, int sign, double height, double width) {
    switch (op) {
        case POSTERIZE:
            return fmax(1, rint(4 - bin * 4 / 9)); /* Pillow keeps at least one bit */
        case SOLARIZE:
            return ceil(255 - bin * 255 / 9);
        case ROTATE:
            return sign * (bin * 30 / 9);
        case SHEAR_X:
        case SHEAR_Y:
            return sign * (bin * 0.3 / 9);
        case TRANSLATE_X:
            return sign * trunc(bin * (width / 3) / 9);
        case TRANSLATE_Y:
            return sign * trunc(bin * (height / 3) / 9);
        case COLOR:
        case CONTRAST:
        case BRIGHTNESS:
        case SHARPNESS:
            return 1 + sign * (bin * 0.9 / 9);
        default:
            return 0;
    }
}

static double timm_magnitude(Op op, double level, int sign, double height, double width) {
    double factor;
    switch (op) {
        case ROTATE:
            return sign * (level * 30 / 10);
        case TRANSLATE_X:
            return sign * (level * 0.3 / 10 * width);
        case TRANSLATE_Y:
            return sign * (level * 0.3 / 10 * height);
        case COLOR:
        case CONTRAST:
        case BRIGHTNESS:
        case SHARPNESS:
            factor = 1 + sign * (level * 0.9 / 10);
            return factor > 0.1 ? factor : 0.1;
        default:
            return official_magnitude(op, level, sign, height, width);
    }
}

static double magnitude_of(const PlanLaw *law, Op op, double level, int sign) {
    double height = law->image_height, width = law->image_width;
    switch (law->dialect) {
        case TORCHVISION:
            return torchvision_magnitude(op, level, sign, height, width);
        case TIMM:
            return timm_magnitude(op, level, sign, height, width);
        default:
            return official_magnitude(op, level, sign, height, width);
    }
}

static void draw_chain(Plan *plan, const PlanLaw *law, const Stream *stream, int chain) {
    Words words = {{0}};
    for (int k = 0; k < plan->depth[chain]; k++) {
        if (k % 2 == 0) words = draw(stream, (uint32_t)(OPS_BLOCK + 4 * chain + k / 2));
        uint32_t level_word = words.word[2 * (k % 2)], op_word = words.word[2 * (k % 2) + 1];
        Op op = (Op)(((uint64_t)(op_word >> 1) * (uint32_t)law->op_count) >> 31);
        int sign = op_word & 1 ? -1 : 1;
        plan->op[chain][k] = (uint8_t)op;
        plan->magnitude[chain][k] = magnitude_of(law, op, draw_level(law, level_word), sign);
    }
}

void draw_plan(Plan *plan, const PlanLaw *law, uint64_t sample_id, uint32_t epoch, uint32_t view) {
    Stream stream = {law->seed, sample_id, epoch, view};
    if (law->alpha == 1.0)
        draw_uniform_weights(plan, &stream, law->width);
    else
        draw_gamma_weights(plan, &stream, law->width, law->alpha);
    round_weights(plan, law->width);
    if (law->depth == -1) {
        for (int chain = 0; chain < law->width; chain += 4) {
            Words words = draw(&stream, (uint32_t)(DEPTH_BLOCK + chain / 4));
            for (int i = 0; i < 4 && chain + i < law->width; i++)
                plan->depth[chain + i] = (uint8_t)(1 + below(words.word[i], RANDOM_DEPTH));
        }
    } else {
        memset(plan->depth, law->depth, (size_t)law->width);
    }
    for (int chain = 0; chain < law->width; chain++) draw_chain(plan, law, &stream, chain);
}
