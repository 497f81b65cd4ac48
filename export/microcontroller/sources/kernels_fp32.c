
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
