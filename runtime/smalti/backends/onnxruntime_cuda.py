"""Run graphs on NVIDIA GPUs with ONNX Runtime, and draw there with the prebuilt kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, Final

from smalti.backends.device.arena import Device
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.graphs import ComparedGraphs
from smalti.backends.device.tensors import DeviceSession
from smalti.backends.onnxruntime_device import BoundGraph
from smalti.backends.onnxruntime_options import runtime_version
from smalti.backends.onnxruntime_places import Place, on_cuda, require_provider
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import ProviderUnavailable
from smalti_kernels import KernelError
from smalti_kernels.impl.cuda.launch import Kernels, load_kernels

FAST_FP16: Final = 70
"""GPUs before compute capability 7.0 compute fp16 at a 64th of the rate of fp32."""


class OnnxRuntimeDevice(DeviceBackend):
    """ONNX Runtime on a device whose addresses it takes; draws happen where ``kernels`` are loaded."""

    name: ClassVar[str] = "cuda"
    precisions = ("fp32", "fp16")

    def __init__(self, kernels: Kernels, place_of: Callable[[int], Place]) -> None:
        """Make a stream, and let ``place_of`` say where ONNX Runtime runs given its handle."""
        super().__init__(Device(kernels))
        self.session_place = place_of(self.place.stream)
        require_provider(self.session_place.provider)
        self.device = f"{kernels.device.name}, compute capability {kernels.device.capability / 10:.1f}"
        self.runtime = runtime_version()
        self.threads = self.session_place.threads
        self.certified = "fp16" if kernels.device.capability >= FAST_FP16 else "fp32"

    def open_on_device(self, bundle: Bundle, role: Role, precision: Precision) -> DeviceSession:
        """Load a component. Raises BundleError for a graph that cannot be run, ProviderUnavailable on this device."""
        if role == "predictor":  # its past grows with each token
            return BoundGraph(
                bundle, role, precision, replace(self.session_place.without_graphs(), strict=False, free=True)
            )
        session = BoundGraph(bundle, role, precision, self.session_place)
        if not self.session_place.graphs:
            return session
        plain = BoundGraph(bundle, role, precision, self.session_place.without_graphs())
        return ComparedGraphs(self.place, session, plain, role)


class OnnxRuntimeCuda(OnnxRuntimeDevice):
    """ONNX Runtime's CUDA provider, on a stream of its own in the device's primary context."""

    def __init__(self, ordinal: int = 0, *, graphs: bool = False) -> None:
        """Use the device of that number. With ``graphs``, runs of the same shapes are replayed as CUDA graphs.

        Raises ProviderUnavailable when there is no driver, no such device, no kernel for it, or no CUDA provider.
        """
        try:
            kernels = load_kernels(ordinal)
        except KernelError as error:
            raise ProviderUnavailable(
                f"provider cuda cannot run here: {error.reason}; use provider cpu, or see smalti doctor"
            ) from error
        super().__init__(kernels, lambda stream: on_cuda(ordinal, stream, graphs=graphs))
