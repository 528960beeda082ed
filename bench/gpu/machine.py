"""Where the steps run: a GPU, or the stub driver that plays one, and how much is done on each."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from smalti_kernels.impl.cuda.launch import Kernels, load_kernels
from smalti_kernels.impl.cuda.targets import Target

if TYPE_CHECKING:
    from smalti.backends.onnxruntime_cuda import OnnxRuntimeDevice

PTX = Target(80, ptx=True)


class Sizes(NamedTuple):
    """How much each step does."""

    rows: int
    """Rows of each small draw."""
    vocabularies: int
    """Vocabularies that each variant is tried with, at most 3."""
    draws: dict[int, int]
    """How many draws of one type of logits, by vocabulary."""
    pool: int
    """Random logits to cut rows from."""
    timed: tuple[int, int]
    """Rows and vocabulary of the timed draw."""
    buffers: int
    """Copies of the logits, so that each draw of a round reads cold memory."""
    rounds: int
    ballast: int
    """Bytes of the copies that keep the device busy while work is queued."""
    count: int
    """Images of a compared run."""
    steps: int | None
    """Steps of a run; None for the bundle's own."""
    resolutions: tuple[int, ...]
    """Of those of the bundle, the ones that are compared and timed; none for all."""
    batches: tuple[int, ...]
    repeats: int
    precisions: tuple[str, ...]


GPU = Sizes(
    rows=61,
    vocabularies=3,
    draws={256: 200_000, 1000: 100_000, 1024: 100_000, 8192: 40_000, 16384: 20_000},
    pool=1 << 24,
    timed=(1024, 8192),
    buffers=16,
    rounds=25,
    ballast=1 << 28,
    count=4,
    steps=None,
    resolutions=(),
    batches=(1, 4, 16),
    repeats=5,
    precisions=("fp16", "fp32"),
)
STUB = Sizes(
    rows=5,
    vocabularies=1,
    draws={256: 300},
    pool=1 << 18,
    timed=(8, 512),
    buffers=2,
    rounds=2,
    ballast=1 << 16,
    count=1,
    steps=2,
    resolutions=(256, 512),
    batches=(1,),
    repeats=1,
    precisions=("fp32",),
)


@dataclass
class Machine:
    """A device with its kernels, and the time that a step may take."""

    kind: str
    """``gpu`` or ``stub``."""
    kernels: Kernels
    sizes: Sizes
    ends: float
    """When the step is to stop, on the clock of time.monotonic."""
    stub: Any = None
    """The StubDevice, on a stub."""
    folder: Any = field(default=None, repr=False)
    """Keeps the stub's library."""

    @property
    def left(self) -> float:
        """Seconds left for the step."""
        return self.ends - time.monotonic()

    def loaded_as(self, target: Target) -> Kernels:
        """The kernels of another file, in the same context."""
        own = self.kernels
        forced = Kernels(own.driver, own.context, own.device)
        forced.target = target
        return forced

    def backend(self, *, graphs: bool = False) -> OnnxRuntimeDevice:
        """A new backend of the provider cuda, or of ONNX Runtime's CPU provider on the stub's memory."""
        from smalti.backends.onnxruntime_cuda import OnnxRuntimeCuda, OnnxRuntimeDevice
        from smalti.backends.onnxruntime_places import on_cpu

        if self.kind == "gpu":
            return OnnxRuntimeCuda(0, graphs=graphs)
        return OnnxRuntimeDevice(self.kernels, lambda stream: on_cpu(1, graphs=graphs))


def open_gpu(seconds: float) -> Machine:
    """Device 0. Raises KernelError where there is none that the kernels run on."""
    return Machine("gpu", load_kernels(0), GPU, time.monotonic() + seconds)


def open_stub(seconds: float) -> Machine:
    """The stub driver, compiled now. Raises FileNotFoundError without a C compiler."""
    from helpers.stub_device import StubDevice
    from helpers.stub_driver import build_stub

    folder = tempfile.TemporaryDirectory()
    device = StubDevice(build_stub(Path(folder.name)))
    return Machine("stub", device.kernels(), STUB, time.monotonic() + seconds, device, folder)
