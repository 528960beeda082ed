"""Run graphs with ONNX Runtime on tensors that stay in a device's memory."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from smalti.backends.device.tensors import Tensor
from smalti.backends.onnxruntime_options import CPU, cannot_run, onnxruntime, open_session, signatures
from smalti.backends.onnxruntime_places import Place, require_first, require_provider
from smalti.backends.signatures import Signature
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, ProviderUnavailable, SmaltiError

MOST_GRAPHS: Final = 64
"""CUDA graphs kept for each session, one for each set of addresses. Runs on further addresses are queued node by node.
"""
NO_GRAPH: Final = -1
"""ONNX Runtime's number for a run that neither captures nor replays a graph."""

_FAILURES = ("out of memory", "Failed to allocate memory", "bad_alloc", "bad allocation", "Available memory of")
"""Parts of ONNX Runtime's messages when memory is short."""
_DEVICE_FAILURES = ("CUDA failure", "CUDNN failure", "CUBLAS failure", "CUFFT failure")
"""Parts of its messages when a call of a CUDA library fails."""


class Node(NamedTuple):
    """A node of an optimised graph, and where it runs."""

    provider: str
    operator: str
    name: str


class BoundGraph:
    """A component of a bundle in one precision, whose inputs and outputs are addresses: a ``DeviceSession``.

    Each set of input shapes has its own session, in which the sizes are constants. With free sizes, graphs have
    ``Shape`` nodes, which ONNX Runtime puts on the CPU.
    """

    def __init__(self, bundle: Bundle, role: Role, precision: Precision, place: Place) -> None:
        """Read the signature; sessions are made when they are first needed.

        Raises BundleError when ONNX Runtime refuses the graph, ProviderUnavailable when it lacks the provider.
        """
        require_provider(place.provider)
        self._bundle, self._role, self._place = bundle, role, place
        self._precision: Precision = precision
        declared = open_session(bundle, role, precision, place.threads, [CPU], optimise=False)
        self._sides: dict[str, list[int | str | None]] = {node.name: node.shape for node in declared.get_inputs()}
        self._name = f"{bundle.path}: {bundle.variant(role, precision).graph.file}"
        self._sized: OrderedDict[tuple[tuple[str, int], ...], _Sized] = OrderedDict()
        self._lock = threading.Lock()
        self.inputs: tuple[Signature, ...] = signatures(declared.get_inputs())
        self.outputs: tuple[Signature, ...] = signatures(declared.get_outputs())

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Queue the graph on the place's stream, and return without waiting for it.

        ``outputs`` say where results go; their shapes follow from those of the inputs. Inputs that the graph does not
        have are ignored. Outputs that are not named are computed and dropped. The first run on new shapes makes a
        session, which takes a good part of a second.

        Raises BundleError when the graph cannot run on these shapes, ProviderUnavailable when the device cannot run
        all of it or has too little memory.
        """
        given = {name: inputs[name] for name in self._sides if name in inputs}
        if missing := self._sides.keys() - given.keys():
            raise BundleError(f"{self._name}: it needs {', '.join(sorted(missing))}, and was given {', '.join(inputs)}")
        # ONNX Runtime's sessions can be used by many threads, but not one binding, nor one stream.
        with self._lock:
            try:
                sizes = self._sizes(given)
                self._session_for({} if self._place.free else sizes).run(given, outputs)
            except SmaltiError:
                raise
            except Exception as error:
                # ONNX Runtime's exceptions have no public base class.
                raise self._failed(error) or cannot_run(self._name, error) from error

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes of the session used last; none before the first run, or where ONNX Runtime cannot tell."""
        with self._lock:
            return _nodes(next(reversed(self._sized.values())).session) if self._sized else ()

    def _sizes(self, inputs: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the graph's free sizes by name. Raises BundleError when shapes contradict each other or the graph."""
        sizes: dict[str, int] = {}
        for name, tensor in inputs.items():
            sides = self._sides[name]
            fits = len(sides) == len(tensor.shape)
            for side, size in zip(sides, tensor.shape):
                fits &= side is None or size == (side if isinstance(side, int) else sizes.setdefault(side, size))
            if not fits:
                raise BundleError(
                    f"{self._name}: its input {name} is {list(sides)}, and {list(tensor.shape)} was given"
                    + (f" with {', '.join(f'{key} = {value}' for key, value in sizes.items())}" if sizes else "")
                )
        return sizes

    def _session_for(self, sizes: dict[str, int]) -> _Sized:
        key = tuple(sorted(sizes.items()))
        sized = self._sized.get(key)
        if sized is None:
            while not self._place.graphs and len(self._sized) >= max(self._place.kept, 1):
                # Before the new one is made, since two copies of the weights may not fit.
                self._sized.popitem(last=False)[1].wait()
            sized = self._sized[key] = _Sized(self._open(sizes), self._place)
        self._sized.move_to_end(key)
        return sized

    def _open(self, sizes: dict[str, int]) -> Any:
        """Make a session, and check where its nodes run."""
        place = self._place
        # ONNX Runtime refuses this option where the CPU is the provider that was asked for.
        strict = place.strict and place.provider != CPU
        try:
            session = self._make(sizes, no_cpu=strict)
        except BundleError as error:
            failed = self._failed(error)
            if strict and not failed:
                # ONNX Runtime does not say which nodes it would put on the CPU. Let it, to read where they are.
                with contextlib.suppress(BundleError):
                    self._check(self._make(sizes, no_cpu=False))
            if place.provider == CPU:
                raise failed or error from None
            # The CPU has read this graph, so it is not damaged.
            raise failed or ProviderUnavailable(f"{place.provider} cannot run it: {error}. Use provider cpu") from error
        self._check(session)
        return session

    def _make(self, sizes: dict[str, int], *, no_cpu: bool) -> Any:
        def prepare(options: Any) -> None:
            for name, size in sizes.items():
                options.add_free_dimension_override_by_name(name, size)
            # It applies where sizes are constants, and makes of each product with a bias a Gemm between two Reshapes.
            # That rounds otherwise than the graph with free sizes, which is the one that was verified.
            options.add_session_config_entry("optimization.disable_specified_optimizers", "MatMulAddFusion")
            # Unknown entries are ignored: versions before 1.24 do not have this one.
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
            if no_cpu:
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")

        place = self._place
        provider = [(place.provider, dict(place.options))]
        return open_session(self._bundle, self._role, self._precision, place.threads, provider, prepare=prepare)

    def _check(self, session: Any) -> None:
        """Raise ProviderUnavailable when the provider is not in use, or when nodes run elsewhere."""
        require_first(session, self._place.provider)
        if not self._place.strict:
            return
        nodes = _nodes(session)
        elsewhere = [node for node in nodes if node.provider != self._place.provider]
        if not elsewhere:
            return
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(node.operator for node in elsewhere).items())
        raise ProviderUnavailable(
            f"{self._name}: {self._place.provider} cannot run {len(elsewhere)} of {len(nodes)} nodes ({kinds}; such as "
            f"{', '.join(node.name for node in elsewhere[:3])}), and they would run on "
            f"{', '.join(sorted({node.provider for node in elsewhere}))}. Use another precision, a newer ONNX Runtime, "
            "or provider cpu"
        )

    def _failed(self, error: Exception) -> ProviderUnavailable | None:
        """Return what to raise when the device is to blame for an error, and not the graph."""
        text = str(error)
        if any(part in text for part in _FAILURES) and self._place.provider != CPU:
            remedy = "draw fewer or smaller images at a time, close other programs that use the device, or use fp16"
            return ProviderUnavailable(f"{self._name}: the device has too little memory: {text}; {remedy}")
        if any(part in text for part in _DEVICE_FAILURES):
            return ProviderUnavailable(f"{self._name}: the device failed: {text}; load the bundle again, or use cpu")
        return None


