"""Reading, writing and comparing configurations: JSON files beside their runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from smalti.errors import UsageError
from smalti_train.runs.config import (
    PRIOR_KINDS,
    AutoencoderRun,
    HeadsRun,
    PixelRun,
    PreviewRun,
    PriorRun,
    Run,
    VQGANRun,
    prior_kind,
)

RUN_KINDS: dict[str, type[Run]] = {
    "autoencoder": AutoencoderRun,
    "vqgan": VQGANRun,
    "pixels": PixelRun,
    "prior": PriorRun,
    "preview": PreviewRun,
    "heads": HeadsRun,
}
"""Configurations of runs by their ``kind`` in the file."""


def to_json(run: Run) -> bytes:
    """A configuration as indented JSON, ``kind`` first."""
    kind = next(name for name, kind in RUN_KINDS.items() if type(run) is kind)
    content: dict[str, Any] = {"kind": kind, **msgspec.to_builtins(run)}
    if isinstance(run, PriorRun):
        content["model"] = {"kind": prior_kind(run.model), **content["model"]}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def read_run(path: Path) -> Run:
    """Read the configuration beside a run. Raises UsageError when it is missing or not one of ours."""
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        kind = RUN_KINDS[raw.pop("kind")]
        return _read_prior(raw) if kind is PriorRun else msgspec.convert(raw, kind)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path.parent} is not a run: it has no {path.name}. Name a folder made by 'smalti train'."
        ) from None
    except KeyError as error:
        raise UsageError(f"{path} is not a configuration of smalti: it does not know or lacks {error}") from None
    except (UsageError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} is not a configuration of smalti: {error}") from None


def _read_prior(raw: dict[str, Any]) -> PriorRun:
    """Convert a prior's run field by field: the type of its model depends on ``kind`` in the file."""
    model = msgspec.convert(raw["model"], dict[str, Any])
    kind = model.pop("kind", "hourglass")  # old runs have no kind: all were hourglasses
    if kind not in PRIOR_KINDS:
        raise msgspec.ValidationError(f"prior of kind {kind!r}; there are {', '.join(PRIOR_KINDS)}")
    types = {**get_type_hints(PriorRun), "model": PRIOR_KINDS[kind]}
    given = {**raw, "model": model, "preset": raw["preset"]}
    fields: dict[str, Any] = {name: msgspec.convert(given[name], types[name]) for name in types if name in given}
    return PriorRun(**fields)


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Fields in which two configurations differ, as lines ``model.codes: 1024, not 512`` (a's value, not b's)."""
    if type(a) is not type(b):
        return [f"{prefix.removesuffix('.') or 'configuration'}: {type(a).__name__}, not {type(b).__name__}"]
    lines: list[str] = []
    for item in dataclasses.fields(a):
        ours, theirs = getattr(a, item.name), getattr(b, item.name)
        if dataclasses.is_dataclass(ours) and dataclasses.is_dataclass(theirs):
            lines += differences(ours, theirs, f"{prefix}{item.name}.")
        elif ours != theirs:
            lines.append(f"{prefix}{item.name}: {ours!r}, not {theirs!r}")
    return lines
