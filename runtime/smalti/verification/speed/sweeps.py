"""Draws of several kinds that differ in one thing: images per batch, steps, pixels of the canvas, or threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.families.registry import family_of
from smalti.verification.speed.measure import Kind, Measured, measure_each
from smalti_kernels.platform import usable_cores

SWEEPS: Final = ("batch", "steps", "canvas", "threads")
ALL: Final = "all"
BATCHES: Final = (1, 2, 4, 8, 16)
CANVASES: Final = (1, 2, 3)
"""Sides of a canvas, in those of the bundle's own pictures."""

Reload = Callable[[int | None], Generator]
"""Loads the bundle again, to draw with a number of threads."""


@dataclass(frozen=True)
class Sweep:
    """What draws took that differ in one thing."""

    name: str
    """One of SWEEPS."""
    points: Mapping[int, Measured]
    """By images, steps, pixels of the longer side, or threads."""


def read_sweeps(texts: Iterable[str]) -> dict[str, tuple[int, ...] | None]:
    """Read sweeps such as ``batch``, ``steps=6,12,24`` or ``all``; None stands for the values that are usual.

    Raises UsageError for another name, and for values that are not whole numbers above 0.
    """
    found: dict[str, tuple[int, ...] | None] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if name not in (*SWEEPS, ALL) or (name == ALL and equals):
            raise UsageError(
                f"sweep {text!r}: allowed are {', '.join(SWEEPS)} and {ALL}; values may follow, as in steps=6,12,24"
            )
        parts = values.split(",") if equals else []
        if any(not (one.isascii() and one.isdecimal() and int(one)) for one in parts):
            raise UsageError(f"sweep {text!r}: whole numbers above 0 are needed, as in {name}=1,2,4")
        for one in SWEEPS if name == ALL else (name,):
            found[one] = tuple(sorted({int(part) for part in parts})) or found.get(one)
    return found


def unsuited(name: str, base: Measured, generator: Generator) -> str:
    """Say why a sweep is impossible with this bundle on this provider; empty where it is possible."""
    if name == "steps" and base.steps is None:
        return f"bundle {base.bundle} has no steps to choose"
    if name == "canvas" and "stride" not in family_of(generator.manifest).options:
        return f"bundle {base.bundle} draws only its own size"
    if name == "threads" and generator.backend.name != "cpu":
        return f"threads hardly matter to provider {generator.backend.name}; measure them with --provider cpu"
    return ""


def usual(name: str, base: Measured, generator: Generator) -> tuple[int, ...]:
    """Return the values that a sweep has where none are given: fewer and more than those of ``base``."""
    if name == "batch":
        return BATCHES
    if name == "canvas":
        return tuple(side * max(base.width, base.height) for side in CANVASES)
    if name == "steps":
        most = generator.manifest.noise.steps if generator.manifest.noise else generator.limits.steps
        steps = base.steps or 1
        return tuple(sorted({max(1, min(most, round(steps * share))) for share in (0.25, 0.5, 1, 2)}))
    cores = usable_cores()
    return tuple(sorted({1, cores, *(2**power for power in range(1, 10) if 2**power < cores)}))


def sweep(name: str, values: tuple[int, ...] | None, kind: Kind, base: Measured, reload: Reload, repeats: int) -> Sweep:
    """Measure draws as ``kind`` that differ in one thing. ``base`` is what that kind itself took.

    Raises UsageError where :func:`unsuited` says why, and for values that the bundle or the limits refuse.
    """
    if why := unsuited(name, base, kind.generator):
        raise UsageError(f"sweep {name}: {why}")
    values = values or usual(name, base, kind.generator)
    kinds = [_changed(name, value, kind, base, reload) for value in values]
    return Sweep(name, dict(zip(values, measure_each(kinds, repeats))))


def _changed(name: str, value: int, kind: Kind, base: Measured, reload: Reload) -> Kind:
    if name == "batch":
        return replace(kind, count=value)
    if name == "threads":
        return replace(kind, generator=reload(value))
    options = kind.options.copy()
    if name == "steps":
        options["steps"] = value
        return replace(kind, options=options)
    longer = max(base.width, base.height)
    options["size"] = (round(base.width * value / longer), round(base.height * value / longer))
    return replace(kind, options=options)
