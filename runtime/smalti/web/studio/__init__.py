"""A page to paint on."""