def _nodes(session: Any) -> tuple[Node, ...]:
    """Return the nodes of a session's graph; none where ONNX Runtime is too old to tell."""
    tell = getattr(session, "get_provider_graph_assignment_info", None)
    parts: list[Any] = tell() if tell else []
    return tuple(
        Node(str(part.ep_name), str(node.op_type), str(node.name)) for part in parts for node in part.get_nodes()
    )


class _Sized:
    """A session for one set of sizes, with what is bound to it."""

    def __init__(self, session: Any, place: Place) -> None:
        self.session = session
        self._place = place
        self._loose = _Binding(session, place, NO_GRAPH)
        self._fixed: dict[tuple[tuple[str, Tensor], ...], _Binding] = {}

    def run(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        binding = self._binding_for(inputs, outputs)
        binding.bind(inputs, outputs)
        self.session.run_with_iobinding(binding.io, binding.options)

    def _binding_for(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> _Binding:
        """Return the binding of a run. A captured graph keeps its addresses, so each set of them has a graph."""
        if not self._place.graphs:
            return self._loose
        key = (*sorted(inputs.items()), *sorted(outputs.items()))
        if key not in self._fixed and len(self._fixed) < MOST_GRAPHS:
            self._fixed[key] = _Binding(self.session, self._place, len(self._fixed) + 1)
        return self._fixed.get(key, self._loose)

    def wait(self) -> None:
        """Wait for queued work, before the session's memory is freed."""
        self._loose.io.synchronize_outputs()


class _Binding:
    """Addresses of a session's inputs and outputs."""

    def __init__(self, session: Any, place: Place, graph: int) -> None:
        self.io = session.io_binding()
        self.options = onnxruntime().RunOptions()
        # The stream orders all work; who needs the results waits for it.
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if place.graphs:
            self.options.add_run_config_entry("gpu_graph_id", str(graph))
        self._place = place
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Bind what is not bound yet."""
        if self._outputs.keys() - outputs.keys():
            self._outputs.clear()
            self.io.clear_binding_outputs()
        if not self._place.strict:
            self._inputs.clear()  # Those that nodes elsewhere read are copied by binding, and only then.
        for bound, wanted, bind in (
            (self._inputs, inputs, self.io.bind_input),
            (self._outputs, outputs, self.io.bind_output),
        ):
            for name, tensor in wanted.items():
                if bound.get(name) != tensor:
                    bound.pop(name, None)
                    dtype = np.dtype(tensor.dtype).type
                    bind(name, self._place.memory, self._place.ordinal, dtype, tensor.shape, tensor.address)
                    bound[name] = tensor
