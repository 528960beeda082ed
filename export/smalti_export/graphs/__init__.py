"""Models as ONNX graphs, and the weights under them."""
