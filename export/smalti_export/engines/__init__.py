"""Build TensorRT engines from a bundle's graphs: TensorRT-RTX for any GPU, TensorRT for this machine's GPU."""
