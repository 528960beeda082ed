"""Backends that run a bundle's graphs."""
