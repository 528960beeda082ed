"""``engines.json``: the engines in a folder, the bundle they belong to, and the GPUs they run on.

The file lies beside the engines, in the bundle's folder ``engines/`` or elsewhere, and names the bundle by its digest.
So engines can be added and removed without changing the bundle.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from smalti.bundle.manifest import FileRecord, Precision, Role, Sha256
from smalti.bundle.manifest_file import is_plain
from smalti.errors import BundleError

ENGINES = "engines.json"
SCHEMA_VERSION = 2
READ = (1, SCHEMA_VERSION)
"""Versions that are read. Version 1 had no ``device``, ``system`` and ``built_sha256``."""
Runtime = Literal["rtx", "trt"]
Target = Annotated[str, msgspec.Meta(pattern=r"^sm_[0-9]{2,3}$", max_length=8)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of one input that an engine accepts in one of its optimisation profiles."""

    least: tuple[_Size, ...]
    best: tuple[_Size, ...]
    """Sizes that it is fastest at."""
    most: tuple[_Size, ...]


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: a component in one precision, built for some GPUs."""

    component: Role
    precision: Precision
    runtime: Runtime
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+_-]*$", max_length=40)]
    """Version of the runtime that built it; the engine runs only in that version."""
    targets: Annotated[tuple[Target, ...], msgspec.Meta(min_length=1)]
    """Compute capabilities of the GPUs it runs on."""
    device: str = ""
    """Name of the one GPU it runs on; empty where every GPU of the targets runs it."""
    system: str = ""
    """Operating system and processor it runs on, such as linux-x86_64; empty where all do."""
    engine: FileRecord
    source_sha256: Sha256
    """sha256 of the bundle's graph it was built from."""
    built_sha256: Sha256 | None = None
    """sha256 of that graph as the builder got it, changed for TensorRT; None in lists of version 1."""
    profiles: Annotated[tuple[dict[str, Profile], ...], msgspec.Meta(min_length=1)]
    """Accepted sizes of the inputs, by input name, for each profile."""


class Engines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of ``engines.json``."""

    schema_version: int
    bundle: str
    """Name of the bundle."""
    bundle_digest: Sha256
    """sha256 of the bundle's manifest."""
    engines: tuple[EngineRecord, ...]


class _Version(msgspec.Struct):
    schema_version: int


def encode(engines: Engines) -> bytes:
    """Encode as readable JSON; equal engines give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(engines, order="deterministic"), indent=2) + b"\n"


def is_newer(raw: bytes) -> bool:
    """Whether a list comes from a later smalti, which can read it; this one must not write over it."""
    try:
        return msgspec.json.decode(raw, type=_Version).schema_version > SCHEMA_VERSION
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def decode(raw: bytes, where: str) -> Engines:
    """Read and check the list. Raises BundleError with the reason and ``where``."""
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version not in READ:
            raise BundleError(
                f"{where}: {ENGINES} has schema version {version}, and this smalti reads up to {SCHEMA_VERSION}. "
                + ("Update smalti." if version > SCHEMA_VERSION else "Build the engines again.")
            )
        engines = msgspec.json.decode(raw, type=Engines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: {ENGINES} cannot be read: {error}. Build the engines again") from None
    for record in engines.engines:
        if not is_plain(record.engine.file) or "/" in record.engine.file:
            raise BundleError(f"{where}: {ENGINES} names {record.engine.file!r}, which is not a file beside it")
    for number, record in enumerate(engines.engines):
        if record in engines.engines[:number]:
            raise BundleError(f"{where}: {ENGINES} lists {record.engine.file} twice. Build the engines again")
    return engines
