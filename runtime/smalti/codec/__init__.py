"""Convert images to tokens and back."""
