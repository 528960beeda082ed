"""Train the models that smalti runs."""
