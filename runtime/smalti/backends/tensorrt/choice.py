"""Which engine runs here, and why the others do not; from records alone, without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from smalti.bundle.engine_folder import KeptEngine
from smalti.bundle.engines import EngineRecord, Runtime
from smalti.bundle.manifest import Precision, Role
from smalti.bundle.reader import Bundle
from smalti.errors import BundleError

NAMES: Final[dict[Runtime, str]] = {"rtx": "TensorRT-RTX", "trt": "TensorRT"}
PACKAGES: Final[dict[Runtime, str]] = {"rtx": "tensorrt-rtx", "trt": "tensorrt"}
"""Packages that bring the runtimes."""


@dataclass(frozen=True)
class Host:
    """What an engine must have been built for."""

    runtime: Runtime
    version: str
    """Installed version of the runtime; empty if that is to be left open."""
    target: str
    """Compute capability of the GPU, such as sm_75; empty if that is to be left open."""
    device: str = ""
    """Name of the GPU; empty if that is to be left open."""
    system: str = ""
    """Operating system and processor; empty if that is to be left open."""


def unfit(record: EngineRecord, bundle: Bundle, host: Host) -> str:
    """Return why an engine does not run on a host, in words; empty if it does."""
    name = NAMES[record.runtime]
    if record.runtime != host.runtime:
        return f"it is for {name}, and {NAMES[host.runtime]} is asked for"
    if host.target and host.target not in record.targets:
        return f"it was built for {', '.join(record.targets)}, and not for {host.target}"
    if host.version and record.version != host.version:
        return (
            f"it was built with {name} {record.version}, and {host.version} is installed; "
            "an engine runs in the version that built it"
        )
    if host.device and record.device and record.device != host.device:
        return f"it was built on {record.device}, and this is {host.device}"
    if host.system and record.system and record.system != host.system:
        return f"it was built on {record.system}, and this is {host.system}"
    return from_another_graph(record, bundle)


def from_another_graph(record: EngineRecord, bundle: Bundle) -> str:
    """Return in words that an engine was built from another graph than the bundle's; empty if it was not."""
    component = bundle.manifest.components.get(record.component)
    for variant in component.variants if component else ():
        if (variant.precision, variant.graph.sha256) == (record.precision, record.source_sha256):
            return ""
    return f"it was built from another graph than the bundle's {record.component} {record.precision}"


def fitting(
    kept: Sequence[KeptEngine],
    bundle: Bundle,
    host: Host,
    role: Role,
    precision: Precision,
    check: Callable[[KeptEngine], object] = lambda one: None,
) -> tuple[KeptEngine | None, list[str]]:
    """Return the first engine of a component that runs on a host, or None, and why each of those before it does not.

    Engines of other components and precisions are passed over without a word. One of which ``check`` raises BundleError
    does not run.
    """
    reasons: list[str] = []
    for one in kept:
        if (one.record.component, one.record.precision) != (role, precision):
            continue
        if reason := unfit(one.record, bundle, host):
            reasons.append(f"{one.path}: {reason}")
            continue
        try:
            check(one)
        except BundleError as error:
            reasons.append(str(error))
        else:
            return one, reasons
    return None, reasons
