"""Run graphs on ONNX Runtime, and report which provider and precision was requested, which is used, and why.

This is the only file of the runtime that uses ONNX Runtime.
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
"""Name of the inference library."""
INSTALL_CPU = 'pip install "smalti[cpu]"'

Arrays = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """One graph, ready to run."""

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph on named inputs; return its outputs in the graph's order."""
        ...


@dataclass(frozen=True)
class ProviderReport:
    """The requested provider and precision, those in use, and the reason."""

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
        """Convert to plain values, for JSON."""
        return asdict(self)


def resolve_provider(requested: str) -> tuple[Provider, str]:
    """The provider to use for a request, and the reason.

    Raises UsageError when the name is unknown, ProviderUnavailable when the provider cannot run.
    """
    if requested not in ("auto", "cpu", *_LATER):
        raise UsageError(f"provider {requested!r}: allowed are auto and cpu")
    if requested in _LATER:
        raise ProviderUnavailable(f"provider {requested} is not in this version of smalti; use cpu, or auto")
    _onnxruntime()
    if requested == "cpu":
        return "cpu", "cpu was asked for"
    return "cpu", "the CPU is the only provider in this version"


def resolve_precision(bundle: Bundle, requested: str) -> tuple[dict[str, Precision], str]:
    """Choose each component's precision on a CPU, and say why; ``auto`` means int8 where the bundle has it, else fp32.

    Every variant in a bundle met its tolerance when it was exported, so all of them are certified. A component without
    the requested precision runs in fp32.

    Raises UsageError when the precision is unknown, or when neither the prior nor the decoder comes in it.
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
    """Number of cores that this process may use."""
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
    """Import ONNX Runtime (which has no type stubs) when it is first needed.

    Raises ProviderUnavailable when it cannot be imported.
    """
    # Otherwise ONNX Runtime 1.31 stores a device identifier and telemetry in the user's cache. A value set by the user
    # stays.
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
        """Load a graph; ``optimise=False`` skips constant folding, for when only the signature is needed.

        Raises BundleError when ONNX Runtime refuses the graph.
        """
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
        # Spinning workers would take cores from the host's part of each step and from other programs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Otherwise weights that the variant does not declare would be read from the working directory.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        if weights:
            options.add_external_initializers_from_files_in_memory(
                list(variant.weights), weights, [len(content) for content in weights]
            )
        try:
            self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # ONNX Runtime's exceptions have no public base class; with any of them the graph is unusable.
            raise BundleError(f"{bundle.path}: ONNX Runtime refuses {variant.graph.file}: {error}") from error
        self._where = f"{bundle.path}: {variant.graph.file}"
        self._names: set[str] = {node.name for node in self._session.get_inputs()}
        self.inputs: tuple[Signature, ...] = tuple(map(_signature, self._session.get_inputs()))
        self.outputs: tuple[Signature, ...] = tuple(map(_signature, self._session.get_outputs()))
        bundle.forget()

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph; inputs that it does not have, such as a label, are ignored.

        Raises BundleError when it cannot run.
        """
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._names}
        try:
            return self._session.run(None, feed)
        except Exception as error:
            # ONNX Runtime's exceptions have no public base class. The caller's inputs were checked before, so the graph
            # or stored inputs do not match the manifest, or memory is short.
            raise BundleError(f"{self._where}: ONNX Runtime cannot run it on these inputs: {error}") from error
