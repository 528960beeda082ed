"""Building the kernels that ship."""
