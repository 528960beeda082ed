"""Work that waits for its turn, and the bundles that do it."""
