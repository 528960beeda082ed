"""What programs may ask for: smalti's own calls, and those that clients of others speak."""
