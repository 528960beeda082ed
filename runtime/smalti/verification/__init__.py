"""Check that a bundle is complete and computes what its certificate says."""
