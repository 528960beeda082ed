"""TensorRT-RTX and TensorRT: engines of a bundle, run on the device loop."""
