"""The root of smalti's exception tree, and the errors this floor raises.

SmaltiError
├── SamplingError          a draw that has no answer (NaN logits, nothing left to draw from)
└── (the runtime adds its own: see smalti.errors)
"""


class SmaltiError(Exception):
    """Base of every error smalti raises on purpose.

    Messages say what was wrong, what is allowed, and what to do about it.
    """


class SamplingError(SmaltiError, ValueError):
    """Logits or arguments from which no token can be drawn."""
