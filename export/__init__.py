"""Delivering networks: ONNX export, measurements with onnxruntime, latency prediction."""
