"""Read arrays from a safetensors file: a JSON header and plain bytes; nothing is executed or unpacked."""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from smalti.errors import BundleError

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
"""Types of arrays in bundles."""
_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[_Whole, ...]
    data_offsets: tuple[_Whole, _Whole]


def read_tensors(content: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays by name. They are read-only, and of the types in ``DTYPES``.

    Raises BundleError with the reason and ``where`` when the content is invalid.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise BundleError(f"{where} is no safetensors file: it ends inside its header")
    try:
        header = msgspec.json.decode(content[8 : 8 + length], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where} is no safetensors file: {error}") from None
    data = memoryview(content)[8 + length :]
    return {name: _array(name, entry, data, where) for name, entry in entries.items()}


def _array(name: str, entry: _Entry, data: memoryview, where: str) -> NDArray[Any]:
    dtype, (begin, end) = DTYPES.get(entry.dtype), entry.data_offsets
    if dtype is None:
        raise BundleError(f"{where}: {name} is of type {entry.dtype!r}; allowed are {', '.join(DTYPES)}")
    if len(entry.shape) > 8 or end > len(data) or end - begin != math.prod(entry.shape) * dtype.itemsize:
        raise BundleError(
            f"{where}: {name} is said to be {entry.dtype} {list(entry.shape)[:9]} in bytes {begin} .. {end}, which "
            "does not fit"
        )
    try:
        return np.frombuffer(data[begin:end], dtype).reshape(entry.shape)
    except ValueError as error:  # one side is 0 and another too large for NumPy
        raise BundleError(f"{where}: {name} cannot be of shape {list(entry.shape)}: {error}") from None
