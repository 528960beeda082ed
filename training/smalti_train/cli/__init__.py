"""The verbs ``smalti train``, ``import`` and ``evaluate``."""
