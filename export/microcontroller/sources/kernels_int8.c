
/* sum * multiplier / 2^shift, rounded, plus zero */
static inline uint8_t quantised(int32_t sum, int32_t multiplier, int shift, int zero, int low,
                                int high) {
    const int64_t product = (int64_t)sum * multiplier;
    if (shift > 32)
        return bounded(upper(product, shift) + zero, low, high);
    const int64_t value = ((product + ((int64_t)1 << (shift - 1))) >> shift) + zero;
    return (uint8_t)(value < low ? low : value > high ? high : value);
}

/* Four output channels at a time, since each number of the input is read once for them.
   weights: group of four output channels, row, column, input channel, output channel */
void network_convolve(const convolution *of, const uint8_t *x, uint8_t *restrict y) {
    const window *w = &of->window;
    const int row_size = 4 * w->kernel_width * w->channels;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            const int count = (column.end - column.first) * w->channels;
            const int8_t *group = of->weights + 4 * column.first * w->channels;
            for (int c = 0; c < w->out_channels; c += 4, group += w->kernel_height * row_size) {
                const int32_t *bias = of->bias + c;
                int32_t sums[4] = {bias[0], bias[1], bias[2], bias[3]};
                for (int ky = row.first; ky < row.end; ky++) {
                    const uint8_t *from = pixel(w, x, row, ky, column, column.first);
                    const int8_t *weights = group + ky * row_size;
                    for (int k = 0; k < count; k++, weights += 4) {
                        const int32_t value = from[k] - of->zero;
                        sums[0] += value * weights[0];
                        sums[1] += value * weights[1];
                        sums[2] += value * weights[2];
                        sums[3] += value * weights[3];
                    }
                }
                for (int k = 0; k < 4 && c + k < w->out_channels; k++)
                    *y++ = quantised(sums[k], of->multiplier[c + k], of->shift[c + k],
                                     of->out_zero, of->low, of->high);
            }
        }
}

/* weights: row, column, channel */
void network_convolve_depthwise(const convolution *of, const uint8_t *x, uint8_t *restrict y) {
    const window *w = &of->window;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            for (int c = 0; c < w->channels; c++) {
                int32_t sum = of->bias[c];
                for (int ky = row.first; ky < row.end; ky++) {
                    const uint8_t *from = pixel(w, x, row, ky, column, column.first) + c;
                    const int8_t *weights =
                        of->weights + (ky * w->kernel_width + column.first) * w->channels + c;
                    for (int kx = column.first; kx < column.end; kx++) {
                        sum += (*from - of->zero) * *weights;
                        from += w->channels;
                        weights += w->channels;
                    }
                }
                *y++ = quantised(sum, of->multiplier[c], of->shift[c], of->out_zero, of->low,
                                 of->high);
            }
        }
}

/* the mean of each channel over all pixels; their number is part of the multiplier */
void network_mean(const uint8_t *x, int pixels, int channels, uint8_t *y,
                  const rescaling *to) {
    for (int c = 0; c < channels; c++) {
        int32_t sum = -pixels * to->zero;
        for (int i = 0; i < pixels; i++)
            sum += x[i * channels + c];
        y[c] = quantised(sum, to->multiplier, to->shift, to->out_zero, to->low, to->high);
    }
}

/* copies a map into some of the channels of another, rescaled unless `to` is 0 */
void network_join(const uint8_t *x, int pixels, int channels, uint8_t *y, int out_channels,
                  const rescaling *to) {
    const rescaling by = to ? *to : (rescaling){0};
    for (int i = 0; i < pixels; i++, x += channels, y += out_channels)
        for (int c = 0; c < channels; c++)
            y[c] = to ? bounded(upper((int64_t)((x[c] - by.zero) * 65536) * by.multiplier, by.shift) +
                                    by.out_zero,
                                by.low, by.high)
                      : x[c];
}
