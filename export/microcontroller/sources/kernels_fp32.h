
/* In 32-bit floating point. */

#include <math.h>

typedef float number;

typedef struct {
    window window;
    float low, high; /* bounds of the output */
    const float *weights, *bias;
} convolution;

static inline float bounded(float value, float low, float high) {
    return value < low ? low : value > high ? high : value;
}

void network_max_pool(const window *of, const number *x, number *restrict y);
void network_convolve(const convolution *of, const float *x, float *restrict y);
void network_convolve_depthwise(const convolution *of, const float *x, float *restrict y);
void network_mean(const float *x, int pixels, int channels, float *y);
void network_join(const float *x, int pixels, int channels, float *y, int out_channels, float low,
                  float high);
