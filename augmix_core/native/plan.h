/* Plans: (seed, epoch, sample, view) -> which ops at which magnitudes, mixed with which weights. */
#ifndef AUGMIX_PLAN_H
#define AUGMIX_PLAN_H

#include <stdint.h>

enum { MAX_WIDTH = 8, MAX_DEPTH = 8, MAX_SOURCES = MAX_WIDTH + 1 };

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

/* Whose levels and magnitudes; see augmix_core.ops.magnitude_of. */
enum { OFFICIAL = 0, TORCHVISION = 1, TIMM = 2 };

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
    double aug_severity;
    double alpha;
    int width;
    int depth; /* -1: 1 to 3 at random */
    int op_count;
    int dialect;
    int image_height, image_width;
} PlanLaw;

void draw_plan(Plan *plan, const PlanLaw *law, uint64_t sample_id, uint32_t epoch, uint32_t view);
void round_weights(Plan *plan, int width);

#endif
