"""The ``smalti`` command."""
