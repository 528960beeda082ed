"""Run graphs on ONNX Runtime's CPU provider, from arrays to arrays."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Backend, Session
from smalti.backends.onnxruntime_options import (
    CPU,
    LIBRARY,
    cannot_run,
    onnxruntime,
    open_session,
    runtime_version,
    signatures,
)
from smalti.backends.signatures import Signature
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle

__all__ = ["LIBRARY", "OnnxRuntimeCpu", "OnnxSession", "runtime_version"]


class OnnxRuntimeCpu(Backend):
    """ONNX Runtime's CPU provider."""

    name: ClassVar[str] = "cpu"
    device = "CPU"

    def __init__(self, threads: int) -> None:
        """Raises ProviderUnavailable when ONNX Runtime cannot be imported."""
        onnxruntime()
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


class OnnxSession:
    """A component of a bundle in one precision, on ONNX Runtime's CPU provider."""

    def __init__(
        self, bundle: Bundle, role: Role, precision: Precision, threads: int, *, optimise: bool = True
    ) -> None:
        """Load a graph; ``optimise=False`` skips constant folding, for when only the signature is needed.

        Raises BundleError when ONNX Runtime refuses the graph.
        """
        self._session = open_session(bundle, role, precision, threads, [CPU], optimise=optimise)
        self._where = f"{bundle.path}: {bundle.variant(role, precision).graph.file}"
        self._names: set[str] = {node.name for node in self._session.get_inputs()}
        self.inputs: tuple[Signature, ...] = signatures(self._session.get_inputs())
        self.outputs: tuple[Signature, ...] = signatures(self._session.get_outputs())

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph. Inputs that it does not have, such as labels, are ignored.

        Raises BundleError when it cannot run.
        """
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._names}
        try:
            return self._session.run(None, feed)
        except Exception as error:
            raise cannot_run(self._where, error) from error
