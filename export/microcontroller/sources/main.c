/* Classifies one image: replace `image` by what your camera gives. */

#include <stdio.h>
#include <string.h>

#include "image.h"
#include "network.h"

int main(void) {
    memcpy(network_pixels(), image, sizeof image);
    const network_number *outputs = network_run();
    int best = 0;
    for (int i = 0; i < NETWORK_CLASSES; i++) {
        printf("%s: %g\n", network_class_names[i], (double)NETWORK_VALUE(outputs[i]));
        if (outputs[i] > outputs[best])
            best = i;
    }
    printf("class: %s (the image is of class %s)\n", network_class_names[best],
           image_class < 0 ? "unknown" : network_class_names[image_class]);
    return 0;
}
