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
