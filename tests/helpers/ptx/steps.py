"""The small kernels' PTX: every array in a region of its own, of exactly its size and at no better an address than it
must have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from helpers.ptx.memory import Memory, Region, aligned_copy
from helpers.ptx.shipped import TARGET, kernel_of, shipped_text
from helpers.step_cases import Arrays, Case
from smalti_kernels.impl.cuda.prebuilt import find_entry


def placed(array: NDArray[Any]) -> NDArray[Any]:
    """A copy at an address that nothing but the size of an element divides."""
    flat = np.concatenate([np.zeros(1, array.dtype), array.ravel()])
    return aligned_copy(flat)[1:].reshape(array.shape)


def launch(case: Case, text: str | None = None, *, shared_bytes: int | None = None) -> Arrays:
    """Execute a case: what its kernel wrote.

    Args:
        case: what to launch.
        text: PTX of the case's form; None for the shipped one.
        shared_bytes: shared memory that the text needs; None for that of the shipped one.

    Raises IllegalAddress, Misaligned and Divergence as `Kernel.run` does.
    """
    kernel = kernel_of(shipped_text(case.form.name) if text is None else text)
    assert (kernel.name, kernel.threads) == (case.form.kernel, 32 * case.form.num_warps)
    held = {name: placed(array) for name, array in case.arrays.items()}
    # What the flags leave unread has an address that nobody may touch.
    values = {**case.numbers, **{name: array.ctypes.data for name, array in held.items()}}
    arguments = [values.get(argument.name, 0) for argument in case.form.arguments]
    memory = Memory(
        Region(array.ctypes.data, array.nbytes, name, name in case.expected) for name, array in held.items()
    )
    if shared_bytes is None:
        shared_bytes = find_entry(TARGET, case.form.name).shared_bytes
    kernel.run(case.grid, [*arguments, 0, 0], memory, shared_bytes)
    return {name: held[name] for name in case.expected}
