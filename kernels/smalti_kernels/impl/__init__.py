"""The draw, once for each kind of machine."""
