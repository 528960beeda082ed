"""Models: torch modules that know nothing of training or export."""
