"""Device memory of a run: one allocation with named parts, and host memory that copies are queued from."""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections.abc import Generator, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backends.device.tensors import Tensor
from smalti_kernels.errors import DriverError, KernelError
from smalti_kernels.impl.cuda.launch import Kernels

KEPT, KEPT_BYTES = 4, 2**29
"""Allocations that are kept for the next run, and the most of their bytes together. Allocating waits for the device,
and CUDA graphs are replayed at the addresses at which they were captured."""


class Device:
    """Where runs happen: kernels, which know driver and context, a stream, and memory that runs have left."""

    def __init__(self, kernels: Kernels) -> None:
        """Make a stream. It lasts as long as this object, since others know only its number."""
        self.kernels = kernels
        with self.entered():
            self.stream = kernels.driver.create_stream()
        self._idle: list[tuple[int, int]] = []  # size and address, the one left last at the end
        self._lock = threading.Lock()
        weakref.finalize(self, _leave, kernels, self.stream, self._idle).atexit = False

    def take(self, size: int) -> int:
        """Return the address of memory of a size. Raises DriverError when the device is out of memory."""
        with self._lock:
            for place in reversed(range(len(self._idle))):  # so that equal runs get equal addresses
                if self._idle[place][0] == size:
                    return self._idle.pop(place)[1]
        with self.entered():
            try:
                return self.kernels.driver.allocate(size)
            except DriverError:
                self.release()  # what is kept may be what is missing
                return self.kernels.driver.allocate(size)

    def give(self, size: int, address: int) -> None:
        """Take memory back, of which all work is done; keep it for the next run or free it."""
        with self._lock:
            self._idle.append((size, address))
        self._keep(KEPT, KEPT_BYTES)

    def release(self) -> None:
        """Free all memory that is kept."""
        self._keep(0, 0)

    def _keep(self, most: int, most_bytes: int) -> None:
        """Free what was left longest ago, until no more is kept."""
        with self._lock:
            while len(self._idle) > most or sum(size for size, _ in self._idle) > most_bytes:
                with self.entered():
                    self.kernels.driver.free(self._idle[0][1])
                del self._idle[0]

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Make the device's context the calling thread's."""
        return self.kernels.driver.entered(self.kernels.context)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy on the device, of all of ``source``."""
        with self.entered():
            self.kernels.driver.copy(target.address, source.address, source.nbytes, self.stream)

    def upload(self, tensor: Tensor, array: NDArray[Any]) -> None:
        """Queue a copy to the device; the array must not change or vanish before the stream was waited for."""
        with self.entered():
            self.kernels.driver.upload(tensor.address, array.ctypes.data, array.nbytes, self.stream)

    def download(self, tensor: Tensor) -> NDArray[Any]:
        """Queue a copy to the host; it may be read after the stream has been waited for."""
        array = np.empty(tensor.shape, tensor.dtype)
        with self.entered():
            self.kernels.driver.download(array.ctypes.data, tensor.address, array.nbytes, self.stream)
        return array

    def download_to(self, address: int, tensor: Tensor) -> None:
        """Queue a copy to host memory at an address."""
        with self.entered():
            self.kernels.driver.download(address, tensor.address, tensor.nbytes, self.stream)

    @contextlib.contextmanager
    def pinned(self, size: int) -> Generator[int, None, None]:
        """Allocate host memory for fast copies; see `Driver.allocate_pinned`."""
        driver = self.kernels.driver
        with self.entered():
            address = driver.allocate_pinned(size)
        try:
            yield address
        finally:
            with contextlib.suppress(DriverError), self.entered():
                driver.free_pinned(address)

    def wait(self) -> None:
        """Wait for all queued work; errors of that work are raised here."""
        with self.entered():
            self.kernels.driver.synchronize(self.stream)

    def settle(self) -> None:
        """Wait for all queued work, whatever becomes of it, so that its memory may be freed."""
        with contextlib.suppress(DriverError):
            self.wait()


def _leave(kernels: Kernels, stream: int, idle: list[tuple[int, int]]) -> None:
    """Free what a device kept; errors of a broken context tell nobody anything."""
    with contextlib.suppress(DriverError), kernels.driver.entered(kernels.context):
        for _, address in idle:
            kernels.driver.free(address)
        kernels.driver.destroy_stream(stream)


REPORT = "report this with the options of the run, and draw it on the CPU"
STEP = 2**20
"""Sizes of allocations are multiples of this, so that runs that differ a little use the same memory."""
BOUNDARY = 256
"""Alignment of cuMemAlloc; every part starts on such a boundary."""


def size_of(shape: tuple[int, ...], dtype: str) -> int:
    """Return the bytes of an array, rounded up to the next boundary."""
    return -(-math.prod(shape) * np.dtype(dtype).itemsize // BOUNDARY) * BOUNDARY


class Arena:
    """One allocation of device memory, cut into named arrays. Leaving it gives the memory back."""

    def __init__(self, device: Device, shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
        """Allocate on a device. ``shapes`` are shape and dtype by name.

        Raises DriverError when the device is out of memory.
        """
        self._device = device
        self.nbytes = -(-sum(size_of(*array) for array in shapes.values()) // STEP) * STEP
        self.address = device.take(self.nbytes)
        self.parts: dict[str, Tensor] = {}
        address = self.address
        for name, (shape, dtype) in shapes.items():
            self.parts[name] = Tensor(address, shape, dtype)
            address += size_of(shape, dtype)

    def __getitem__(self, name: str) -> Tensor:
        return self.parts[name]

    def part(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return the beginning of an array as one of another shape. Raises KernelError where it does not hold that."""
        whole = self.parts[name]
        part = whole._replace(shape=shape)
        if part.nbytes > whole.nbytes:
            raise KernelError(f"{name} was laid out as {list(whole.shape)}, and a step needs {list(shape)}", REPORT)
        return part

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._device.give(self.nbytes, self.address)
        except DriverError:
            if error is None:  # after one error in a context every call fails: only the first is told
                raise


class Packed:
    """Arrays that are gathered on the host, to be uploaded in one copy. The buffer stays until the run has ended."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []
        self._offsets: dict[tuple[str, tuple[int, ...], bytes], int] = {}
        self.nbytes = 0

    def add(self, array: NDArray[Any], *, alone: bool = False) -> int:
        """Add an array; return its offset in the buffer.

        Equal arrays are kept once, but for one that is ``alone`` because the device changes it.
        """
        key = str(array.dtype), array.shape, array.tobytes()
        if not alone and key in self._offsets:
            return self._offsets[key]
        offset = self.nbytes
        self._arrays.append(array)
        self.nbytes += size_of(array.shape, str(array.dtype))
        if not alone:
            self._offsets[key] = offset
        return offset

    def buffer(self) -> NDArray[np.uint8]:
        """Return all arrays, each on its boundary."""
        whole = np.zeros(max(self.nbytes, 1), np.uint8)
        offset = 0
        for array in self._arrays:
            content = np.ascontiguousarray(array)
            whole[offset : offset + content.nbytes] = content.reshape(-1).view(np.uint8)
            offset += size_of(array.shape, str(array.dtype))
        return whole
