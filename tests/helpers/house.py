"""Where the packages lie, floor by floor."""

from __future__ import annotations

from pathlib import Path

HOUSE = Path(__file__).parents[2]
ROOTS = {
    "smalti_kernels": HOUSE / "kernels/smalti_kernels",
    "smalti": HOUSE / "runtime/smalti",
    "smalti_train": HOUSE / "training/smalti_train",
    "smalti_export": HOUSE / "export/smalti_export",
}
"""Lowest first: a root may import itself and those before it."""
