"""Implementations of the draw: NumPy, CUDA and Triton."""
