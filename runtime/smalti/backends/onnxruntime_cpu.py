"""Where graphs run: ONNX Runtime, and the report of what was asked for, what runs, and why.

This is the only file of the runtime that knows ONNX Runtime.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from smalti.backends.signatures import Signature
from smalti.bundle.manifest import PRIORS, Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, ProviderUnavailable, UsageError

Provider = Literal["cpu"]
RequestedPrecision = Literal["auto", "fp32", "fp16", "int8"]

_LATER = ("cuda", "tensorrt", "rtx")
LIBRARY = "onnxruntime"
"""What runs graphs here."""
INSTALL_CPU = 'pip install "smalti[cpu]"'

Arrays = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """One graph, ready to run."""

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Outputs, in the graph's order, for named inputs."""
        ...


@dataclass(frozen=True)
class ProviderReport:
    """What was asked for, what runs, and why."""

    requested: str
    actual: Provider
    device: str
    requested_precision: str
    precision: dict[str, Precision]
    """Precision of each component."""
    why: str
    runtime: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def resolve_provider(requested: str) -> tuple[Provider, str]:
    """Say which provider runs for a request, and why; raises ProviderUnavailable or UsageError."""
    if requested not in ("auto", "cpu", *_LATER):
        raise UsageError(f"provider {requested!r}: allowed are auto and cpu")
    if requested in _LATER:
        raise ProviderUnavailable(f"provider {requested} is not in this version of smalti; use cpu, or auto")
    _onnxruntime()
    if requested == "cpu":
        return "cpu", "cpu was asked for"
    return "cpu", "the CPU is the only provider in this version"


def resolve_precision(bundle: Bundle, requested: str) -> tuple[dict[str, Precision], str]:
    """Choose each component's precision on a CPU: for ``auto``, int8 where the bundle holds it, fp32 elsewhere.

    A bundle only holds variants that met their tolerance when it was exported, so being there is being certified. A
    component that does not come in the precision asked for runs in fp32, and the reason is returned; a precision in
    which neither the prior nor the decoder comes is a UsageError.
    """
    if requested not in get_args(RequestedPrecision):
        raise UsageError(f"precision {requested!r}: allowed are {', '.join(get_args(RequestedPrecision))}")
    wanted: Precision = "int8" if requested == "auto" else cast(Precision, requested)
    roles = tuple(bundle.manifest.components)
    have = [role for role in roles if wanted in bundle.precisions(role)]
    if requested != "auto" and not {PRIORS[bundle.manifest.family], "decoder"} & set(have):
        there = sorted({precision for role in roles for precision in bundle.precisions(role)})
        raise UsageError(f"{bundle.path} has no {wanted} variant; it comes in {', '.join(there)}")
    chosen: dict[str, Precision] = {role: wanted if role in have else "fp32" for role in roles}
    others = [role for role in roles if role not in have]
    why = f"{wanted} is certified for {', '.join(have)}" if have else "no int8 variant is certified"
    return chosen, why + (f"; {', '.join(others)} in fp32" if others and have else "")


def default_threads() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime_version() -> str:
    """Name and version of the inference library."""
    for name in (LIBRARY, f"{LIBRARY}-gpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "onnxruntime (version unknown)"


def _onnxruntime() -> Any:
    """Import ONNX Runtime (which has no type stubs) when it is first needed, or raise ProviderUnavailable."""
    # 1.31 keeps a device identifier and a telemetry store in the user's cache unless this is set; a program that embeds
    # a picture generator did not ask for that. A value that the user has set stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise ProviderUnavailable(f"ONNX Runtime cannot be imported ({error}); {INSTALL_CPU}") from None


_DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}


def _signature(node: Any) -> Signature:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return Signature(node.name, str(_DTYPES.get(node.type) or node.type), shape)


class OnnxSession:
    """A component of a bundle in one precision, on ONNX Runtime's CPU provider."""

    def __init__(
        self, bundle: Bundle, role: Role, precision: Precision, threads: int, *, optimise: bool = True
    ) -> None:
        """Load a graph; where only its signature counts, not to ``optimise`` it spares the work of its constants."""
        ort = _onnxruntime()
        variant = bundle.variant(role, precision)
        graph = bundle.read(variant.graph.file)
        weights = [bundle.read(name) for name in variant.weights]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Spinning workers would take the cores from the host's part of each step, and from the user's own work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights that the variant does not declare would be looked for in the process's own folder.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        if weights:
            options.add_external_initializers_from_files_in_memory(
                list(variant.weights), weights, [len(content) for content in weights]
            )
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime's own exceptions share no public base; whatever it says, the graph is not usable.
            raise BundleError(f"{bundle.path}: ONNX Runtime refuses {variant.graph.file}: {error}") from error
        self._where = f"{bundle.path}: {variant.graph.file}"
        self._names: set[str] = {node.name for node in self._session.get_inputs()}
        self.inputs: tuple[Signature, ...] = tuple(map(_signature, self._session.get_inputs()))
        self.outputs: tuple[Signature, ...] = tuple(map(_signature, self._session.get_outputs()))
        bundle.forget()

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph; inputs it does not have (a label, say) are left out. BundleError for one that cannot run."""
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._names}
        try:
            return self._session.run(None, feed)
        except Exception as error:
            # ONNX Runtime's own exceptions share no public base. What a caller gives was checked before; what is left
            # is a graph, or stored inputs, that the manifest does not tell the truth about, or too little memory.
            raise BundleError(f"{self._where}: ONNX Runtime cannot run it on these inputs: {error}") from error
