"""The sampling specification: noise, integer tables and truncation."""
