"""Checked requests drawn by the sampling kernel's PTX: its arrays each in a region of its own, of exactly its size."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.machine import Kernel
from helpers.ptx.memory import Memory, Region, aligned_copy
from smalti_kernels.checks import Request
from smalti_kernels.impl.abi import ARGUMENTS, Variant, programs_for, variant_for
from smalti_kernels.impl.cuda.draw import host_arrays
from smalti_kernels.impl.cuda.prebuilt import find_entry, read_image
from smalti_kernels.spec.tables import packed_tables

TARGET = "ptx_80"
_WRITTEN = ("tokens", "changed", "errors", "logprob")
_STAND_INS = {"uncond": "logits", "keep": "seeds", "logprob": "errors"}
"""What a launch gives for addresses that its flags leave unread."""


class Drawn(NamedTuple):
    """What the kernel wrote."""

    tokens: NDArray[np.int32]
    changed: NDArray[np.bool_]
    errors: NDArray[np.int32]
    logprob: NDArray[np.int32] | None


@cache
def shipped_text(variant: str) -> str:
    """The PTX text of a variant, as it is shipped."""
    return read_image(find_entry(TARGET, variant)).decode()


@cache
def kernel_of(text: str) -> Kernel:
    """The kernel of a text, compiled once."""
    return Kernel(text)


def variant_of(request: Request) -> Variant:
    """The variant that draws a request."""
    _, shape, flags = host_arrays(request)
    return variant_for(shape.logits, shape.vocabulary, flags)


def draw(
    request: Request, text: str | None = None, *, shared_bytes: int | None = None, multiprocessors: int = 132
) -> Drawn:
    """Draw a request, as a launch on a device would.

    Args:
        request: arrays of NumPy.
        text: PTX of the variant that draws the request; None for the shipped one.
        shared_bytes: shared memory that the text needs; None for that of the shipped one.
        multiprocessors: those of the device, on which the number of programs depends.

    Raises IllegalAddress, Misaligned and Divergence as `Kernel.run` does.
    """
    arrays, shape, flags = host_arrays(request)
    variant = variant_for(shape.logits, shape.vocabulary, flags)
    kernel = kernel_of(shipped_text(variant.name) if text is None else text)
    assert kernel.threads == 32 * variant.num_warps
    held = {name: aligned_copy(array) for name, array in {**arrays, "tables": packed_tables()}.items()}
    values: dict[str, Any] = {
        **{name: array.ctypes.data for name, array in held.items()},
        **shape._asdict(),
        "logits": held["logits"].ctypes.data,
        "guidance": float(request.guidance),
        "flags": flags,
    }
    for name, other in _STAND_INS.items():
        values.setdefault(name, values[other])
    memory = Memory(Region(array.ctypes.data, array.nbytes, name, name in _WRITTEN) for name, array in held.items())
    if shared_bytes is None:
        shared_bytes = find_entry(TARGET, variant.name).shared_bytes
    grid = programs_for(shape.rows, variant, multiprocessors)
    kernel.run(grid, [*(values[argument.name] for argument in ARGUMENTS), 0, 0], memory, shared_bytes)
    return Drawn(held["tokens"], held["changed"].view(np.bool_), held["errors"], held.get("logprob"))
