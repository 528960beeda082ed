"""What a server can do, as one page of plain values: bundles, labels, sizes, options with their defaults, limits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal, get_args, get_origin

import msgspec

from smalti.drawing.loaded import EMBEDDING
from smalti.families.base import COMMON_OPTIONS
from smalti.families.registry import family_of
from smalti.families.settings import DECLARED, resolve
from smalti.version import __version__
from smalti.web.desk.desk import Desk
from smalti.web.desk.shelf import Entry

RANGES: dict[str, tuple[float, float, float]] = {
    "temperature": (0.1, 2.0, 0.05),
    "final_temperature": (0.1, 2.0, 0.05),
    "top_k": (0, 1000, 1),
    "top_p": (0.05, 1.0, 0.05),
    "guidance": (0.0, 10.0, 0.1),
    "steps": (1, 100, 1),
    "choice_temperature": (0.0, 20.0, 0.5),
    "remask": (0.0, 1.0, 0.05),
    "min_steps": (0, 100, 1),
}
"""What a slider offers of an option: least, most, and how far it moves. Fields take all that is allowed."""


def capabilities(desk: Desk) -> dict[str, Any]:
    """Describe a server as plain values, for JSON."""
    serving = desk.serving
    limits = {name: value for name, value in asdict(serving.limits).items() if name not in ("threads", "memory")}
    return {
        "version": __version__,
        "bundles": [of_bundle(entry) for entry in desk.shelf.entries],
        "limits": limits | {"body": serving.max_body, "queue": serving.max_queue, "seconds": serving.timeout},
        "draining": desk.draining,
    }


def of_bundle(entry: Entry) -> dict[str, Any]:
    """Describe a bundle: what it draws, and what it may be asked for."""
    manifest, generator = entry.bundle.manifest, entry.generator
    latent = manifest.latent
    encodes = "encoder" in manifest.components or latent.pixels is not None
    embeds = "encoder" in manifest.components and any(
        output.name == EMBEDDING for output in manifest.components["encoder"].outputs
    )
    calls = ["generate", "decode", *(["inpaint", "outpaint", "vary", "encode"] if encodes else [])]
    return {
        "name": entry.name,
        "bundle": manifest.name,
        "digest": entry.bundle.digest,
        "ready": generator is not None,
        "family": manifest.family,
        "labels": list(manifest.classes),
        "canvases": manifest.canvases,
        "grid": list(latent.grid),
        "codes": latent.codes,
        "resolutions": [{"pixels": one.pixels, "factor": one.factor} for one in manifest.all_resolutions],
        "options": options_of(entry),
        "calls": [*calls, *(["embed"] if embeds else [])],
        "licence": manifest.licence,
        "data": manifest.provenance.data,
        "provider": generator.report.to_dict() if generator else None,
    }


def options_of(entry: Entry) -> list[dict[str, Any]]:
    """Describe the options of a draw that a bundle has: kind, default, choices, and what a slider offers."""
    manifest = entry.bundle.manifest
    defaults = resolve(manifest, 1, 0, {}).options
    own = (*COMMON_OPTIONS, *family_of(manifest).options)
    found: list[dict[str, Any]] = []
    for name in (one for one in DECLARED if one in own):
        kind, *notes = get_args(DECLARED[name])
        text = next(note.description for note in notes if isinstance(note, msgspec.Meta))
        described: dict[str, Any] = {"name": name, "text": text, "default": defaults.get(name)}
        if choices := _choices(kind):
            described["choices"] = choices
        if name in RANGES:
            least, most, step = RANGES[name]
            described["slider"] = {"least": least, "most": most, "step": step}
        found.append(described)
    return found


def _choices(kind: Any) -> list[Any]:
    return list(get_args(kind)) if get_origin(kind) is Literal else []
