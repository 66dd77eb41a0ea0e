/* Plans: (seed, epoch, sample, view) -> which ops at which magnitudes, mixed with which weights. */
#ifndef AUGMIX_PLAN_H
#define AUGMIX_PLAN_H

#include <stdint.h>

enum { MAX_WIDTH = 8, MAX_DEPTH = 8, MAX_SOURCES = MAX_WIDTH + 1 };

/* Weights are in 1/32768 and add up to this. */
enum { ONE_Q15 = 32768 };

/* In the order of augmix_core.ops.ALL_OPS: the first nine are the standard ones. */
typedef enum {
    AUTOCONTRAST,
    EQUALIZE,
    POSTERIZE,
    ROTATE,
    SOLARIZE,
    SHEAR_X,
    SHEAR_Y,
    TRANSLATE_X,
    TRANSLATE_Y,
    COLOR,
    CONTRAST,
    BRIGHTNESS,
    SHARPNESS,
    OP_COUNT
} Op;

/* How an op's magnitude follows from a level: augmix_core.ops.Rule, flattened. */
typedef struct {
    double scale, base, factor, is_signed, is_whole, half, at_least;
} Rule;

/* One augmented view. augmix_core.backends.PLAN is the same layout; both sides check the size. */
typedef struct {
    double magnitude[MAX_WIDTH][MAX_DEPTH];
    double mixture_weight[MAX_WIDTH];
    double skip_weight;
    int32_t q15_weight[MAX_SOURCES]; /* clean, then each chain, in 1/32768 */
    uint8_t depth[MAX_WIDTH];
    uint8_t op[MAX_WIDTH][MAX_DEPTH];
} Plan;

typedef struct {
    uint64_t seed;
    double alpha;
    double lowest, severity; /* levels are uniform between these */
    double levels;           /* the level at which a rule's scale is reached */
    int is_binned;           /* levels are whole numbers */
    int width;
    int depth; /* -1: 1 to 3 at random */
    int op_count;
    const Rule *rules;
} PlanLaw;

void draw_plan(int variant, Plan *plan, const PlanLaw *law, uint64_t sample_id, uint32_t epoch, uint32_t view);
void round_weights(Plan *plan, int width);

#endif
