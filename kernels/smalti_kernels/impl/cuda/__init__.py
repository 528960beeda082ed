"""The draw by prebuilt kernels on an NVIDIA GPU; it needs only the driver."""
