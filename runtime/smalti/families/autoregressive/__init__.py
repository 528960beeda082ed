"""Priors that draw one token after the other."""
