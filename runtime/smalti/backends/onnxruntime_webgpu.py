"""Run graphs on GPUs of any maker with ONNX Runtime's WebGPU plugin, from arrays to arrays; the host draws."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Backend, Session
from smalti.backends.device.guard import decodes_wrongly
from smalti.backends.onnxruntime_options import CPU, cannot_run, open_session, runtime_version, signatures
from smalti.backends.signatures import Signature
from smalti.backends.webgpu_plugin import LOCK, WEBGPU, Adapter, open_adapter, plugin_version
from smalti.bundle.manifest import Precision, Role, kind_of
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, ProviderUnavailable, UsageError

HEAVY: Final = frozenset(
    {
        *("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "GemmFloat8", "MatMulNBits", "MatMulBnb4", "Einsum"),
        *("MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "QGemm"),
        *("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv", "ConvTransposeWithDynamicPads"),
        *("ConvInteger", "QLinearConv", "DynamicQuantizeConv"),
        *("Softmax", "LogSoftmax", "BiasSoftmax"),
        *("BatchNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm", "SkipGroupNorm"),
        *("LayerNormalization", "SkipLayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"),
        *("SkipSimplifiedLayerNormalization", "EmbedLayerNormalization", "LpNormalization"),
        *("Attention", "QAttention", "MultiHeadAttention", "DecoderMaskedMultiHeadAttention"),
        *("GroupQueryAttention", "PackedAttention", "PackedMultiHeadAttention"),
    }
)
"""Operators that must run on the device: those that take the time. Others may run on the CPU, where ONNX Runtime puts
what moves data or computes shapes (Slice, Concat, Gather, Shape, Cast)."""
_DEVICE_FAILURES = ("webgpu", "wgpu", "device lost", "out of memory", "failed to allocate", "bad_alloc", "shader")
"""Parts of messages, in lower case, when the device is to blame and not the graph or its inputs."""


class OnnxRuntimeWebGpu(Backend):
    """ONNX Runtime's WebGPU plugin, on the device that it picks. Generators in one process take turns on it."""

    name: ClassVar[str] = "webgpu"

    def __init__(self, threads: int = 1) -> None:
        """``threads`` are the cores for nodes on the CPU, which only move data.

        Raises ProviderUnavailable when the plugin, ONNX Runtime, a driver or a device is missing.
        """
        self.adapter: Adapter = open_adapter()
        self.device = self.adapter.words
        self.runtime = f"{runtime_version()}, {plugin_version()}"
        self.threads = threads
        self.certified = "fp16" if self.adapter.fp16 else "fp32"
        self.precisions = ("fp32", "fp16") if self.adapter.fp16 else ("fp32",)

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        """Load a component and return it ready to run.

        Raises BundleError for a graph that cannot be run, ProviderUnavailable when the device cannot run all of it
        that takes time, or not in this precision.
        """
        self._require(precision)
        return WebGpuSession(bundle, role, precision, self.threads, self.adapter.handle)

    def resolve_precision(self, bundle: Bundle, requested: str) -> tuple[dict[str, Precision], str]:
        """Choose the precision of each component: fp16 where the device has it, else fp32, and never int8.

        A decoder that overflows in fp16 on this device runs in fp32.

        Raises UsageError when the precision is unknown, int8, or not in the bundle, ProviderUnavailable when fp16 was
        asked for and the device does not have it.
        """
        if requested == "int8":
            raise UsageError("precision int8: provider webgpu runs fp32 and fp16; leave the precision to auto")
        chosen, why = super().resolve_precision(bundle, requested)
        if requested == "fp16":
            self._require("fp16")
        for role, precision in list(chosen.items()):
            if precision != "fp16" or kind_of(role) != "decoder":
                continue
            if wrong := decodes_wrongly(self.open(bundle, role, "fp16"), bundle, role):
                chosen[role] = "fp32"
                why += f"; {role} in fp32: {wrong}"
        return chosen, why

    def _require(self, precision: Precision) -> None:
        if precision == "int8" or (precision == "fp16" and not self.adapter.fp16):
            allowed = "fp32 and fp16 are" if self.adapter.fp16 else "fp32 is"
            raise ProviderUnavailable(
                f"provider webgpu cannot run {precision} on {self.device}: {allowed} allowed; use precision fp32 or "
                "auto, or provider cpu"
            )


class WebGpuSession:
    """A component of a bundle in one precision, on the WebGPU plugin's device."""

    def __init__(self, bundle: Bundle, role: Role, precision: Precision, threads: int, handle: Any) -> None:
        """Load a graph, and check where its nodes run.

        Raises BundleError when ONNX Runtime refuses the graph, ProviderUnavailable when the device cannot run it.
        """
        self._where = f"{bundle.path}: {bundle.variant(role, precision).graph.file}"

        def prepare(options: Any) -> None:
            record_assignment(options)
            options.add_provider_for_devices([handle], {})

        with LOCK:
            try:
                # A plugin's device is named by the options alone: names of providers would be taken in its place.
                self._session = open_session(bundle, role, precision, threads, [], prepare=prepare)
            except BundleError as error:
                open_session(bundle, role, precision, threads, [CPU], optimise=False)  # raises for a damaged graph
                raise ProviderUnavailable(
                    f"{self._where}: the device cannot run it: {error}; use another precision or provider cpu"
                ) from error
        require_on_device(self._session, self._where)
        self._names: set[str] = {node.name for node in self._session.get_inputs()}
        self.inputs: tuple[Signature, ...] = signatures(self._session.get_inputs())
        self.outputs: tuple[Signature, ...] = signatures(self._session.get_outputs())

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        """Run the graph. Inputs that it does not have, such as labels, are ignored.

        Raises BundleError when it cannot run on these inputs, ProviderUnavailable when the device failed.
        """
        feed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in self._names}
        try:
            with LOCK:
                return self._session.run(None, feed)
        except Exception as error:
            if any(part in str(error).lower() for part in _DEVICE_FAILURES):
                raise ProviderUnavailable(
                    f"{self._where}: the device failed: {error}; draw fewer or smaller images at a time, close other "
                    "programs that use the device, or use provider cpu"
                ) from error
            raise cannot_run(self._where, error) from error


def record_assignment(options: Any) -> None:
    """Let a session note which provider each node is given to, for :func:`require_on_device`."""
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")


def assignment(session: Any) -> Counter[tuple[str, str]]:
    """Count a session's nodes by provider and operator, as they were given out.

    ONNX Runtime 1.24 lists those of the CPU alone, 1.32 all of them.
    """
    parts: list[Any] = session.get_provider_graph_assignment_info()
    return Counter((str(part.ep_name), str(node.op_type)) for part in parts for node in part.get_nodes())


def require_on_device(session: Any, where: str) -> None:
    """Check that WebGPU is in use, and that all of :data:`HEAVY` in a session's graph runs on it.

    Raises ProviderUnavailable when it does not; the message names operators, their numbers and where they would run.
    """
    elsewhere = {key: count for key, count in assignment(session).items() if key[0] != WEBGPU and key[1] in HEAVY}
    if WEBGPU in session.get_providers()[:1] and not elsewhere:
        return
    kinds = ", ".join(f"{count} {kind} on {provider}" for (provider, kind), count in sorted(elsewhere.items()))
    raise ProviderUnavailable(
        f"{where}: WebGPU cannot run {kinds or 'any'}, and what takes the time must run on "
        "the device; use precision fp32, a newer onnxruntime-ep-webgpu, or provider cpu"
    )
