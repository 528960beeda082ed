"""A device without a GPU: the stub driver's memory, ONNX Runtime's CPU provider on it, the shipped PTX interpreted."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from helpers.ptx.machine import Kernel
from helpers.ptx.memory import Memory, Region
from helpers.stub_driver import Stub
from helpers.stub_kernel import memory
from smalti.backends.device.arena import Arena
from smalti.backends.onnxruntime_cuda import OnnxRuntimeDevice
from smalti.backends.onnxruntime_places import on_cpu
from smalti_kernels.impl.cuda.launch import Kernels
from smalti_kernels.impl.cuda.modules import layout_of
from smalti_kernels.impl.forms import FORMS

ILLEGAL_ADDRESS = 700
SHARED = 4096
PTX_ONLY = 100
"""A compute capability for which only the PTX can be loaded."""


@cache
def kernel_of(text: str) -> Kernel:
    return Kernel(text)


ARENAS: dict[int, weakref.ref[Arena]] = {}
"""The arena that was laid out last at each address."""


def _laid_out(arena: Arena, *arguments: object) -> None:
    _lay_out(arena, *arguments)
    ARENAS[arena.address] = weakref.ref(arena)


_lay_out, Arena.__init__ = Arena.__init__, _laid_out
LAYOUTS = {form.kernel: layout_of(form.arguments) for form in FORMS.values()}


class StubDevice:
    """The stub as a device that runs the shipped kernels' PTX, and counts what was launched."""

    def __init__(self, stub: Stub) -> None:
        self.stub = stub
        self.launched: Counter[str] = Counter()
        stub.reset()
        stub.machine(capability=PTX_ONLY, version=13010)
        stub.on_launch_of(self.run)

    def run(self, image: bytes, arguments: bytes, grid: int, threads: int) -> int:
        kernel = kernel_of(image.decode())
        assert kernel.threads == threads
        self.launched[kernel.name] += 1
        try:
            kernel.run(grid, list(LAYOUTS[kernel.name].unpack(arguments)), Memory(self.regions()), SHARED)
        except MemoryError as error:
            print(f"{kernel.name}: {error}")
            return ILLEGAL_ADDRESS
        return 0

    def regions(self) -> Iterator[Region]:
        """Memory in use: of an arena each array by itself, so that no kernel gets from one to the next."""
        for address, size in self.stub.regions:
            arena = ARENAS[address]() if address in ARENAS else None
            if arena is None:
                yield Region(address, size, "memory")
                continue
            for name, tensor in arena.parts.items():
                yield Region(tensor.address, tensor.nbytes, name)

    def only_moves(self) -> None:
        """From now on, move tokens in NumPy and launch nothing else, which is fast."""

        def run(image: bytes, arguments: bytes, grid: int, threads: int) -> int:
            if b"smalti_move" in image:
                source, target, take, put, count, filler, *_ = LAYOUTS["smalti_move"].unpack(arguments)
                taken, to = (memory(address, (count,), np.int32) for address in (take, put))
                origin, places = (
                    memory(address, (int(at.max()) + 1,), np.int32) for address, at in ((source, taken), (target, to))
                )
                places[to[to >= 0]] = np.where(taken < 0, filler, origin[taken])[to >= 0]
            return 0

        self.stub.on_launch_of(run)

    def kernels(self) -> Kernels:
        opened = self.stub.driver()
        return Kernels(opened, opened.primary_context(0), opened.device(0))

    def backend(self) -> OnnxRuntimeDevice:
        """A backend of its own stream."""
        backend = OnnxRuntimeDevice(self.kernels(), lambda stream: on_cpu(1))
        backend.certified = "fp32"
        return backend
