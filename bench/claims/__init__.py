"""The parts of ``bench/paper_000.py``: trainings, samples, tables and plots behind its sub-commands."""
