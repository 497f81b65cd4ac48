/* What a network computes. A map holds its pixels row by row, each pixel's channels together. */

#include <stdint.h>

/* How a kernel moves over a map. `top` and `left` are rows and columns outside it, before it. */
typedef struct {
    int16_t height, width, channels, out_height, out_width, out_channels;
    int16_t kernel_height, kernel_width, stride, top, left;
} window;
