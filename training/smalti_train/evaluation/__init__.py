"""Evaluation: figures and sheets that say how good a model is, and against what."""
