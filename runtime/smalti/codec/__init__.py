"""Images to tokens and back."""
