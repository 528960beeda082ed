"""ONNX graphs of models, and their weight files."""
