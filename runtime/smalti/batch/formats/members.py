"""The small files that one drawn picture becomes, in a tar of WebDataset or in a folder."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np

from smalti.batch.formats.format import Damaged
from smalti.batch.rows import Row

ARRAYS: Final = {"tokens": "tokens.npy", "pixels": "pixels.npy"}
"""Files of columns that are arrays."""


def key_of(row: Row) -> str:
    """Return how the files of a row begin: its seed, in as many digits as the largest has."""
    return f"{row['seed']:020}"


def members(row: Row) -> dict[str, bytes]:
    """Return the files of a row by the ends of their names: the picture, its tokens, and the rest as JSON."""
    found = {ARRAYS["tokens"]: _npy(row["tokens"])}
    if "png" in row:
        found["png"] = row["png"]
    if "pixels" in row:
        found[ARRAYS["pixels"]] = _npy(np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3))
    rest = {name: value for name, value in row.items() if name not in ("png", *ARRAYS)}
    found["json"] = msgspec.json.encode(rest)
    return found


def row_of(found: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """Return a row of its files. Raises Damaged where one is missing or cannot be read."""
    try:
        row: dict[str, Any] = msgspec.json.decode(found["json"], type=dict[str, Any])
        row["tokens"] = np.load(io.BytesIO(found[ARRAYS["tokens"]]), allow_pickle=False)
        if ARRAYS["pixels"] in found:
            row["pixels"] = np.load(io.BytesIO(found[ARRAYS["pixels"]]), allow_pickle=False).tobytes()
        if "png" in found:
            row["png"] = found["png"]
    except (KeyError, ValueError, EOFError, OSError, msgspec.MsgspecError) as error:
        raise Damaged(f"{where}: a row cannot be read: {str(error)[:200] or type(error).__name__}") from None
    return row


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
