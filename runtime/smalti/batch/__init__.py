"""Batches: a million pictures drawn, or a folder of pictures described, in whole files, over processes or on Ray."""
