"""What was found on a machine, as plain values. :mod:`smalti.verification.doctor.gather` fills them in.

Nothing here judges: what follows from the facts is in :mod:`smalti.verification.doctor.findings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smalti.bundle.engines import Runtime
from smalti.verification.engines.listing import State

Shell = Literal["posix", "cmd", "powershell"]


@dataclass(frozen=True)
class Python:
    """The interpreter."""

    version: tuple[int, int, int]
    bits: int
    executable: str
    command: str
    """What a shell here calls it: ``python`` where that is this one, else its path."""
    pip: bool
    """Whether it has pip; environments made by uv have none."""


@dataclass(frozen=True)
class System:
    """The operating system."""

    name: str
    """Linux, Windows or Darwin."""
    release: str
    machine: str
    """Its processor's kind, such as x86_64, AMD64 or arm64."""
    libc: str
    """On Linux: glibc or musl; empty elsewhere."""
    libc_version: str
    shell: Shell


@dataclass(frozen=True)
class Installed:
    """The installed smalti."""

    version: str
    requires_python: str
    extras: tuple[str, ...]
    """Those that it offers, not those that are installed; empty where it is not installed as a package."""
    source: str
    """The folder or address that it was installed from; empty for a package index."""
    editable: bool


@dataclass(frozen=True)
class Folder:
    """A folder and the bytes of all files below."""

    path: str
    bytes: int
    whole: bool = True
    """False where there were too many files to look at all of them."""


@dataclass(frozen=True)
class Processor:
    """The processor."""

    name: str
    cores: int
    """Those that this process may use."""
    instructions: tuple[str, ...] | None
    """Instruction sets that matter for speed; None where they could not be read."""


@dataclass(frozen=True)
class Adapter:
    """A graphics card on the bus, whether or not a driver knows it."""

    vendor: str
    """AMD, Intel, NVIDIA or Apple."""
    name: str


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVIDIA's driver describes it."""

    name: str
    capability: int
    """Compute capability as one number: 75 is 7.5."""
    memory: int | None
    """Bytes; None where the driver does not say."""


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver."""

    library: str = ""
    """The library that was loaded; empty if there is none."""
    problem: str = ""
    """Why it cannot be used."""
    version: str = ""
    """Such as 580.95.05; empty where it could not be read."""
    cuda: tuple[int, int] | None = None
    """Newest CUDA version that it supports."""
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class OnnxRuntime:
    """What importing ONNX Runtime gave."""

    version: str = ""
    """Empty if it cannot be imported."""
    problem: str = ""
    """Why it cannot be imported."""
    cuda: str = ""
    """CUDA version that it was built for; empty without CUDA, and in versions that do not say."""
    providers: tuple[str, ...] = ()
    """Those that it was built with."""


@dataclass(frozen=True)
class CudaLibrary:
    """One of the libraries of CUDA."""

    name: str
    """Such as cublasLt; see :data:`smalti.verification.doctor.libraries.LIBRARIES`."""
    file: str
    version: str
    package: str
    """The installed package that brought it; empty if it is the system's."""
    path: str


@dataclass(frozen=True)
class VulkanDevice:
    """A device that Vulkan's loader lists."""

    name: str
    kind: str
    """Such as discrete GPU; CPU for what computes on the processor, as SwiftShader and lavapipe do."""


@dataclass(frozen=True)
class Vulkan:
    """Vulkan's loader."""

    library: str = ""
    """Empty if there is none."""
    problem: str = ""
    devices: tuple[VulkanDevice, ...] = ()


@dataclass(frozen=True)
class Engine:
    """An engine of an embedded bundle, or of any bundle in the cache."""

    bundle: str
    """Name of its bundle, with the digest where that is not embedded."""
    component: str
    precision: str
    runtime: Runtime
    version: str
    """Version of that runtime that it runs in."""
    targets: tuple[str, ...]
    device: str = ""
    """Name of the one GPU that it runs on; empty if every GPU of the targets runs it."""
    cached: bool = False
    """Whether it was built on this machine, and lies in the cache."""
    bytes: int = 0
    state: State = "ok"
    """What ``smalti engine list`` says of it."""
    note: str = ""
    """Why it cannot be used; empty where it can."""


@dataclass(frozen=True)
class Machine:
    """Everything that was found."""

    python: Python
    system: System
    smalti: Installed
    processor: Processor
    caches: tuple[Folder, ...] = ()
    """The folder of all caches, then each folder in it."""
    adapters: tuple[Adapter, ...] = ()
    driver: Driver = Driver()
    visible: str | None = None
    """``CUDA_VISIBLE_DEVICES``, which hides GPUs; None if it is not set."""
    variables: tuple[tuple[str, str], ...] = ()
    """Names and values of smalti's own variables that are set."""
    kernels: tuple[str, ...] = ()
    """Targets of the prebuilt kernels that are there, such as sm_75."""
    packages: tuple[tuple[str, str], ...] = ()
    """Name and version of the installed packages that bring ONNX Runtime, CUDA and TensorRT."""
    onnxruntime: OnnxRuntime = OnnxRuntime()
    cuda_libraries: tuple[CudaLibrary, ...] = ()
    vulkan: Vulkan = Vulkan()
    bundles: tuple[str, ...] = ()
    """Embedded bundles."""
    named: tuple[str, ...] = ()
    """Other bundles that were named, by their paths."""
    engines: tuple[Engine, ...] = ()
    broken_lists: tuple[str, ...] = ()
    """Lists of engines that cannot be used, and why."""
    unwritable: str = ""
    """Why nothing can be written to the cache; empty where it can."""
    problems: tuple[str, ...] = ()
    """What could not be read, and why."""
