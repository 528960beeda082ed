"""The specification: noise, integer tables, truncation."""
