"""What backends on ONNX Runtime share: its import, sessions of a bundle's graphs, signatures and errors.

This is the only file of the runtime that imports ONNX Runtime; the others get it from here.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any, TypeAlias

from smalti.backends import forked
from smalti.backends.signatures import Signature
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError, OutOfMemory, ProviderUnavailable, SmaltiError
from smalti.system.platform import install_hint

LIBRARY = "onnxruntime"
"""Name of the inference library."""
CPU = "CPUExecutionProvider"
"""The provider that every build of ONNX Runtime has."""
Providers: TypeAlias = Sequence[str | tuple[str, dict[str, str]]]
"""Names of providers, or pairs of a name and its options."""

SHORT = ("out of memory", "Failed to allocate memory", "bad_alloc", "bad allocation", "Available memory of")
"""Parts of ONNX Runtime's messages when memory is short."""

_DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32", "tensor(uint8)": "uint8"}


def onnxruntime() -> Any:
    """Import ONNX Runtime (which has no type stubs) when it is first needed.

    Raises ProviderUnavailable when it cannot be imported.
    """
    # Otherwise ONNX Runtime 1.31 stores a device identifier and telemetry in the user's cache. A value set by the user
    # stays.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise ProviderUnavailable(f"ONNX Runtime cannot be imported ({error}); {install_hint('cpu')}") from None


def runtime_version() -> str:
    """Return the name and version of the inference library."""
    for name in (LIBRARY, f"{LIBRARY}-gpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "onnxruntime (version unknown)"


def session_options(threads: int) -> Any:
    """Return options of a session, for all that is run and timed alike."""
    options = onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Workers spin between two operators, which follow each other within microseconds, and stop with the call: longer,
    # they would take cores from the host's part of each step and from other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_session(
    bundle: Bundle,
    role: Role,
    precision: Precision,
    threads: int,
    providers: Providers,
    *,
    optimise: bool = True,
    prepare: Callable[[Any], None] = lambda options: None,
) -> Any:
    """Load a component and return ONNX Runtime's session. A forked child opens it anew, or is refused on a device.

    ``optimise=False`` skips constant folding, for when only the signature is needed. ``prepare`` gets the session
    options, and may change them.

    Raises BundleError when ONNX Runtime refuses the graph, or the providers' options; OutOfMemory when it cannot hold
    the graph.
    """
    on_cpu = list(providers) == [CPU]

    def made() -> Any:
        with forked.opening if on_cpu else contextlib.nullcontext():
            return _session(bundle, role, precision, threads, providers, optimise, prepare)

    return forked.Reopening(made(), made if on_cpu else None)


def _session(
    bundle: Bundle,
    role: Role,
    precision: Precision,
    threads: int,
    providers: Providers,
    optimise: bool,
    prepare: Callable[[Any], None],
) -> Any:
    ort = onnxruntime()
    variant = bundle.variant(role, precision)
    graph = bundle.read(variant.graph.file)
    weights = [bundle.read(name) for name in variant.weights]
    options = session_options(threads)
    # An arena never shrinks. An encoder is as fast without one, and inpainting has it idle while it decodes.
    options.enable_cpu_mem_arena = role != "encoder"
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Otherwise weights that the variant does not declare would be read from the working directory.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if weights:
        options.add_external_initializers_from_files_in_memory(
            list(variant.weights), weights, [len(content) for content in weights]
        )
    prepare(options)
    try:
        # Without enable_fallback=0, ONNX Runtime answers some errors of a provider by trying the CPU, and prints.
        session = ort.InferenceSession(graph, options, providers=list(providers), enable_fallback=0)
    except Exception as error:
        if is_short(error) and list(providers) == [CPU]:  # devices say it in their own words
            raise OutOfMemory(f"{bundle.path}: there is not enough memory for {variant.graph.file}: {error}") from error
        # ONNX Runtime's exceptions have no public base class; with any of them the graph is unusable.
        raise BundleError(f"{bundle.path}: ONNX Runtime refuses {variant.graph.file}: {error}") from error
    bundle.forget()
    return session


def signatures(nodes: Sequence[Any]) -> tuple[Signature, ...]:
    """Return the signatures of a session's inputs or outputs."""
    return tuple(map(_signature, nodes))


def _signature(node: Any) -> Signature:
    shape = tuple(side if isinstance(side, int) else None for side in node.shape)
    return Signature(node.name, str(_DTYPES.get(node.type) or node.type), shape)


def is_short(error: Exception) -> bool:
    """Whether an error of ONNX Runtime, or of Python, says that memory is short."""
    return isinstance(error, MemoryError) or any(part in str(error) for part in SHORT)


def cannot_run(where: str, error: Exception) -> SmaltiError:
    """Return what to raise when a session fails; ``where`` names bundle and graph.

    ONNX Runtime's exceptions have no public base class. The caller's inputs were checked before, so the graph or stored
    inputs do not match the manifest, unless memory is short.
    """
    if is_short(error):
        return OutOfMemory(f"{where}: there is not enough memory to run it; ask for fewer or smaller images: {error}")
    return BundleError(f"{where}: ONNX Runtime cannot run it on these inputs: {error}")
