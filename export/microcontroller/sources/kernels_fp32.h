
/* In 32-bit floating point. */

#include <math.h>

typedef float number, weight, total;

typedef struct {
    window window;
    float low, high; /* bounds of the output */
    const weight *weights;
    const total *bias;
} convolution;

static inline float bounded(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;
}

/* a number of the input as it is multiplied, and a sum as a number of the output */
static inline total shifted(const convolution *of, number value) {
    (void)of;
    return value;
}

static inline number finished(const convolution *of, total sum, int channel) {
    (void)channel;
    return bounded(sum, of->low, of->high);
}

void network_max_pool(const window *of, const number *x, number *restrict y);
void network_convolve(const convolution *of, const number *x, number *restrict y);
void network_convolve_depthwise(const convolution *of, const number *x, number *restrict y);
void network_mean(const float *x, int pixels, int channels, float *y);
void network_join(const float *x, int pixels, int channels, float *y, int out_channels, float low,
                  float high);
