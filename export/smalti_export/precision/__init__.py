"""Graphs with fewer bits: fp16 kept within its range, int8 with calibrated scales."""
