/* The plan, word for word as augmix_core/plan.py draws it; that file holds the layout of blocks and the sources.

   Only + - * / sqrt and integer operations touch the words (and no fused multiply-add: the build forbids contraction),
   so both sides give the same bits on every machine. */
#include "plan.h"

#include <math.h>

#include "philox.h"

enum { PLAN_PURPOSE = 1, DEPTH_BLOCK = 2, OPS_BLOCK = 4, GAMMA_BLOCK = 64, GAMMA_BLOCKS_EACH = 32, GAMMA_TRIES = 48 };
enum { RANDOM_DEPTH = 3 };

static const double TINY = 1e-300, LN2 = 0.6931471805599453;

typedef struct {
    uint64_t seed;
    uint64_t sample_id;
    uint32_t epoch, view;
} Stream;

static Words counter_of(const Stream *stream, uint32_t block) {
    return (Words){{(uint32_t)stream->sample_id, (uint32_t)(stream->sample_id >> 32),
                    (uint32_t)PLAN_PURPOSE << 24 | stream->view << 16 | block, stream->epoch}};
}

static Words draw(const Stream *stream, uint32_t block) { return philox4x32(counter_of(stream, block), stream->seed); }

static void philox_portable(Blocks *blocks, int count, uint64_t key) { philox_body(blocks, count, key); }
#if defined(HAVE_X86)
WITH_AVX2 static void philox_avx2(Blocks *blocks, int count, uint64_t key) { philox_body(blocks, count, key); }
WITH_AVX512 static void philox_avx512(Blocks *blocks, int count, uint64_t key) { philox_body(blocks, count, key); }
#endif

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
static void draw_uniform_weights(Plan *plan, const Blocks *blocks, int width) {
    double cuts[MAX_WIDTH];
    plan->skip_weight = uniform(blocks->word[0][0]);
    for (int i = 0; i < width - 1; i++) {
        double cut = uniform(blocks->word[(i + 1) % 4][(i + 1) / 4]);
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

/* One op call from its two words. Choices are products with 0 or 1, which are exact: ops are random, and a branch would
   be guessed wrong most of the time. */
static double draw_magnitude(const PlanLaw *law, const Rule *rule, uint32_t level_word, double sign) {
    double level = law->lowest + uniform(level_word) * (law->severity - law->lowest);
    if (law->is_binned) level = (double)(int32_t)level;
    double amount = level * rule->scale / law->levels, whole = (double)(int32_t)(amount + rule->half);
    amount = rule->is_whole * whole + (1 - rule->is_whole) * amount;
    double direction = rule->is_signed * sign + (1 - rule->is_signed) * rule->factor;
    double magnitude = rule->base + direction * amount;
    return magnitude > rule->at_least ? magnitude : rule->at_least;
}

/* All blocks but those of gamma variates, at once. */
static void draw_blocks(int variant, const PlanLaw *law, const Stream *stream, int deepest, Blocks *blocks) {
    int count = 0, each = (deepest + 1) / 2;
    for (int block = 0; block < OPS_BLOCK + law->width * each || count % 16 != 0; block++, count++) {
        int call = block - OPS_BLOCK;
        Words counter = counter_of(stream, (uint32_t)(call < 0 ? block : OPS_BLOCK + 4 * (call / each) + call % each));
        for (int k = 0; k < 4; k++) blocks->word[k][count] = counter.word[k];
    }
    SELECT(variant, philox)(blocks, count, stream->seed);
}

void draw_plan(int variant, Plan *plan, const PlanLaw *law, uint64_t sample_id, uint32_t epoch, uint32_t view) {
    Stream stream = {law->seed, sample_id, epoch, view};
    Blocks blocks;
    int deepest = law->depth == -1 ? RANDOM_DEPTH : law->depth;
    draw_blocks(variant, law, &stream, deepest, &blocks);
    if (law->alpha == 1.0)
        draw_uniform_weights(plan, &blocks, law->width);
    else
        draw_gamma_weights(plan, &stream, law->width, law->alpha);
    round_weights(plan, law->width);
    int block = OPS_BLOCK;
    for (int chain = 0; chain < law->width; chain++, block += (deepest + 1) / 2) {
        uint32_t depth_word = blocks.word[chain % 4][DEPTH_BLOCK + chain / 4];
        plan->depth[chain] = (uint8_t)(law->depth == -1 ? 1 + below(depth_word, RANDOM_DEPTH) : (uint32_t)deepest);
        for (int k = 0; k < deepest; k++) {
            uint32_t level_word = blocks.word[2 * (k % 2)][block + k / 2];
            uint32_t op_word = blocks.word[2 * (k % 2) + 1][block + k / 2];
            int op = (int)(((uint64_t)(op_word >> 1) * (uint32_t)law->op_count) >> 31);
            plan->op[chain][k] = (uint8_t)op;
            plan->magnitude[chain][k] = draw_magnitude(law, &law->rules[op], level_word, 1 - 2.0 * (op_word & 1));
        }
    }
}
