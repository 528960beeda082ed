"""Priors that start from noise and take it away, step by step."""
