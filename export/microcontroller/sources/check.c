/* Runs a network on all images of the file `images.bin` and writes its outputs to `outputs.bin`.
   On an emulated board it also counts the instructions of a run, into `instructions.txt`. */

#include <stdio.h>

#include "network.h"

#ifdef EMULATED
/* A timer of 25 MHz, where the emulator lets an instruction take 32 ns. */
static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000;
#endif

int main(void) {
    FILE *images = fopen("images.bin", "rb"), *outputs = fopen("outputs.bin", "wb");
    if (!images || !outputs)
        return 1;
#ifdef EMULATED
    uint32_t most = 0;
    timer[2] = 0xffffffff; /* reload */
    timer[0] = 1;          /* go */
#endif
    while (fread(network_pixels(), 1, NETWORK_PIXELS, images) == NETWORK_PIXELS) {
#ifdef EMULATED
        timer[1] = 0xffffffff;
#endif
        const network_number *values = network_run();
#ifdef EMULATED
        uint32_t ticks = 0xffffffff - timer[1];
        most = ticks > most ? ticks : most;
#endif
        if (fwrite(values, sizeof *values, NETWORK_CLASSES, outputs) != NETWORK_CLASSES)
            return 1;
    }
#ifdef EMULATED
    FILE *instructions = fopen("instructions.txt", "w");
    fprintf(instructions, "%llu\n", (unsigned long long)most * 40 / 32);
    fclose(instructions);
#endif
    fclose(images);
    return fclose(outputs) != 0;
}
