"""What a bundle is: its manifest, its files, its engines."""
