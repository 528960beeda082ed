"""Arrays in device memory, each in an allocation of its own with guard zones before and after it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.impl.cuda.launch import Kernels

ZONE = 4096
FILL = 0xFF
"""What zones hold: NaN as logits, -1 as an index. A kernel that reads beyond an array draws wrongly, or faults."""


class Guarded:
    """Copies of arrays on a device, whose zones must stay what they are. A context: leaving it frees the memory."""

    def __init__(self, kernels: Kernels, arrays: Mapping[str, NDArray[Any]], zone: int = ZONE) -> None:
        """With ``zone`` 0 each allocation has exactly the array's bytes, for a memory checker."""
        self._driver, self._context, self._zone = kernels.driver, kernels.context, zone
        self._sent = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        self._stack = contextlib.ExitStack()
        self.address: dict[str, int] = {}

    def __enter__(self) -> Guarded:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._driver.entered(self._context))
            for name, array in self._sent.items():
                memory = stack.enter_context(self._driver.allocated(array.nbytes + 2 * self._zone))
                whole = np.full(array.nbytes + 2 * self._zone, FILL, np.uint8)
                whole[self._zone : self._zone + array.nbytes] = array.reshape(-1).view(np.uint8)
                self._driver.upload(memory, whole.ctypes.data, whole.nbytes, 0)
                self._driver.synchronize(0)
                self.address[name] = memory + self._zone
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        whole = np.empty(self._sent[name].nbytes + 2 * self._zone, np.uint8)
        self._driver.download(whole.ctypes.data, self.address[name] - self._zone, whole.nbytes, 0)
        self._driver.synchronize(0)
        return whole

    def read(self, name: str) -> NDArray[Any]:
        """What an array holds now."""
        sent = self._sent[name]
        return self._bytes(name)[self._zone : self._zone + sent.nbytes].view(sent.dtype).reshape(sent.shape)

    def spoiled(self, written: tuple[str, ...]) -> list[str]:
        """What changed that may not: zones, and arrays that are not ``written``. Waits for the default stream."""
        found: list[str] = []
        for name, sent in self._sent.items():
            whole = self._bytes(name)
            inner = whole[self._zone : self._zone + sent.nbytes]
            if (whole[: self._zone] != FILL).any():
                found.append(f"before {name}")
            if (whole[self._zone + sent.nbytes :] != FILL).any():
                found.append(f"after {name}")
            if name not in written and not np.array_equal(inner, sent.reshape(-1).view(np.uint8)):
                found.append(name)
        return found
