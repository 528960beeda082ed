"""TensorRT engines of a bundle's graphs: TensorRT-RTX ones for any GPU, TensorRT ones for the GPU at hand."""
