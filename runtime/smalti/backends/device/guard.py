"""A guard against fp16 decoders that overflow on a device: they paint black or one colour, and say nothing."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Session
from smalti.bundle.manifest import Role
from smalti.bundle.reader import Bundle
from smalti.bundle.safetensors_reader import read_tensors

LEAST = 25.0
"""Decibels of peak signal to noise below which a picture is not the model's. Rounding to fp16 leaves 40 and more."""


def decodes_wrongly(session: Session, bundle: Bundle, role: Role) -> str | None:
    """Decode a golden input, and return what is wrong with the picture, in words; None when nothing is.

    A bundle without golden inputs of this decoder cannot be judged; nothing is wrong with it.
    """
    for index, (tokens, expected) in enumerate(_cases(bundle, role)):
        found = session({"tokens": tokens[:1]})[0].astype(np.float64)
        if found.shape != expected[:1].shape:
            return f"golden input {index} decodes to {list(found.shape)}, and {list(expected[:1].shape)} is expected"
        error = float(np.mean((found - expected[:1]) ** 2))
        decibels = 10 * np.log10(255**2 / max(error, 1e-10))
        if decibels < LEAST:
            return f"golden input {index} decodes at {decibels:.1f} dB in fp16, and {LEAST:.0f} are needed"
    return None


def _cases(bundle: Bundle, role: Role) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
    record = bundle.manifest.golden
    if record is None:
        return
    tensors = read_tensors(bundle.read(record.file), f"{bundle.path}: {record.file}")
    for index in range(len(tensors)):
        tokens, images = (tensors.get(f"{role}.{index}.{name}") for name in ("in.tokens", "out.images"))
        if tokens is None or images is None:
            return
        yield tokens, images
