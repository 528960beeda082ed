"""Providers ``rtx`` and ``trt``: a bundle's engines on an NVIDIA GPU, in the device loop; nothing of ONNX Runtime."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Final

from smalti.backends.device.arena import Device
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.graphs import ComparedGraphs
from smalti.backends.device.tensors import DeviceSession
from smalti.backends.driver_version import driver_version
from smalti.backends.tensorrt.bindings import Bindings
from smalti.backends.tensorrt.choice import NAMES, Host, fitting
from smalti.backends.tensorrt.compiled import CompiledKernels, MadeFor
from smalti.backends.tensorrt.session import EngineSession
from smalti.bundle.engine_folder import KeptEngine, engines_of
from smalti.bundle.engines import Runtime
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import ProviderUnavailable, UsageError
from smalti.system.platform import quoted, system_name
from smalti_kernels import KernelError
from smalti_kernels.impl.cuda.launch import Kernels, load_kernels

PREFERRED: Final[tuple[Precision, ...]] = "fp16", "fp32"
"""Precisions of engines, first choice first."""


class EngineBackend(DeviceBackend):
    """Engines of one runtime on one device."""

    precisions = PREFERRED
    certified = "fp16"
    runtime_kind: ClassVar[Runtime]

    def __init__(self, kernels: Kernels, bindings: Bindings, host: Host, *, graphs: bool = False) -> None:
        """Make a stream. ``host`` says what an engine must have been built for."""
        super().__init__(Device(kernels))
        self.bindings, self.host, self._graphs = bindings, host, graphs
        self.device = f"{kernels.device.name}, compute capability {kernels.device.capability / 10:.1f}"
        self.runtime = bindings.name
        self.threads = 1

    def read(self, bundle: Bundle, role: Role, precision: Precision) -> tuple[KeptEngine, bytes]:
        """Return the engine of a component, whole. Raises ProviderUnavailable where none fits, and says why of each."""
        kept, wrong = engines_of(bundle)
        plans: list[bytes] = []
        found, reasons = fitting(kept, bundle, self.host, role, precision, lambda one: plans.append(one.read()))
        if found is not None:
            return found, plans[-1]
        said = "; ".join((*reasons, *wrong)) or "there is none"
        raise ProviderUnavailable(
            f"provider {self.name} has no engine of the {role} in {precision} for {self.host.target}: {said}. "
            f"{self._remedy(bundle, precision)}"
        )

    def open_on_device(self, bundle: Bundle, role: Role, precision: Precision) -> DeviceSession:
        """Load a component's engine.

        Raises ProviderUnavailable where there is none for this device, or the runtime refuses it.
        """
        kept, plan = self.read(bundle, role, precision)
        with self.place.entered():
            engine = self.bindings.read(plan, kept.path)
        return self._session(engine, kept, role)

    def resolve_precision(self, bundle: Bundle, requested: str) -> tuple[dict[str, Precision], str]:
        """Choose the precision of each component: that of the engines that are there, fp16 before fp32.

        A component without an engine is refused only when it is needed.

        Raises UsageError when the precision is unknown or int8, or the bundle does not have it.
        """
        if requested == "int8":
            raise UsageError(f"precision int8: provider {self.name} runs fp16 and fp32; leave the precision to auto")
        chosen, why = super().resolve_precision(bundle, requested)
        if requested != "auto":
            return chosen, why
        kept, _ = engines_of(bundle)  # once, since each call reads the lists of the bundle and of the cache
        without: list[str] = []
        for role in bundle.manifest.components:
            there: list[Precision] = [one for one in PREFERRED if fitting(kept, bundle, self.host, role, one)[0]]
            if there:
                chosen[role] = there[0]
            else:
                without.append(role)
        told = ", ".join(f"{role} {precision}" for role, precision in chosen.items() if role not in without)
        lacking = f"; none of {', '.join(without)}" if without else ""
        return chosen, f"there are engines of {told or 'nothing'}{lacking}"

    def has(self, bundle: Bundle, role: Role, precision: Precision) -> bool:
        """Return whether there is an engine of a component that fits this device."""
        return fitting(engines_of(bundle)[0], bundle, self.host, role, precision)[0] is not None

    def _session(self, engine: Any, kept: KeptEngine, role: Role) -> DeviceSession:
        # A context runs in one profile, and needs the memory of that one alone.
        strategy = self.bindings.trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        return EngineSession(
            self.bindings, engine, self.place, kept.path, lambda engine: engine.create_execution_context(strategy)
        )

    def _remedy(self, bundle: Bundle, precision: Precision) -> str:
        line = f"smalti engine build {quoted(str(bundle.path))} --runtime {self.runtime_kind} --precision {precision}"
        return f"Build it with {line}{self._target()}, ask smalti engine explain, or use another provider"

    def _target(self) -> str:
        return ""


class TensorRtRtx(EngineBackend):
    """TensorRT-RTX: portable engines, for which a GPU's kernels are compiled when they are first run."""

    name: ClassVar[str] = "rtx"
    runtime_kind: ClassVar[Runtime] = "rtx"

    def _session(self, engine: Any, kept: KeptEngine, role: Role) -> DeviceSession:
        device, driver = self.place.kernels.device, self.place.kernels.driver
        compiled = CompiledKernels(
            MadeFor(
                system=system_name(),
                version=self.bindings.version,
                device=device.name,
                target=f"sm_{device.capability}",
                driver=driver_version(),
                cuda=".".join(map(str, driver.version)),
                engine=kept.record.engine.sha256,
            )
        )

        def session(graphs: bool) -> EngineSession:
            make = partial(self._context, compiled, graphs)
            return EngineSession(self.bindings, engine, self.place, kept.path, make, compiled.worked)

        plain = session(False)
        return ComparedGraphs(self.place, session(True), plain, role) if self._graphs else plain

    def _context(self, compiled: CompiledKernels, graphs: bool, engine: Any) -> Any:
        trt = self.bindings.trt
        config = engine.create_runtime_config()
        # The default compiles beside the runs and changes kernels under way, so that equal seeds could differ.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        strategy = trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if graphs else strategy.DISABLED
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
        compiled.attach(config)
        return engine.create_execution_context(config)

    def _target(self) -> str:
        return f" --target {self.host.target}"


