"""Engines of bundles on this machine: what is there, what would run, and what can be removed."""
