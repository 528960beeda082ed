"""Training objectives: losses, noise, masking, and the figures that models are measured by."""
