"""The prebuilt kernels in one context: loaded when first needed, and launched with packed arguments."""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from smalti_kernels.errors import DriverError, NoMatchingKernel
from smalti_kernels.impl.abi import Argument
from smalti_kernels.impl.cuda.driver import Device, Driver
from smalti_kernels.impl.cuda.prebuilt import FOLDER, Entry, find_entry, read_image
from smalti_kernels.impl.cuda.targets import TARGETS, Target, target_for
from smalti_kernels.spec.tables import packed_tables

_FORMATS: Final = {"i32": "i", "i64": "q", "fp32": "f"}
_WARP: Final = 32


class Loaded(NamedTuple):
    """A kernel that is ready to be launched."""

    function: int
    entry: Entry


class Modules:
    """The prebuilt kernels in one context, usable from any thread; modules are loaded on first use."""

    driver: Driver
    context: int
    """Context that pointers and streams must belong to."""
    device: Device
    target: Target
    """The target whose files this device runs."""
    tables: int
    """Address of the specification's tables; 0 until a kernel is loaded."""

    def __init__(self, driver: Driver, context: int, device: Device, folder: Path = FOLDER) -> None:
        """Choose the target for a device; callers use `launch.load_kernels`, which keeps one object per context.

        Raises NoMatchingKernel when nothing was built that this device can run.
        """
        target = target_for(device.capability, driver.version)
        if target is None:
            raise NoMatchingKernel(
                f"{device.name} has compute capability {device.capability / 10:.1f}, for which no kernel was built "
                f"(built: {', '.join(t.name for t in TARGETS)})",
                'draw with impl="numpy"',
            )
        self.device, self.target = device, target
        self.driver, self.context, self._folder = driver, context, folder
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}
        self.tables = 0

    def load(self, name: str) -> Loaded:
        """Load a form by its name, once. Its context must be the calling thread's current one.

        Raises DamagedKernel when its file is missing or is not the one that was built, DriverError when the driver does
        not load it.
        """
        loaded = self._loaded.get(name)
        if loaded is not None:
            return loaded
        with self._lock:
            loaded = self._loaded.get(name)
            if loaded is None:
                self._load_tables()
                entry = find_entry(self.target.name, name, self._folder)
                image = read_image(entry, self._folder)
                try:
                    function = self.driver.function(self.driver.load_module(image), entry.kernel)
                except DriverError as error:
                    raise DriverError(
                        f"the kernel {name} for {self.target.name} does not load on {self.device.name}: {error.reason}",
                        error.remedy,
                        call=error.call,
                        code=error.code,
                        name=error.name,
                    ) from error
                loaded = self._loaded[name] = Loaded(function, entry)
        return loaded

    def queue(self, loaded: Loaded, grid: int, arguments: bytes, stream: int) -> None:
        """Queue a launch of ``grid`` programs in the current context, and return at once."""
        self.driver.launch(
            loaded.function,
            grid=grid,
            threads=loaded.entry.num_warps * _WARP,
            shared=loaded.entry.shared_bytes,
            stream=stream,
            arguments=arguments,
        )

    def _load_tables(self) -> None:
        """Copy the specification's tables into the context once; they last as long as it does."""
        if self.tables:
            return
        tables = packed_tables()
        pointer = self.driver.allocate(tables.nbytes)
        self.driver.upload(pointer, tables.ctypes.data, tables.nbytes, 0)
        self.driver.synchronize(0)
        self.tables = pointer


@cache
def layout_of(arguments: tuple[Argument, ...]) -> struct.Struct:
    """How the driver takes a kernel's arguments.

    Host and device use the same alignment: every argument lies at a multiple of its size. Triton's kernels take two
    more pointers, to scratch memory; the build checks that they need none.
    """
    return struct.Struct("@" + "".join(_FORMATS.get(a.type, "Q") for a in arguments) + "QQ")


def packed(arguments: tuple[Argument, ...], values: Mapping[str, int | float]) -> bytes:
    """Arguments as the driver takes them, out of values by name."""
    return layout_of(arguments).pack(*(values[argument.name] for argument in arguments), 0, 0)
