#include "kernels.h"

/* The part of a kernel that lies within a map where the kernel begins at `start`. */
typedef struct {
    int start, first, end;
} span;

static inline span inside(int index, int stride, int margin, int kernel, int size) {
    span found = {index * stride - margin, 0, kernel};
    if (found.start < 0)
        found.first = -found.start;
    if (found.start + kernel > size)
        found.end = size - found.start;
    return found;
}

static inline span rows(const window *of, int row) {
    return inside(row, of->stride, of->top, of->kernel_height, of->height);
}

static inline span columns(const window *of, int column) {
    return inside(column, of->stride, of->left, of->kernel_width, of->width);
}

static inline const number *pixel(const window *of, const number *x, span row, int ky, span column,
                                  int kx) {
    return x + ((row.start + ky) * of->width + column.start + kx) * of->channels;
}

/* the largest of each window */
void network_max_pool(const window *of, const number *x, number *restrict y) {
    for (int i = 0; i < of->out_height; i++)
        for (int j = 0; j < of->out_width; j++) {
            const span row = rows(of, i), column = columns(of, j);
            for (int c = 0; c < of->channels; c++) {
                number largest = pixel(of, x, row, row.first, column, column.first)[c];
                for (int ky = row.first; ky < row.end; ky++)
                    for (int kx = column.first; kx < column.end; kx++) {
                        const number value = pixel(of, x, row, ky, column, kx)[c];
                        largest = value > largest ? value : largest;
                    }
                *y++ = largest;
            }
        }
}

/* Four output channels at a time, since each number of the input is read once for them.
   weights: group of four output channels, row, column, input channel, output channel */
void network_convolve(const convolution *of, const number *x, number *restrict y) {
    const window *w = &of->window;
    const int row_size = 4 * w->kernel_width * w->channels;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            const int count = (column.end - column.first) * w->channels;
            const weight *group = of->weights + 4 * column.first * w->channels;
            for (int c = 0; c < w->out_channels; c += 4, group += w->kernel_height * row_size) {
                const total *bias = of->bias + c;
                total sums[4] = {bias[0], bias[1], bias[2], bias[3]};
                for (int ky = row.first; ky < row.end; ky++) {
                    const number *from = pixel(w, x, row, ky, column, column.first);
                    const weight *weights = group + ky * row_size;
                    for (int k = 0; k < count; k++, weights += 4) {
                        const total value = shifted(of, from[k]);
                        sums[0] += value * weights[0];
                        sums[1] += value * weights[1];
                        sums[2] += value * weights[2];
                        sums[3] += value * weights[3];
                    }
                }
                for (int k = 0; k < 4 && c + k < w->out_channels; k++)
                    *y++ = finished(of, sums[k], c + k);
            }
        }
}

/* weights: row, column, channel */
void network_convolve_depthwise(const convolution *of, const number *x, number *restrict y) {
    const window *w = &of->window;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            for (int c = 0; c < w->channels; c++) {
                total sum = of->bias[c];
                for (int ky = row.first; ky < row.end; ky++) {
                    const number *from = pixel(w, x, row, ky, column, column.first) + c;
                    const weight *weights =
                        of->weights + (ky * w->kernel_width + column.first) * w->channels + c;
                    for (int kx = column.first; kx < column.end; kx++) {
                        sum += shifted(of, *from) * *weights;
                        from += w->channels;
                        weights += w->channels;
                    }
                }
                *y++ = finished(of, sum, c);
            }
        }
}
