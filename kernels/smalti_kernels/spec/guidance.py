"""Guidance: logits pulled away from those of no label (Ho and Salimans 2022), each operation rounded to float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def guide(logits: Float32, uncond: Float32, guidance: np.float32) -> None:
    """Overwrite ``logits`` with uncond + guidance * (logits - uncond); infinite logits stay what they are."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        endless: Float32 | None = logits.copy() if not np.isfinite(logits.sum(dtype=np.float64)) else None
        np.subtract(logits, uncond, out=logits)
        np.multiply(logits, guidance, out=logits)
        np.add(uncond, logits, out=logits)
    # Keep infinite logits: -inf - -inf is NaN, and a negative guidance would turn -inf into +inf.
    if endless is not None:
        np.copyto(logits, endless, where=np.isinf(endless))


def guided(logits: NDArray[Any], uncond: NDArray[Any], guidance: float) -> Float32:
    """Return guided logits, float32 of the shape of both."""
    found = logits.astype(np.float32)
    guide(found, uncond.astype(np.float32), np.float32(guidance))
    return found
