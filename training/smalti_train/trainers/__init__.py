"""The training loops, one module for each kind of model, and their shared parts."""
