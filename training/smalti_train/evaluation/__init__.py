"""Evaluation of models: figures and sheets, beside those of real images."""
