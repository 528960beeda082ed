"""Verbs that other floors bring: where each is found, loaded when it is called."""

from __future__ import annotations

LAZY = {
    "train": ("smalti_train.cli.train", "Train an autoencoder or a prior (needs the extra train)."),
    "import": ("smalti_train.cli.importing", "Read a published checkpoint as a run (needs the extra train)."),
    "evaluate": ("smalti_train.cli.evaluate", "Measure a bundle or a run (needs the extra evaluate)."),
    "export": ("smalti_export.cli", "Turn trained runs into a bundle (needs the extra export)."),
    "engine": ("smalti_export.engines.cli", "Build TensorRT engines of a bundle (needs the extra rtx or trt)."),
}
"""Verbs of the floors above: where each is found, and its line of help. The module has a typer ``app``."""
EXTRAS = {"import": "train", "engine": "rtx"}
"""Extras that are not called what their verb is."""
