"""The formats of a batch's files."""
