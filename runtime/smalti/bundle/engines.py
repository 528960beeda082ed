"""``engines.json``: which engines lie in a folder, of which bundle they are, and on which GPUs they run.

It stands beside the engines, in ``engines/`` of the bundle they belong to or anywhere else, and names the bundle by its
digest: engines come and go, and the bundle stays what it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from smalti.bundle.manifest import FileRecord, Precision, Role, Sha256, is_plain
from smalti.errors import BundleError

ENGINES = "engines.json"
SCHEMA_VERSION = 1
Runtime = Literal["rtx", "trt"]
Target = Annotated[str, msgspec.Meta(pattern=r"^sm_[0-9]{2,3}$", max_length=8)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sizes of one input that an engine takes in one of its optimisation profiles."""

    least: tuple[_Size, ...]
    best: tuple[_Size, ...]
    """The one it is fastest at."""
    most: tuple[_Size, ...]


class EngineRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One engine: a component in one precision, built for some GPUs."""

    component: Role
    precision: Precision
    runtime: Runtime
    version: str
    """Of the runtime that built it; an engine runs in that one only."""
    targets: tuple[Target, ...]
    """Compute capabilities."""
    engine: FileRecord
    source_sha256: Sha256
    """Of the graph it was built from."""
    profiles: tuple[dict[str, Profile], ...]
    """Sizes of the inputs, by name."""


class Engines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of ``engines.json``."""

    schema_version: int
    bundle: str
    """Its name."""
    bundle_digest: Sha256
    """sha256 of the manifest."""
    engines: tuple[EngineRecord, ...]


class _Version(msgspec.Struct):
    schema_version: int


def encode(engines: Engines) -> bytes:
    """Readable JSON, the same bytes for the same engines."""
    return msgspec.json.format(msgspec.json.encode(engines, order="deterministic"), indent=2) + b"\n"


def decode(raw: bytes, where: str) -> Engines:
    """Read and check the list; BundleError says what is wrong with it and ``where``."""
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{where}: {ENGINES} has schema version {version}, and this smalti reads {SCHEMA_VERSION}. "
                + ("Update smalti." if version > SCHEMA_VERSION else "Build the engines again.")
            )
        engines = msgspec.json.decode(raw, type=Engines)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{where}: {ENGINES} cannot be read: {error}. Build the engines again") from None
    for record in engines.engines:
        if not is_plain(record.engine.file) or "/" in record.engine.file:
            raise BundleError(f"{where}: {ENGINES} names {record.engine.file!r}, which is not a file beside it")
    return engines
