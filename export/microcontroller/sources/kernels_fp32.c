
/* Four output channels at a time, since each number of the input is read once for them.
   weights: group of four output channels, row, column, input channel, output channel */
void network_convolve(const convolution *of, const float *x, float *restrict y) {
    const window *w = &of->window;
    const int row_size = 4 * w->kernel_width * w->channels;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            const int count = (column.end - column.first) * w->channels;
            const float *group = of->weights + 4 * column.first * w->channels;
            for (int c = 0; c < w->out_channels; c += 4, group += w->kernel_height * row_size) {
                const float *bias = of->bias + c;
                float sums[4] = {bias[0], bias[1], bias[2], bias[3]};
                for (int ky = row.first; ky < row.end; ky++) {
                    const float *from = pixel(w, x, row, ky, column, column.first);
                    const float *weights = group + ky * row_size;
                    for (int k = 0; k < count; k++, weights += 4) {
                        const float value = from[k];
                        sums[0] += value * weights[0];
                        sums[1] += value * weights[1];
                        sums[2] += value * weights[2];
                        sums[3] += value * weights[3];
                    }
                }
                for (int k = 0; k < 4 && c + k < w->out_channels; k++)
                    *y++ = bounded(sums[k], of->low, of->high);
            }
        }
}

/* weights: row, column, channel */
void network_convolve_depthwise(const convolution *of, const float *x, float *restrict y) {
    const window *w = &of->window;
    for (int i = 0; i < w->out_height; i++)
        for (int j = 0; j < w->out_width; j++) {
            const span row = rows(w, i), column = columns(w, j);
            for (int c = 0; c < w->channels; c++) {
                float sum = of->bias[c];
                for (int ky = row.first; ky < row.end; ky++) {
                    const float *from = pixel(w, x, row, ky, column, column.first) + c;
                    const float *weights =
                        of->weights + (ky * w->kernel_width + column.first) * w->channels + c;
                    for (int kx = column.first; kx < column.end; kx++) {
                        sum += *from * *weights;
                        from += w->channels;
                        weights += w->channels;
                    }
                }
                *y++ = bounded(sum, of->low, of->high);
            }
        }
}

/* the mean of each channel over all pixels */
void network_mean(const float *x, int pixels, int channels, float *y) {
    for (int c = 0; c < channels; c++) {
        float sum = 0;
        for (int i = 0; i < pixels; i++)
            sum += x[i * channels + c];
        y[c] = sum / (float)pixels;
    }
}

/* copies a map, within bounds, into some of the channels of another */
void network_join(const float *x, int pixels, int channels, float *y, int out_channels, float low,
                  float high) {
    for (int i = 0; i < pixels; i++, x += channels, y += out_channels)
        for (int c = 0; c < channels; c++)
            y[c] = bounded(x[c], low, high);
}
