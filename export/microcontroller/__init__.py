"""C99 for microcontrollers, made of the ONNX files that gemkit writes."""