class TensorRt(EngineBackend):
    """TensorRT: engines that were built on this device, with this version."""

    name: ClassVar[str] = "trt"
    runtime_kind: ClassVar[Runtime] = "trt"

    def missing(self, bundle: Bundle, requested: str) -> dict[Precision, list[Role]]:
        """Return the components without an engine, by the precision that one is to be built in.

        Raises UsageError for a precision that is unknown, int8, or not in the bundle.
        """
        chosen, _ = self.resolve_precision(bundle, requested)
        lacking: dict[Precision, list[Role]] = {}
        for role in bundle.manifest.components:
            if not self.has(bundle, role, chosen[role]):
                lacking.setdefault(chosen[role], []).append(role)
        return lacking


def open_engines(runtime: Runtime, ordinal: int = 0, *, graphs: bool = False) -> EngineBackend:
    """Return the backend of a runtime on the device of a number.

    Raises ProviderUnavailable when there is no driver, no such device, no kernel for it, or the runtime is missing.
    """
    try:
        kernels = load_kernels(ordinal)
    except KernelError as error:
        raise ProviderUnavailable(
            f"provider {runtime} cannot run here: {error.reason}; use provider cpu, or see smalti doctor"
        ) from error
    with kernels.driver.entered(kernels.context):  # the runtime starts on the context that is current
        bindings = Bindings(runtime)
    device = kernels.device
    host = Host(runtime, bindings.version, f"sm_{device.capability}", device.name, system_name())
    if runtime == "rtx":
        return TensorRtRtx(kernels, bindings, host, graphs=graphs)
    if graphs:
        raise UsageError(f"provider {runtime} runs without CUDA graphs; {NAMES['rtx']} and provider cuda have them")
    return TensorRt(kernels, bindings, host)
