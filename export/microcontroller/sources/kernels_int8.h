
/* In 8-bit integers, without floating point. The value of a number q is (q - zero) * scale; the
   ratio of two scales is multiplier / 2^shift, in additions and rescalings 65536 times that. */

typedef uint8_t number;
typedef int8_t weight;
typedef int32_t total;

typedef struct {
    int32_t multiplier;
    uint8_t shift;
    int16_t zero, out_zero, low, high; /* of the input; of the output, and its bounds */
} rescaling;

typedef struct {
    int32_t multiplier, other_multiplier;
    uint8_t shift;
    int16_t zero, other_zero, out_zero, low, high;
} addition;

typedef struct {
    window window;
    int16_t zero, out_zero, low, high;
    const weight *weights;
    const total *bias, *multiplier; /* by output channel */
    const uint8_t *shift;
} convolution;

static inline uint8_t bounded(int32_t value, int low, int high) {
    return (uint8_t)(value < low ? low : value > high ? high : value);
}

/* product / 2^shift, rounded: of a shift of 33 or more, so that the upper half of the product is
   enough. Compilers shift negative numbers arithmetically: a shift rounds down. */
static inline int32_t upper(int64_t product, int shift) {
    return ((int32_t)(product >> 32) + (1 << (shift - 33))) >> (shift - 32);
}

/* 65536 makes the shift that large where factors are about 1. */
static inline uint8_t added(uint8_t a, uint8_t b, const addition *to) {
    const int64_t sum = (int64_t)((a - to->zero) * 65536) * to->multiplier +
                        (int64_t)((b - to->other_zero) * 65536) * to->other_multiplier;
    return bounded(upper(sum, to->shift) + to->out_zero, to->low, to->high);
}

/* sum * multiplier / 2^shift, rounded, plus zero */
static inline uint8_t quantised(int32_t sum, int32_t multiplier, int shift, int zero, int low,
                                int high) {
    const int64_t product = (int64_t)sum * multiplier;
    if (shift > 32)
        return bounded(upper(product, shift) + zero, low, high);
    const int64_t value = ((product + ((int64_t)1 << (shift - 1))) >> shift) + zero;
    return (uint8_t)(value < low ? low : value > high ? high : value);
}

/* a number of the input as it is multiplied, and a sum as a number of the output */
static inline total shifted(const convolution *of, number value) { return value - of->zero; }

static inline number finished(const convolution *of, total sum, int channel) {
    return quantised(sum, of->multiplier[channel], of->shift[channel], of->out_zero, of->low,
                     of->high);
}

void network_max_pool(const window *of, const number *x, number *restrict y);
void network_convolve(const convolution *of, const number *x, number *restrict y);
void network_convolve_depthwise(const convolution *of, const number *x, number *restrict y);
void network_mean(const uint8_t *x, int pixels, int channels, uint8_t *y, const rescaling *to);
void network_join(const uint8_t *x, int pixels, int channels, uint8_t *y, int out_channels,
                  const rescaling *to);
