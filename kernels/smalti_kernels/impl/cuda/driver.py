"""The NVIDIA driver's library through ctypes: the few functions that a launch needs, with types and typed errors.

Importing this file loads nothing. Device memory, streams, modules and contexts are raw integers, because they are
exchanged with other libraries (ONNX Runtime, torch) that use raw integers. No CUDA toolkit is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Generator
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from smalti_kernels.errors import DriverError, DriverUnavailable
from smalti_kernels.impl.cuda.driver_calls import (
    BUFFER_POINTER,
    BUFFER_SIZE,
    CAPABILITY_MAJOR,
    CAPABILITY_MINOR,
    MULTIPROCESSORS,
    NON_BLOCKING,
    REMEDIES,
    SIGNATURES,
)
from smalti_kernels.platform import DRIVER_LIBRARIES, load_library

OLDEST_CUDA: Final = (12, 0)
"""Oldest CUDA version of a driver that can load the prebuilt kernels (driver 525 and newer)."""

_INSTALL: Final = 'install a current NVIDIA driver, or draw with impl="numpy"'


@dataclass(frozen=True)
class Device:
    """One CUDA device, as the driver describes it."""

    ordinal: int
    """Its number after CUDA_VISIBLE_DEVICES is applied."""
    name: str
    capability: int
    """Compute capability as one number: 75 is 7.5, 120 is 12.0."""
    multiprocessors: int


class Driver:
    """An initialised driver.

    Every method raises `DriverError` when the driver reports an error. As always in CUDA, errors of work queued earlier
    on a device may appear in any later call.
    """

    version: tuple[int, int]
    """Newest CUDA version the driver supports."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        """Look up the functions and initialise the driver; `name` is the library's name in messages.

        Raises DriverUnavailable when a function is missing, when the driver is too old or cannot be initialised, or
        when it has no device.
        """
        self._functions: dict[str, Any] = {}
        for symbol, arguments in SIGNATURES.items():
            try:
                function = getattr(library, symbol)
            except AttributeError:
                # cuCtxGetId is the newest function; drivers before CUDA 12 lack it.
                raise DriverUnavailable(f"the NVIDIA driver ({name}) has no {symbol}", _INSTALL) from None
            function.argtypes = arguments
            function.restype = c_int
            self._functions[symbol] = function
        try:
            self.call("cuInit", 0)
            number = self._integer("cuDriverGetVersion")
            count = self._integer("cuDeviceGetCount")
        except DriverError as error:
            remedy = (
                'make a GPU visible (CUDA_VISIBLE_DEVICES hides them), or draw with impl="numpy"'
                if error.name == "CUDA_ERROR_NO_DEVICE"
                else _INSTALL
            )
            raise DriverUnavailable(f"the NVIDIA driver cannot be used: {error.reason}", remedy) from error
        self.version = (number // 1000, number % 1000 // 10)
        if self.version < OLDEST_CUDA:
            raise DriverUnavailable(
                f"the NVIDIA driver supports CUDA {self.version[0]}.{self.version[1]}; "
                f"the kernels need {OLDEST_CUDA[0]}.{OLDEST_CUDA[1]} (driver 525 or newer)",
                _INSTALL,
            )
        if count < 1:
            raise DriverUnavailable("the NVIDIA driver has no device", 'make a GPU visible, or draw with impl="numpy"')
        self.device_count = count

    def call(self, function: str, *arguments: Any) -> None:
        """Call one of the driver's functions. Raises DriverError for any result but CUDA_SUCCESS."""
        code = int(self._functions[function](*arguments))
        if code == 0:
            return
        name = self._text("cuGetErrorName", code) or "an unknown error"
        text = self._text("cuGetErrorString", code) or "no description"
        raise DriverError(
            f"{function} failed with {name} ({code}): {text}",
            REMEDIES.get(name, ""),
            call=function,
            code=code,
            name=name,
        )

    def _text(self, function: str, code: int) -> str:
        text = c_char_p()
        failed = self._functions[function](code, byref(text)) != 0
        return "" if failed or text.value is None else text.value.decode(errors="replace")

    def _integer(self, function: str, *arguments: Any) -> int:
        value = c_int()
        self.call(function, byref(value), *arguments)
        return value.value

    def _handle(self, function: str, *arguments: Any) -> int:
        value = c_void_p()
        self.call(function, byref(value), *arguments)
        return value.value or 0

    def device(self, ordinal: int) -> Device:
        """Describe a device.

        Raises DriverUnavailable when there is no device of that number.
        """
        if not 0 <= ordinal < self.device_count:
            raise DriverUnavailable(
                f"there is no CUDA device {ordinal}",
                f"this driver shows {self.device_count}, numbered from 0; CUDA_VISIBLE_DEVICES hides others",
            )
        return self._describe(ordinal, self._integer("cuDeviceGet", ordinal))

    def _describe(self, ordinal: int, handle: int) -> Device:
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", name, len(name), handle)
        major = self._integer("cuDeviceGetAttribute", CAPABILITY_MAJOR, handle)
        minor = self._integer("cuDeviceGetAttribute", CAPABILITY_MINOR, handle)
        count = self._integer("cuDeviceGetAttribute", MULTIPROCESSORS, handle)
        return Device(ordinal, name.value.decode(errors="replace"), major * 10 + minor, count)

    def primary_context(self, ordinal: int) -> int:
        """The device's primary context, which ONNX Runtime, torch and all programs of the CUDA runtime share.

        Each call takes a reference that is never released, because a context must outlive the modules loaded into it.
        """
        return self._handle("cuDevicePrimaryCtxRetain", self._integer("cuDeviceGet", ordinal))

    def current_context(self) -> int:
        """The calling thread's context, or 0."""
        return self._handle("cuCtxGetCurrent")

    def context_id(self, context: int) -> int:
        """A number unique to this context for the life of the process; addresses may be reused."""
        value = ctypes.c_uint64()
        self.call("cuCtxGetId", context, byref(value))
        return value.value

    def context_device(self) -> Device:
        """The device of the calling thread's context."""
        handle = self._integer("cuCtxGetDevice")
        handles = [self._integer("cuDeviceGet", ordinal) for ordinal in range(self.device_count)]
        return self._describe(handles.index(handle), handle)

    @contextlib.contextmanager
    def entered(self, context: int) -> Generator[None, None, None]:
        """Make `context` current for the calling thread, and restore the previous one afterwards."""
        self.call("cuCtxPushCurrent_v2", context)
        with self._finally("cuCtxPopCurrent_v2", byref(c_void_p())):
            yield

    @contextlib.contextmanager
    def allocated(self, size: int) -> Generator[int, None, None]:
        """Allocate device memory and free it on leaving; see `allocate`."""
        pointer = self.allocate(size)
        with self._finally("cuMemFree_v2", pointer):
            yield pointer

    @contextlib.contextmanager
    def new_stream(self) -> Generator[int, None, None]:
        """Create a stream that does not wait for the default stream, and destroy it on leaving.

        Leaving does not wait for its work.
        """
        stream = self.create_stream()
        with self._finally("cuStreamDestroy_v2", stream):
            yield stream

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return self._handle("cuStreamCreate", NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream once its work is done; it does not wait."""
        self.call("cuStreamDestroy_v2", stream)

    @contextlib.contextmanager
    def _finally(self, function: str, *arguments: Any) -> Generator[None, None, None]:
        """Release something on leaving.

        After one error in a context every call fails, so only the first error is raised.
        """
        try:
            yield
        except BaseException:
            with contextlib.suppress(DriverError):
                self.call(function, *arguments)
            raise
        self.call(function, *arguments)

    def load_module(self, image: bytes) -> int:
        """Load a cubin, or PTX as text, into the current context; a NUL is added to PTX."""
        return self._handle("cuModuleLoadData", image)

    def function(self, module: int, name: str) -> int:
        """Find a kernel in a module."""
        return self._handle("cuModuleGetFunction", module, name.encode())

    def launch(self, function: int, *, grid: int, threads: int, shared: int, stream: int, arguments: bytes) -> None:
        """Queue a kernel of the current context on a stream.

        Args:
            function: from `function`.
            grid: blocks, one dimension.
            threads: threads per block.
            shared: bytes of dynamic shared memory per block.
            stream: raw stream handle; 0 is the default stream.
            arguments: the parameters in the kernel's own layout.
        """
        size = c_size_t(len(arguments))
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        extra = (c_void_p * 5)(BUFFER_POINTER, ctypes.addressof(buffer), BUFFER_SIZE, ctypes.addressof(size), None)
        self.call("cuLaunchKernel", function, grid, 1, 1, threads, 1, 1, shared, stream or None, None, extra)

    def synchronize(self, stream: int) -> None:
        """Wait until all queued work of the stream is done; errors of that work are raised here."""
        self.call("cuStreamSynchronize", stream or None)

    def allocate(self, size: int) -> int:
        """Allocate `size` bytes (at least one) of device memory, aligned to 256.

        The memory lasts as long as the current context.
        """
        return self._handle("cuMemAlloc_v2", max(size, 1))

    def free(self, pointer: int) -> None:
        """Free what `allocate` gave, after the work that uses it is done."""
        self.call("cuMemFree_v2", pointer)

    def allocate_pinned(self, size: int) -> int:
        """Allocate host memory that the device reads and writes at full speed; copies to and from it return at once."""
        return self._handle("cuMemHostAlloc", max(size, 1), 0)

    def free_pinned(self, pointer: int) -> None:
        """Free what `allocate_pinned` gave, after the work that uses it is done."""
        self.call("cuMemFreeHost", pointer)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from device memory to device memory."""
        self.call("cuMemcpyDtoDAsync_v2", target, source, size, stream or None)

    def upload(self, pointer: int, address: int, size: int, stream: int) -> None:
        """Queue a copy from host memory, which must not change until the stream has been waited for."""
        self.call("cuMemcpyHtoDAsync_v2", pointer, address, size, stream or None)

    def download(self, address: int, pointer: int, size: int, stream: int) -> None:
        """Queue a copy to host memory, which may be read after the stream has been waited for."""
        self.call("cuMemcpyDtoHAsync_v2", address, pointer, size, stream or None)

    def create_event(self) -> int:
        """Create an event, which takes the time at which a stream reaches it."""
        return self._handle("cuEventCreate", 0)

    def record(self, event: int, stream: int) -> None:
        """Queue an event behind the work of a stream."""
        self.call("cuEventRecord", event, stream or None)

    def elapsed(self, start: int, end: int) -> float:
        """Wait for the event `end`; return the seconds from `start` to it on the device."""
        self.call("cuEventSynchronize", end)
        milliseconds = c_float()
        self.call("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value / 1e3

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self.call("cuEventDestroy_v2", event)


def open_driver(*names: str) -> Driver:
    """Load and initialise the driver from the first library that exists.

    `names` are paths or names of libraries to try, by default this system's. Raises DriverUnavailable when none of them
    can be loaded or the loaded one cannot be used; the message says why.
    """
    tried: list[str] = []
    for name in names or DRIVER_LIBRARIES:
        try:
            library = load_library(name)
        except OSError as error:
            tried.append(str(error))
            continue
        return Driver(library, name)
    raise DriverUnavailable(f"there is no NVIDIA driver ({'; '.join(tried)})", _INSTALL)


@cache
def driver() -> Driver:
    """The driver of this machine, opened once per process; a failure is not remembered."""
    return open_driver()
