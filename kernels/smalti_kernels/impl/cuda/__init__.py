"""The draw by prebuilt kernels, on an NVIDIA GPU whose driver is all that is needed."""
