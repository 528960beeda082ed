"""Verbs that other floors or extras bring. Each is loaded when it is called."""

from __future__ import annotations

LAZY = {
    "studio": ("smalti.cli.studio", "Open a page to paint on (needs the extra serve)."),
    "serve": ("smalti.cli.serve", "Serve pictures over HTTP (needs the extra serve)."),
    "batch": ("smalti.cli.batch", "Draw or describe many pictures (needs the extra batch, or ray)."),
    "train": ("smalti_train.cli.train", "Train an autoencoder or a prior (needs the extra train)."),
    "import": ("smalti_train.cli.importing", "Read a published checkpoint as a run (needs the extra train)."),
    "evaluate": ("smalti_train.cli.evaluate", "Measure a bundle or a run (needs the extra evaluate)."),
    "export": ("smalti_export.cli", "Turn trained runs into a bundle (needs the extra export)."),
    "engine build": ("smalti_export.engines.cli", "Build engines of a bundle (needs the extra engines or trt)."),
}
"""Module and line of help of each verb, of one word or two. The module has a typer ``app``."""
EXTRAS = {"studio": "serve", "import": "train", "engine build": "engines"}
"""Extra of each verb whose extra has another name."""

VARIABLE = "_SMALTI_COMPLETE"
"""The environment variable by which a shell asks for completions, as Typer names it for a program ``smalti``."""


def lazy_verb(arguments: list[str]) -> str:
    """Return the verb of :data:`LAZY` that a command line begins with; empty if there is none."""
    return next((verb for verb in LAZY if arguments[: verb.count(" ") + 1] == verb.split()), "")
