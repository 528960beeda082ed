"""What a step found: figures with units, counts and verdicts, kept as JSON while it runs, and a page to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

GOOD, BAD = ("equal", "passed", "met"), ("differs", "failed")
"""Verdicts of figures that are right, and of those that make a step a failure. "not met" is neither: a target."""


@dataclass
class Figure:
    """One figure, and how it was found."""

    name: str
    value: float | int | str
    unit: str
    samples: int
    """How many draws, runs or rounds it was found in."""
    ran_on: str
    """``gpu``, ``stub`` (a CPU that plays the device) or ``cpu``."""
    verdict: str = ""
    """One of GOOD, BAD, "not met", or nothing."""
    note: str = ""


@dataclass
class Report:
    """The figures of one step. Whatever is added is in its file at once, so that a crash loses nothing."""

    step: str
    ran_on: str
    path: Path | None = None
    figures: list[Figure] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Why parts were not run, by part."""
    failed: dict[str, str] = field(default_factory=dict)
    """What broke, by part."""
    found: dict[str, Any] = field(default_factory=dict)
    """Further values, for the JSON alone."""
    seconds: float = 0.0
    finished: bool = False

    def add(
        self,
        name: str,
        value: float | int | str,
        unit: str,
        samples: int,
        verdict: str = "",
        note: str = "",
        ran_on: str = "",
    ) -> None:
        """Add a figure; it ran where the step runs, unless told otherwise."""
        self.figures.append(Figure(name, value, unit, samples, ran_on or self.ran_on, verdict, note))
        print(f"  {row_of(self.figures[-1])}", flush=True)
        self.write()

    def compared(self, name: str, differing: int, samples: int, unit: str = "results that differ", note: str = ""):
        """Add a comparison that is to find no difference."""
        self.add(name, differing, unit, samples, "differs" if differing or not samples else "equal", note)

    def skip(self, part: str, reason: str) -> None:
        """Note why a part was not run."""
        self.skipped[part] = reason
        print(f"  {part}: skipped: {reason}", flush=True)
        self.write()

    def fail(self, part: str, reason: str) -> None:
        """Note what broke."""
        self.failed[part] = reason
        print(f"  {part}: FAILED: {reason}", flush=True)
        self.write()

    @property
    def status(self) -> str:
        """``failed``, ``passed``, or ``skipped`` where nothing was run."""
        if self.failed or any(figure.verdict in BAD for figure in self.figures):
            return "failed"
        return "passed" if self.figures else "skipped"

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values, for JSON."""
        content = asdict(self)
        del content["path"]
        return {"status": self.status, **content}

    def write(self) -> None:
        """Write what there is to the step's file, if it has one."""
        if self.path:
            self.path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


def row_of(figure: Figure) -> str:
    """A figure as a line of text."""
    return " | ".join([figure.name, f"{shown(figure.value)} {figure.unit}".strip(), figure.verdict, figure.note])


def shown(value: float | int | str) -> str:
    """A value with as many digits as are of use."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


WHERE = {"gpu": "GPU", "stub": "stub", "cpu": "CPU"}
NOT_MEASURED = (
    "**Nothing was measured.** This ran on the stub driver: host memory, kernels as interpreted PTX, ONNX Runtime's "
    "CPU provider. It shows that every step works, and no speed."
)


def markdown(content: Mapping[str, Any]) -> str:
    """All steps as one readable page."""
    return "\n".join(_lines(content)) + "\n"


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    device, versions = content["device"], content["versions"]
    yield "# smalti on a GPU"
    yield ""
    if not content["measured"]:
        yield NOT_MEASURED
        yield ""
    yield f"Device: {'; '.join(f'{name} {value}' for name, value in device.items())}."
    yield ""
    yield f"Versions: {', '.join(f'{name} {value}' for name, value in versions.items())}."
    yield ""
    yield f"{content['date']}, {content['seconds']:.0f} s in all, `{content['command']}`."
    yield ""
    yield "| step | status | ran on | seconds | not run, and why |"
    yield "| --- | --- | --- | ---: | --- |"
    for name, step in content["steps"].items():
        places = sorted({WHERE[figure["ran_on"]] for figure in step["figures"]}) or ["nothing"]
        reasons = [f"{part}: {reason}" for part, reason in {**step["failed"], **step["skipped"]}.items()]
        yield (
            f"| {name} | {step['status']} | {', '.join(places)} | {step['seconds']:.1f} | {_cell('; '.join(reasons))} |"
        )
    for name, step in content["steps"].items():
        if not step["figures"]:
            continue
        yield ""
        yield f"## {name}"
        yield ""
        yield "| figure | value | samples | ran on | verdict | note |"
        yield "| --- | ---: | ---: | --- | --- | --- |"
        for figure in step["figures"]:
            value = f"{shown(figure['value'])} {figure['unit']}".strip()
            cells = [figure["name"], value, str(figure["samples"]), WHERE[figure["ran_on"]]]
            yield "| " + " | ".join(_cell(cell) for cell in [*cells, figure["verdict"], figure["note"]]) + " |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
