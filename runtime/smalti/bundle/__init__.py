"""The parts of a bundle: its manifest, its files, its engines."""
