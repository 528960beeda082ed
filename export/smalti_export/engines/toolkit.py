"""One builder for two runtimes: TensorRT-RTX, which needs no GPU to build, and TensorRT, which does.

Networks are strongly typed: the graph sets the precision of each tensor, and the builder never changes it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from smalti.bundle.engines import Profile, Runtime
from smalti.bundle.manifest import Precision
from smalti.errors import EngineError, MissingExtra, UsageError
from smalti.system.platform import install_hint, system_name
from smalti.verification.engines.cards import GPUS, target_named, unknown
from smalti.verification.engines.hosts import OLDEST_TRT
from smalti_export.engines.watching import Monitor, Watch, watched
from smalti_kernels.impl.cuda.driver import Device, driver

PORTABLE = ("sm_75", "sm_86", "sm_89", "sm_120")
"""Default targets of a portable engine: GeForce RTX 20, 30, 40 and 50."""
OLDEST_TENSORRT = 10
EXTRA = {"rtx": "engines", "trt": "trt"}
"""The extra that brings each builder."""
UNWATCHED = Watch()


class Toolkit(Protocol):
    """A builder of engines."""

    runtime: Runtime
    version: str
    targets: tuple[str, ...]
    """GPUs that the engines run on."""
    device: str
    """Name of the one GPU that they run on; empty where every GPU of the targets runs them."""
    system: str
    """Operating system and processor that they run on; empty where all do."""

    def build(self, graph: Path, profiles: Sequence[Mapping[str, Profile]], watch: Watch = UNWATCHED) -> bytes:
        """Build the engine of a graph whose weights lie beside it.

        Raises EngineError when the builder refuses the graph, or when ``watch`` cancels the build.
        """
        ...


class PortableToolkit:
    """TensorRT-RTX: one engine for several GPU generations, built anywhere, for any operating system."""

    runtime: Runtime = "rtx"
    device = ""
    system = ""

    def __init__(self, targets: Sequence[str] = PORTABLE, module: Any = None) -> None:
        self._trt = module or _module("tensorrt_rtx", self.runtime)
        self.version = str(self._trt.__version__)
        known = _known(self._trt)
        asked = [_target(word, known, self.version) for word in targets]
        self.targets = tuple(target for target in known if target in asked)

    def build(self, graph: Path, profiles: Sequence[Mapping[str, Profile]], watch: Watch = UNWATCHED) -> bytes:
        """Build for all targets; see :class:`Toolkit`."""

        def aim(config: Any) -> None:
            config.num_compute_capabilities = len(self.targets)
            for index, target in enumerate(self.targets):
                config.set_compute_capability(getattr(self._trt.ComputeCapability, _member(target)), index)

        return _build(self._trt, graph, profiles, aim, watch)


class DeviceToolkit:
    """TensorRT: an engine for this machine's GPU and system, and for the installed version only."""

    runtime: Runtime = "trt"

    def __init__(self, module: Any = None, gpu: Device | None = None) -> None:
        self._trt = module or _module("tensorrt", self.runtime)
        self.version = str(self._trt.__version__)
        if int(self.version.split(".")[0]) < OLDEST_TENSORRT:
            raise EngineError(f"TensorRT {self.version} is too old; {install_hint('trt', '--upgrade')}")
        gpu = gpu or driver().device(0)
        self.targets = (f"sm_{gpu.capability}",)
        self.device, self.system = gpu.name, system_name()

    def build(self, graph: Path, profiles: Sequence[Mapping[str, Profile]], watch: Watch = UNWATCHED) -> bytes:
        """Build for this machine's GPU; see :class:`Toolkit`."""
        return _build(self._trt, graph, profiles, lambda config: None, watch)


def default_targets(precision: Precision) -> tuple[str, ...]:
    """The targets of a portable engine where none are named: those of :data:`PORTABLE` that run the precision."""
    return tuple(target for target in PORTABLE if precision != "fp32" or target != "sm_75")


