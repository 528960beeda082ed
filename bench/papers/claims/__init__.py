"""The parts of ``bench/papers/unleashing.py``: trainings, samples, tables and plots behind its sub-commands."""
