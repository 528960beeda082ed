"""Models: torch modules, independent of training and export."""
