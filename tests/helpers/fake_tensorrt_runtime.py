"""A TensorRT runtime without a GPU: engines whose numbers ONNX Runtime's CPU provider computes on the stub's memory.

Names and parameters are those of the real bindings, which ``tests/runtime/test_engine_bindings.py`` compares. What an
engine was built from is looked up by its hash, since a real one cannot be read without a GPU. Shapes outside an
engine's profile are refused, as the real runtime does.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from smalti.backends.device.shapes import shape_of, sides_of
from smalti.backends.device.tensors import Tensor
from smalti.backends.onnxruntime_device import BoundGraph
from smalti.backends.onnxruntime_places import on_cpu
from smalti.bundle.engine_folder import engine_cache, read_folder, write_folder
from smalti.bundle.engines import SCHEMA_VERSION, EngineRecord, Engines
from smalti.bundle.manifest import FileRecord, Precision, Role
from smalti.bundle.reader import Bundle
from smalti_export.engines.profiles import make_profiles

TYPES = {"float32": 0, "int32": 3, "uint8": 5}


class FakeRuntime:
    """Stands for the module ``tensorrt_rtx`` or, without ``portable``, ``tensorrt``."""

    def __init__(self, version: str = "1.7.1.116", *, portable: bool = True) -> None:
        self.__name__ = "tensorrt_rtx" if portable else "tensorrt"
        self.__version__ = version
        self.known: dict[str, tuple[Bundle, EngineRecord]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.compiled: set[str] = set()
        self.refuse = ""
        """A call that fails from now on, such as execute_async_v3."""
        self.DataType = enum.IntEnum("DataType", {"FLOAT": 0, "HALF": 1, "INT32": 3, "UINT8": 5})
        self.TensorIOMode = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
        self.ExecutionContextAllocationStrategy = SimpleNamespace(STATIC=0, ON_PROFILE_CHANGE=1)
        fake = self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2

            def __init__(self) -> None:
                pass

        class Runtime:
            def __init__(self, logger: Any) -> None:
                if fake.refuse == "Runtime":
                    logger.log(ILogger.ERROR, "no CUDA-capable device is detected")
                    raise TypeError("factory function returned nullptr")
                self.logger = logger

            def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
                digest = hashlib.sha256(serialized_engine).hexdigest()
                if digest not in fake.known or fake.refuse == "deserialize_cuda_engine":
                    self.logger.log(ILogger.ERROR, "the engine is for another version")
                    return None
                return FakeEngine(fake, self.logger, *fake.known[digest])

        class PortableRuntime(Runtime):
            def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
                if fake.refuse == "get_engine_validity":
                    return fake.EngineValidity.INVALID, 1 | 4
                return fake.EngineValidity.VALID, 0

        self.ILogger, self.Runtime = ILogger, Runtime
        if portable:
            self.Runtime = PortableRuntime
            self.EngineValidity = enum.IntEnum("EngineValidity", {"VALID": 0, "SUBOPTIMAL": 1, "INVALID": 2})
            flags = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
            self.EngineInvalidityDiagnostics = enum.IntEnum("EngineInvalidityDiagnostics", flags)
            self.CudaGraphStrategy = SimpleNamespace(DISABLED=0, WHOLE_GRAPH_CAPTURE=1)
            self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY=0, EAGER=1, NONE=2)

    def nptype(self, trt_type: Any) -> Any:
        return {0: np.float32, 1: np.float16, 3: np.int32, 5: np.uint8}[int(trt_type)]

    def knows(self, bundle: Bundle, records: Iterable[EngineRecord]) -> None:
        """Say what engines were built from."""
        self.known |= {record.engine.sha256: (bundle, record) for record in records}


class FakeEngine:
    def __init__(self, fake: FakeRuntime, logger: Any, bundle: Bundle, record: EngineRecord) -> None:
        self.fake, self.logger, self.record, self.bundle = fake, logger, record, bundle
        self.graph = BoundGraph(bundle, record.component, record.precision, on_cpu(1))
        self.signatures = (*self.graph.inputs, *self.graph.outputs)
        self.num_io_tensors = len(self.signatures)
        self.num_optimization_profiles = len(record.profiles)

    def _named(self, name: str) -> Any:
        return next(one for one in self.signatures if one.name == name)

    def get_tensor_name(self, index: int) -> str:
        return self.signatures[index].name

    def get_tensor_mode(self, name: str) -> Any:
        return self.fake.TensorIOMode(1 if self._named(name) in self.graph.inputs else 2)

    def get_tensor_dtype(self, name: str) -> Any:
        return self.fake.DataType(TYPES[self._named(name).dtype])

    def get_tensor_shape(self, name: str) -> list[int]:
        return [-1 if side is None else side for side in self._named(name).shape]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
        sizes = self.record.profiles[profile_index][name]
        return [sizes.least, sizes.best, sizes.most]

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig(self)

    def create_execution_context(self, given: Any = None) -> FakeContext | None:
        """The real ones take a runtime configuration or, in TensorRT, a strategy."""
        runtime_config = given if isinstance(given, FakeConfig) else None
        assert (given if runtime_config is None else runtime_config.strategy) == 1
        self.fake.calls.append(("context", self.record.component))
        if self.fake.refuse == "create_execution_context":
            self.logger.log(1, "out of memory")
            return None
        if runtime_config is not None:
            assert runtime_config.dynamic_shapes_kernel_specialization_strategy == 1
            cache = runtime_config.cache
            if self.record.engine.sha256 not in cache.kernels:
                self.fake.compiled.add(self.record.component)
                cache.kernels.add(self.record.engine.sha256)
        return FakeContext(self)


class FakeConfig:
    cuda_graph_strategy: int
    dynamic_shapes_kernel_specialization_strategy: int

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.cache, self.strategy = engine, FakeCache(engine), 0

    def set_execution_context_allocation_strategy(self, strategy: int) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache(self.engine)

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True


class FakeCache:
    """Kernels by the engines they were compiled for, readable by the version that made them."""

    def __init__(self, engine: FakeEngine) -> None:
        self.version, self.kernels = engine.fake.__version__, set[str]()

    def serialize(self) -> bytes:
        return "\n".join((self.version, *sorted(self.kernels))).encode() if self.kernels else b""

    def deserialize(self, blob: bytes) -> bool:
        version, *kernels = blob.decode(errors="replace").split("\n")
        if version != self.version:
            return False
        self.kernels |= set(kernels)
        return True


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.profile = engine, -1
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def _refused(self, call: str) -> bool:
        if self.engine.fake.refuse == call:
            self.engine.logger.log(1, f"{call} failed")
            return True
        return False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self.profile = profile_index
        return not self._refused("set_optimization_profile_async")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.get_tensor_profile_shape(name, self.profile)
        if not all(low <= side <= high for low, side, high in zip(least, shape, most, strict=True)):
            self.engine.logger.log(1, f"{name} {shape} is outside of profile {self.profile}")
            return False
        self.shapes[name] = tuple(shape)
        return not self._refused("set_input_shape")

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return not self._refused("set_tensor_address")

    def infer_shapes(self) -> list[str]:
        if self.engine.fake.refuse == "infer_shapes":
            raise RuntimeError("condition violated")
        return [one.name for one in self.engine.graph.inputs if one.name not in self.shapes]

    def get_tensor_shape(self, name: str) -> list[int]:
        component = self.engine.bundle.manifest.components[self.engine.record.component]
        sides: dict[str, int] = {}
        for spec in component.inputs:
            if spec.name in self.shapes:
                sides_of(spec, self.shapes[spec.name], sides)
        return list(shape_of(next(spec for spec in component.outputs if spec.name == name), sides))

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._refused("execute_async_v3") or not stream_handle:
            return False
        engine = self.engine
        self.engine.fake.calls.append(("run", engine.record.component, self.profile, dict(self.shapes)))
        inputs = {
            one.name: Tensor(self.addresses[one.name], self.shapes[one.name], one.dtype) for one in engine.graph.inputs
        }
        outputs = {
            one.name: Tensor(self.addresses[one.name], tuple(self.get_tensor_shape(one.name)), one.dtype)
            for one in engine.graph.outputs
        }
        engine.graph.queue(inputs, outputs)
        return True


def plant(
    bundle: Bundle,
    precision: Precision = "fp16",
    roles: Iterable[Role] = (),
    runtime: str = "rtx",
    version: str = "1.7.1.116",
    targets: tuple[str, ...] = ("sm_86",),
    **changed: Any,
) -> tuple[EngineRecord, ...]:
    """Put engines into the cache that only :class:`FakeRuntime` can run; what was there stays."""
    plans: dict[str, bytes] = {}
    records: list[EngineRecord] = []
    manifest = bundle.manifest
    for role in roles or [role for role in manifest.components if precision in bundle.precisions(role)]:
        plan = f"vtrt {bundle.digest} {role} {precision} {runtime} {version} {targets} {changed}".encode()
        digest = hashlib.sha256(plan).hexdigest()
        record = EngineRecord(
            component=role,
            precision=precision,
            runtime=runtime,
            version=version,
            targets=targets,
            engine=FileRecord(file=f"{role}.{digest[:12]}.{runtime}", sha256=digest, bytes=len(plan)),
            source_sha256=changed.pop("source_sha256", bundle.variant(role, precision).graph.sha256),
            profiles=make_profiles(role, manifest.components[role], manifest.latent, manifest.resolution_of(role)),
            **changed,
        )
        plans[record.engine.file] = plan
        records.append(record)
    folder = engine_cache(bundle)
    listed = read_folder(folder)
    engines = Engines(
        schema_version=SCHEMA_VERSION,
        bundle=manifest.name,
        bundle_digest=bundle.digest,
        engines=(*(listed.engines if listed else ()), *records),
    )
    write_folder(folder, engines, plans)
    return tuple(records)
