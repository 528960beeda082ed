"""Run graphs on ONNX Runtime's CPU provider.

This is the only file of the runtime that uses ONNX Runtime.
"""

from __future__ import annotations

import importlib
import os
from importlib import metadata
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Backend, Session
from smalti.backends.signatures import Signature
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, ProviderUnavailable

LIBRARY = "onnxruntime"
"""Name of the inference library."""
INSTALL_CPU = 'pip install "smalti[cpu]"'


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU provider."""

    name: ClassVar[str] = "cpu"
    device = "CPU"

    def __init__(self, threads: int) -> None:
        """Raises ProviderUnavailable when ONNX Runtime cannot be imported."""
        _onnxruntime()
        self.threads = threads
        self.runtime = runtime_version()

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        """Load a component and return it ready to run. Raises BundleError when ONNX Runtime refuses its graph."""
        return OnnxSession(bundle, role, precision, self.threads)

    def declared(
        self, bundle: Bundle, role: Role, precision: Precision
    ) -> tuple[tuple[Signature, ...], tuple[Signature, ...]]:
        """Return a graph's own inputs and outputs. No constant is folded, since the graph may be hostile.

        Raises BundleError when ONNX Runtime refuses the graph.
        """
        session = OnnxSession(bundle, role, precision, self.threads, optimise=False)
        return session.inputs, session.outputs


def runtime_version() -> str:
    """Return the name and version of the inference library."""
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
        # An arena never shrinks. An encoder is as fast without one, and inpainting has it idle while it decodes.
        options.enable_cpu_mem_arena = role != "encoder"
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
        """Run the graph. Inputs that it does not have, such as labels, are ignored.

        Raises BundleError when it cannot run.
        """
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._names}
        try:
            return self._session.run(None, feed)
        except Exception as error:
            # ONNX Runtime's exceptions have no public base class. The caller's inputs were checked before, so the graph
            # or stored inputs do not match the manifest, or memory is short.
            raise BundleError(f"{self._where}: ONNX Runtime cannot run it on these inputs: {error}") from error
