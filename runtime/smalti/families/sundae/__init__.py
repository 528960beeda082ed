"""Priors that start from random tokens and correct them, step by step."""
