"""Runs of every family that a device must draw as the CPU does, and small bundles of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import smalti
from helpers.table_denoiser import TableDenoiser, TimedTableDenoiser
from helpers.table_predictor import autoregressive_bundle

GRID, CODES, LABELS = (3, 4), 6, ("a", "b")

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("absorbing", {"count": 2}),
    "exact halton": ("absorbing", {"count": 2, "schedule": "exact", "order": "halton", "steps": 3}),
    "cosine random": ("absorbing", {"count": 2, "schedule": "cosine", "order": "random"}),
    "binomial": ("absorbing", {"count": 3, "schedule": "binomial"}),
    "confidence": ("absorbing", {"count": 2, "order": "confidence", "steps": 4}),
    "confidence, guided and cut": (
        "absorbing",
        {"order": "confidence", "steps": 3, "guidance": 2.0, "top_k": 9, "size": (96, 64)},
    ),
    "remasked": ("absorbing", {"count": 2, "remask": 0.7, "order": "random", "steps": 5}),
    "masked as the released code": ("absorbing", {"remask": "mlm", "steps": 4}),
    "guided": ("absorbing", {"count": 2, "guidance": 2.5, "label": "lorelei"}),
    "top-k and top-p": ("absorbing", {"count": 2, "top_k": 7, "top_p": 0.8, "temperature": 1.5}),
    "canvas": ("absorbing", {"size": (96, 80), "steps": 4, "stride": 2}),
    "guided canvas": ("absorbing", {"size": (80, 64), "steps": 2, "guidance": 1.5, "count": 2}),
    "small canvas": ("absorbing", {"size": (32, 64), "steps": 3}),
    "twice the size": ("absorbing", {"resolution": 128, "count": 2}),
    "four times the size": ("absorbing", {"resolution": 256}),
    "more than one call": ("absorbing", {"count": 18, "steps": 1}),
    "sundae": ("sundae", {"count": 3, "steps": 22}),
    "sundae, frozen early": ("sundae", {"count": 4, "steps": 30, "min_steps": 2, "temperature": 0.3}),
    "sundae, few steps": ("sundae", {"count": 2, "steps": 2, "top_p": 0.9}),
    "sundae, guided canvas": ("sundae", {"size": (24, 16), "steps": 3, "guidance": 2.0}),
    "sundae, small canvas": ("sundae", {"size": (8, 8), "steps": 3}),
    "multinomial": ("multinomial", {"count": 3, "temperature": 0.8}),
    "multinomial, cut": ("multinomial", {"count": 2, "top_k": 3, "top_p": 0.9}),
    "multinomial, guided canvas": ("multinomial", {"size": (24, 16), "guidance": 1.7}),
    "autoregressive": ("autoregressive", {"count": 2, "guidance": 1.5}),
}


def all_families(sized_bundle: Path, tiny_bundle: Path, folder: Path) -> dict[str, Path]:
    """A bundle of each family."""
    autoregressive_bundle(tiny_bundle, folder / "autoregressive")
    return {
        "absorbing": sized_bundle,
        "sundae": TableDenoiser(GRID, CODES, len(LABELS)).bundle(folder / "sundae", classes=LABELS),
        "multinomial": TimedTableDenoiser(GRID, CODES, len(LABELS), 30).bundle(
            folder / "multinomial", classes=LABELS, steps=5
        ),
        "autoregressive": folder / "autoregressive",
    }


def same(found: smalti.Result, expected: smalti.Result) -> None:
    assert np.array_equal(found.tokens, expected.tokens)
    for one, other in zip(found.images, expected.images, strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
