"""Whether a bundle is whole, and computes what its certificate says."""
