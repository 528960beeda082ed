"""The folders of runs: configurations, checkpoints, and the models in them."""
