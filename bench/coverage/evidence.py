"""The format of evidence: what one command found on one machine, as claims that a table may be made of.

A file in ``bench/results/coverage`` is one ``Evidence``. A claim is about one backend on one target, and says how far
the backend came there. ``why_not`` decides whether a claim counts; nothing else does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec

FOLDER: Final = Path(__file__).parents[1] / "results/coverage"
"""Where evidence is committed."""
Backend = Literal["kernels", "cuda", "rtx", "trt", "webgpu", "cpu"]
How = Literal["ran", "emulated", "built", "projected", "no"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
HOWS: Final[tuple[How, ...]] = get_args(How)
"""Strongest first. ``no`` says that it cannot work, which is weaker than anything that did."""
CUBINS: Final = (61, 75, 80, 86, 89, 90, 120)
"""Capabilities with rows and kernel files of their own; other GPUs of 8.0 and later run ``ptx_80``."""
INTERFACES: Final = ("vulkan", "direct3d12", "metal")
"""What WebGPU reaches a GPU through. A claim on one of them is about any GPU with such a driver."""
MAKERS: Final = ("amd", "intel", "apple")
Target = Annotated[str, msgspec.Meta(pattern=rf"^(sm_[1-9]\d{{1,2}}|ptx_80|cpu|{'|'.join((*INTERFACES, *MAKERS))})$")]


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a command ran, in words that name a kind of machine and no machine."""

    kind: Literal["gpu", "cpu", "none"]
    """``none`` where nothing was run: projections, written by hand."""
    name: str = ""
    """Of a GPU its name, of a CPU its cores and model."""
    capability: int = 0
    """Compute capability of an NVIDIA GPU as one number: 75 is 7.5."""


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far one backend came on one target."""

    backend: Backend
    target: Target
    how: How
    what: str
    """What was done, in a few words; of a projection and of a ``no``, what is expected."""
    passed: bool
    figures: dict[str, int | float | str] = {}  # msgspec copies it
    reason: str = ""
    """Of a projection and of a ``no``: the published facts that it follows from."""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one command found on one machine."""

    schema: Literal[1]
    command: str
    """What prints it again; empty where it was written by hand."""
    date: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d\d-\d\d$")]
    smalti: str
    """Version of smalti."""
    versions: dict[str, str]
    """Versions of what it ran with, by name."""
    machine: Machine
    seconds: float
    claims: tuple[Claim, ...]


def read(path: Path) -> Evidence:
    """Read a file. Raises ValueError where it is not of this format: an unknown backend, target, field or way."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path.name} is no evidence: {error}") from error


def read_all(folder: Path = FOLDER) -> dict[str, Evidence]:
    """Read all evidence of a folder, by the names of its files. Raises ValueError as ``read`` does."""
    return {path.name: read(path) for path in sorted(folder.glob("*.json"))}


def write(path: Path, evidence: Evidence) -> None:
    """Write a file, a field a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=1) + b"\n")


def why_not(evidence: Evidence, claim: Claim) -> str:
    """Why a claim does not count, in words; empty if it counts."""
    if not claim.passed:
        return "it failed"
    if claim.how in ("projected", "no"):
        return "" if claim.reason.strip() else "no reason is given"
    command = evidence.command.split()
    if not command:
        return "no command is given"
    if evidence.machine.kind == "none" or not evidence.machine.name:
        return "no machine is named"
    if claim.how == "ran":
        return "a stub stood in for the GPU" if "--stub" in command else _elsewhere(evidence.machine, claim.target)
    return ""


def _elsewhere(machine: Machine, target: str) -> str:
    """Why something that ran on a machine did not run on a target; empty if it did."""
    if target == "cpu":
        return "" if machine.kind == "cpu" else "it ran on no CPU"
    if machine.kind != "gpu":
        return "it ran on no GPU"
    if target.startswith("sm_"):
        return "" if target == f"sm_{machine.capability}" else "it ran on a GPU of another generation"
    if target == "ptx_80":
        own = machine.capability in CUBINS or machine.capability < 80
        return "it ran on a GPU that has a row of its own, or is too old" if own else ""
    # A driver's interface is that of many GPUs, of which one was there.
    return "the GPU's own target is to be named" if target in INTERFACES else ""
