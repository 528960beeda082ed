"""What a caller may ask of a run, checked, with the bundle's defaults where nothing was asked."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import SupportsIndex, TypedDict

from smalti.errors import UsageError
from smalti.manifest import Manifest
from smalti.schedule import Counts, Order, check
from smalti_kernels import STREAM_LABEL, random_words

Label = str | int | None

MAX_SEED = 2**64 - 1


class Options(TypedDict, total=False):
    """How to draw; what is left out, or None, is the bundle's own default."""

    seeds: Sequence[int] | None
    """One for each image, 0 .. 2^64 - 1, in place of ``count`` and ``seed``."""
    label: Label | Sequence[Label]
    """A label, by name or index, for all images, or one for each; None lets each seed draw its own."""
    steps: int | None
    """Diffusion steps, at least 1."""
    temperature: float | None
    """0.01 .. 100; lower is tamer."""
    guidance: float | None
    """0 .. 100, pull towards the label; 1 is none."""
    schedule: Counts | None
    """Tokens per step: "exact", "cosine" or "binomial" (see :func:`smalti.schedule.make_schedule`)."""
    order: Order | None
    """Which tokens come first: "random" or "halton"."""


@dataclass(frozen=True)
class Settings:
    """Everything besides the bundle that decides which tokens are drawn; each field holds what was really used."""

    seeds: tuple[int, ...]
    labels: tuple[str | None, ...]
    steps: int
    temperature: float
    guidance: float
    schedule: Counts
    order: Order


def resolve(
    manifest: Manifest, count: int | None, seed: int, options: Options, *, draw_labels: bool = True
) -> Settings:
    """Check what a caller asked for and fill in the bundle's defaults; UsageError says what is allowed.

    ``draw_labels`` lets seeds draw the labels that nobody chose; else these images have none.
    """
    if unknown := [name for name in options if name not in Options.__annotations__]:
        raise UsageError(f"{unknown[0]}: no such option; there are {', '.join(Options.__annotations__)}")
    default, label = manifest.sampler, options.get("label")
    steps, temperature, guidance = options.get("steps"), options.get("temperature"), options.get("guidance")
    schedule, order = options.get("schedule"), options.get("order")
    seeds = _seeds(count, seed, options.get("seeds"))
    if label is None or isinstance(label, str | int | Integral):
        labels: list[Label] = [label] * len(seeds)
    else:
        labels = list(label)
    if len(labels) != len(seeds):
        raise UsageError(f"{len(labels)} labels for {len(seeds)} images: give one for all, or one each")
    steps = default.steps if steps is None else _whole("steps", steps)
    temperature = default.temperature if temperature is None else temperature
    guidance = default.guidance if guidance is None else guidance
    schedule = default.schedule if schedule is None else schedule
    if order is None:
        order = "random" if schedule == "binomial" else default.order
    check(steps, schedule, order)
    for name, value, least in (("temperature", temperature, 0.01), ("guidance", guidance, 0.0)):
        if not (isinstance(value, numbers.Real) and math.isfinite(value) and least <= value <= 100):
            raise UsageError(f"{name} {value}: allowed are {least:g} .. 100")
    names = tuple(_label_name(value, own, manifest.classes, draw_labels) for value, own in zip(labels, seeds))
    return Settings(tuple(seeds), names, steps, float(temperature), float(guidance), schedule, order)


def _seeds(count: int | None, seed: int, seeds: Sequence[int] | None) -> list[int]:
    if seeds is None:
        count, seed = 1 if count is None else _whole("count", count), _whole("seed", seed)
        if count < 1:
            raise UsageError(f"count {count}: at least 1 image")
        seeds = range(seed, seed + count)
    elif count is not None and count != len(seeds):
        raise UsageError(f"count {count} does not fit the {len(seeds)} seeds given; leave one of them out")
    elif len(seeds) == 0:
        raise UsageError("seeds is empty: at least 1 image")
    whole = [_whole("seed", value) for value in seeds]
    if bad := [value for value in whole if not 0 <= value <= MAX_SEED]:
        raise UsageError(f"seed {bad[0]}: allowed are 0 .. {MAX_SEED}")
    return whole


def _whole(name: str, value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{name} {value!r}: a whole number is needed") from None


def _label_name(label: Label, seed: int, classes: tuple[str, ...], draw: bool) -> str | None:
    if label is None and not draw:
        return None
    if label is None:
        # Drawing the label first and the picture under it is a draw from the whole model, and a better one than asking
        # the network without a label, which it saw in a tenth of its training only.
        word = int(random_words([seed], stream=STREAM_LABEL, step=0, y=0, x=0)[0, 0])
        return classes[word * len(classes) >> 32] if classes else None
    if isinstance(label, int | Integral) and 0 <= int(label) < len(classes):
        return classes[int(label)]
    if label in classes:
        return str(label)
    raise UsageError(f"label {label!r}: this bundle knows {', '.join(classes) or 'no labels'}")
