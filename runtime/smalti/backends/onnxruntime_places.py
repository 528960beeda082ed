"""Where ONNX Runtime runs a graph: the provider with its options, and the memory whose addresses it takes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from smalti.backends.onnxruntime_options import CPU, onnxruntime, runtime_version
from smalti.errors import ProviderUnavailable, UsageError

CUDA = "CUDAExecutionProvider"
KEPT = 4
"""Sessions kept for each graph. Each has its own copy of the weights on the device, and making one takes a good part of
a second. A run asks for one number of samples and for numbers of rows from a short list."""
INSTALL_CUDA = (
    'install "smalti[cu13]" (GeForce RTX 20 and newer) or "smalti[cu12]" (GeForce GTX 10 and newer) into an '
    "environment without the package onnxruntime, since the two overwrite each other"
)


@dataclass(frozen=True)
class Place:
    """A provider of ONNX Runtime, and how sessions use it."""

    provider: str
    """ONNX Runtime's name of it."""
    memory: Literal["cpu", "cuda"]
    """The kind of memory that tensors lie in."""
    ordinal: int = 0
    """Number of the device that has the memory."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Options of the provider."""
    strict: bool = True
    """Refuse graphs of which a node would run on another provider. Where this is off, inputs that such nodes read are
    copied while they are bound: wait for the stream before each run."""
    graphs: bool = False
    """Replay runs on the same addresses as one CUDA graph. The provider must be told too: see :func:`on_cuda`."""
    free: bool = False
    """One session for all sizes, of which some nodes run on the CPU: for graphs whose sizes change with each call."""
    threads: int = 1
    """Cores for nodes on the CPU."""
    kept: int = KEPT
    """Most sessions to keep; see :data:`KEPT`. With ``graphs`` none is dropped."""

    def without_graphs(self) -> Place:
        """Return the same place for runs that are not captured."""
        options = {name: "0" if name == "enable_cuda_graph" else value for name, value in self.options.items()}
        return replace(self, graphs=False, options=options)


def on_cpu(threads: int = 1, *, strict: bool = True, graphs: bool = False, kept: int = KEPT) -> Place:
    """Return the CPU as a place: addresses are the host's, and a run is over when it returns. For tests."""
    return Place(CPU, "cpu", strict=strict, graphs=graphs, threads=threads, kept=kept)


def on_cuda(ordinal: int, stream: int, *, strict: bool = True, graphs: bool = False, kept: int = KEPT) -> Place:
    """Return an NVIDIA GPU as a place; its sessions queue their work on ``stream``, a raw handle.

    ONNX Runtime captures a CUDA graph only where all nodes are on CUDA, none is If, Loop or Scan, and shapes stay. It
    replays it at the addresses of the captured run.

    Raises UsageError for stream 0: ONNX Runtime would then make a stream of its own, which waits for none.
    """
    if not stream:
        raise UsageError("stream 0: ONNX Runtime needs the handle of a stream that was created")
    options = {
        "device_id": str(ordinal),
        "user_compute_stream": str(stream),
        "do_copy_in_default_stream": "1",
        # Timing every algorithm takes long for each new shape, and two runs might choose different ones.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 has 10 bits of mantissa: fp32 is to be fp32.
        "use_tf32": "0",
        # The default grows by powers of two, once in each session.
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1" if graphs else "0",
    }
    return Place(CUDA, "cuda", ordinal, options, strict, graphs, kept=kept)


def require_provider(provider: str) -> None:
    """Load what a provider needs. Raises ProviderUnavailable when the installed ONNX Runtime is built without it."""
    if provider == CUDA:
        preload_cuda()
    there: list[str] = onnxruntime().get_available_providers()
    if provider not in there:
        remedy = f"{INSTALL_CUDA}; or use provider cpu" if provider == CUDA else "use provider cpu"
        raise ProviderUnavailable(
            f"the installed {runtime_version()} has no {provider}, only {', '.join(there)}; {remedy}"
        )


def require_first(session: Any, provider: str) -> None:
    """Check that a session uses a provider, since ONNX Runtime silently leaves out one that cannot be loaded.

    Raises ProviderUnavailable when it does not.
    """
    found: list[str] = session.get_providers()
    if found[:1] == [provider]:
        return
    printed = f" ({preload_cuda()})" if provider == CUDA and preload_cuda() else ""
    remedy = f"check the driver and the CUDA libraries; {INSTALL_CUDA}; or " if provider == CUDA else ""
    raise ProviderUnavailable(
        f"{provider} cannot be loaded{printed}, and {runtime_version()} would silently use {', '.join(found)}; what it "
        f"logged says why. {remedy[:1].upper()}{remedy[1:]}{'use' if remedy else 'Use'} provider cpu"
    )


@cache
def preload_cuda() -> str:
    """Load the CUDA libraries that pip installed, once, before ONNX Runtime's CUDA provider looks for them.

    Returns what ONNX Runtime printed about libraries that it did not find; empty if nothing. Versions before 1.21
    cannot do it; then the system must find the libraries.
    """
    preload = getattr(onnxruntime(), "preload_dlls", None)
    if preload is None:
        return ""
    printed = io.StringIO()
    # It prints to standard output, where commands write their answer.
    with contextlib.redirect_stdout(printed):
        preload()
    return " ".join(printed.getvalue().split())
