"""Priors that fill a masked grid in any order."""
