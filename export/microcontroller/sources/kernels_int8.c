
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
