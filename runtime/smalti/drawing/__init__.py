"""Draw a run that is laid out, on the host or on a device: watched, cancelled, step by step, within a budget."""
