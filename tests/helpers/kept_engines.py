"""Engines that nothing built: files of a few bytes with their records, for tests of what is listed, chosen, removed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from smalti.backends.tensorrt.compiled import MadeFor
from smalti.bundle.engine_folder import read_folder, write_folder
from smalti.bundle.engines import SCHEMA_VERSION, EngineRecord, Engines, Profile
from smalti.bundle.manifest import FileRecord, Precision, Role
from smalti.bundle.reader import Bundle

INSTALLED = {"rtx": "1.7.1", "trt": "10.13.0"}
"""Versions that the engines were built with unless a test says otherwise."""
MADE = MadeFor(
    system="linux-x86_64",
    version=INSTALLED["rtx"],
    device="GeForce RTX 3060",
    target="sm_86",
    driver="580.95.05",
    cuda="13.0",
    engine="0" * 64,
)
"""What a file of compiled kernels was made for."""


def keep(
    folder: Path, bundle: Bundle, role: Role = "denoiser", precision: Precision = "fp32", **fields: Any
) -> EngineRecord:
    """Put an engine into a folder, before those that are there; ``fields`` are those of its record."""
    old = read_folder(folder)
    engines = old.engines if old else ()
    runtime = fields.pop("runtime", "rtx")
    plan = b"vtrt" + repr((role, precision, runtime, len(engines), sorted(fields.items()))).encode()
    digest = hashlib.sha256(plan).hexdigest()
    known: dict[str, Any] = {
        "component": role,
        "precision": precision,
        "runtime": runtime,
        "version": INSTALLED[runtime],
        "targets": ("sm_75", "sm_86"),
        "engine": FileRecord(file=f"{role}.{precision}.{digest[:12]}.{runtime}", sha256=digest, bytes=len(plan)),
        "source_sha256": bundle.variant(role, precision).graph.sha256,
        "built_sha256": "0" * 64,
        "profiles": ({"tokens": Profile(least=(1, 1), best=(1, 4), most=(16, 16))},),
    }
    record = EngineRecord(**(known | fields))
    listed = Engines(
        schema_version=SCHEMA_VERSION,
        bundle=bundle.manifest.name,
        bundle_digest=bundle.digest,
        engines=(record, *engines),
    )
    write_folder(folder, listed, {record.engine.file: plan})
    return record