def open_toolkit(runtime: str, targets: Sequence[str], precision: Precision = "fp16") -> Toolkit:
    """The toolkit of a runtime; without ``targets``, for the default ones that run the precision.

    Raises UsageError when the runtime or a target is unknown, MissingExtra when the package is not installed, and the
    driver's errors when TensorRT finds no GPU.
    """
    if runtime == "rtx":
        return PortableToolkit(targets or default_targets(precision))
    if runtime != "trt":
        raise UsageError(f"runtime {runtime!r}: allowed are rtx and trt")
    if targets:
        raise UsageError("TensorRT builds for the GPU of this machine; leave --target out, or take --runtime rtx")
    return DeviceToolkit()


def _module(name: str, runtime: Runtime) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(
            f"smalti engine build --runtime {runtime} needs {name}; {install_hint(EXTRA[runtime])}"
        ) from error


def _member(target: str) -> str:
    return target.replace("sm_", "SM")


def _target(word: str, known: Sequence[str], version: str) -> str:
    """Return the target that a user means. Raises UsageError when there is none, and says which way there is."""
    if (target := target_named(word)) in known:
        return target
    allowed = f"TensorRT-RTX {version} builds for {', '.join(known)}, as in {_several(known[:2])}"
    parts = [target_named(part) for part in re.split(r"[,;]", word)]
    if len(parts) > 1 and all(parts):
        raise UsageError(f"target {word!r} names several GPUs; give each its own: {_several(parts)}")
    if not target:
        raise UsageError(f"target {unknown(word)}. {allowed}")
    named = f"target {target} ({GPUS[target]})" if target in GPUS else f"target {target}"
    if int(target.removeprefix("sm_")) >= OLDEST_TRT:
        raise UsageError(
            f"{named}: {allowed}. For this GPU, TensorRT builds: run smalti engine build --runtime trt, without "
            "--target, on the machine that has it"
        )
    raise UsageError(
        f"{named}: {allowed}; TensorRT builds for sm_{OLDEST_TRT} and newer. That GPU runs the bundle's graphs without "
        f"engines: smalti engine explain --for {target} says how"
    )


def _several(targets: Sequence[str]) -> str:
    return " ".join(f"--target {target}" for target in targets)


def _known(trt: Any) -> list[str]:
    """Targets that the installed version can build for, oldest first."""
    names = [name for name in dir(trt.ComputeCapability) if name.startswith("SM") and name[2:].isdigit()]
    return [f"sm_{name[2:]}" for name in sorted(names, key=lambda name: int(name[2:]))]


def _build(
    trt: Any, graph: Path, profiles: Sequence[Mapping[str, Profile]], aim: Callable[[Any], None], watch: Watch
) -> bytes:
    """Build an engine; ``aim`` sets the targets, the only difference between the two runtimes."""

    def work(monitor: Monitor) -> bytes:
        try:
            return _built(trt, graph, profiles, aim, monitor)
        except EngineError as error:
            if monitor.cancelled:
                raise EngineError(f"the build of {graph.name} was cancelled; nothing of it is kept") from error
            raise

    return watched(watch, work)


def _built(
    trt: Any, graph: Path, profiles: Sequence[Mapping[str, Profile]], aim: Callable[[Any], None], monitor: Monitor
) -> bytes:
    said: list[str] = []

    class Log(trt.ILogger):
        """Collect error messages; by default the builder prints them."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.append(message)

    log = Log()
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # raised by the bindings when there is no driver
        raise EngineError(f"{trt.__name__} {trt.__version__} cannot build here: {' '.join(said) or error}") from error
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
        raise EngineError(f"{trt.__name__} {trt.__version__} cannot read {graph.name}: {'; '.join(errors) or said}")
    config = builder.create_builder_config()
    aim(config)
    monitor.attach(trt, config)
    if (rounded := getattr(trt.BuilderFlag, "TF32", None)) is not None:
        config.clear_flag(rounded)  # keep fp32 products in full fp32
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    for sizes in profiles:
        profile = builder.create_optimization_profile()
        for name in sizes.keys() & inputs:
            profile.set_shape(name, sizes[name].least, sizes[name].best, sizes[name].most)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot build {graph.name}: {'; '.join(said) or 'no reason'}"
        )
    return bytes(plan)
