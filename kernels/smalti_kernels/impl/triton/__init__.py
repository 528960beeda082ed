"""The draw as a Triton kernel."""
