"""Options of a draw: their types and ranges, their checks, and the bundle's defaults in place of missing ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, TypedDict, get_args, get_type_hints

import numpy as np

from smalti.bundle.manifest import AGAIN, Manifest
from smalti.errors import BundleError, UsageError
from smalti.families.absorbing.schedule import Counts, Order, Remask
from smalti.families.base import COMMON_OPTIONS, Settings
from smalti.families.canvas import MAX_PIXELS, canvas_size
from smalti.families.checks import listed, number, share, shown, whole
from smalti.families.limits import Limits
from smalti.families.registry import FAMILIES, OWN_OPTIONS, family_of
from smalti_kernels import STREAM_LABEL, random_words

Label = str | int | None

MAX_SEED = 2**64 - 1
NAMES = {"schedule": get_args(Counts), "order": get_args(Order)}
MOST_IMAGES = 2**24
"""Most images of one call where nobody sets a limit."""


def _declared() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in (Settings, *(family.settings for family in FAMILIES.values())):
        found = {**get_type_hints(kind, include_extras=True), **found}
    return {name: found[name] for name in (*COMMON_OPTIONS, *OWN_OPTIONS)}


DECLARED = _declared()
"""Annotation of each option: its type, with its help as ``msgspec.Meta``."""


class Options(TypedDict, total=False):
    """Options of a draw. An option that is left out, or None, is the bundle's own default.

    The bundle's family decides which options there are:

    * Only "absorbing" bundles have ``schedule``, ``order``, ``choice_temperature`` and ``remask``.
    * Only "sundae" bundles have ``final_temperature``, ``proportion`` and ``min_steps``.
    * "autoregressive" bundles have neither ``steps`` nor ``stride``, and draw only their own ``size``.
    """

    seeds: Sequence[int] | None
    """Seed of each image, 0 .. 2^64 - 1; replaces ``count`` and ``seed``."""
    label: Label | Sequence[Label]
    """One label for all images, or a list with one per image. A label is a name or an index; None lets the seed draw
    it."""
    steps: int | None
    """Number of steps, at least 1; in a "multinomial" bundle at most the number that it was trained with."""
    temperature: float | None
    """0.01 .. 100; lower is tamer. In a "sundae" bundle it is the first step's."""
    top_k: int | None
    """Draw only from the k likeliest tokens; 0 draws from all."""
    top_p: float | None
    """Above 0, at most 1: draw only from the likeliest tokens that together have this probability; 1 draws from all."""
    guidance: float | None
    """0 .. 100: how strongly the label pulls; 1 is no extra pull."""
    schedule: Counts | None
    """How many tokens each step draws: "exact", "cosine" or "binomial" (see
    :func:`smalti.families.absorbing.schedule.make_schedule`)."""
    order: Order | None
    """Which tokens come first: "random" ones, those along the "halton" sequence, or those of most "confidence"."""
    choice_temperature: float | None
    """0 .. 1e6: how much chance there is in order "confidence" (see
    :func:`smalti.families.absorbing.confidence.run`)."""
    remask: Remask | None
    """0 .. 1 or "mlm": how many drawn tokens are masked again (see :mod:`smalti.families.absorbing.remasking`)."""
    final_temperature: float | None
    """0.01 .. 100: temperature of the last step; it changes linearly from the first step's. The default is the bundle's
    own, or the first step's where that is lower."""
    proportion: float | tuple[float, float] | None
    """Above 0, at most 1: the chance that a step draws a token anew. Two numbers are the first step's chance and the
    last step's. With fewer than 20 steps it is 1 (McKinney and Willcocks 2022, section 3.5)."""
    min_steps: int | None
    """At least 0: number of steps before an image whose tokens did not change may be frozen (see
    :func:`smalti.families.sundae.sampler.run`). With ``min_steps`` equal to ``steps`` none is frozen."""
    resolution: int | None
    """Pixels per side of a picture of the bundle's own grid: one of those that the bundle lists, by default the first.
    Tokens are the same at every resolution."""
    size: tuple[int, int] | None
    """Width and height in pixels, multiples of the resolution's factor. On a size other than the bundle's own, the
    answers in several windows are mixed."""
    stride: int | None
    """Number of tokens from one window to the next, 1 .. the shorter side of the bundle's grid; half of that side by
    default. A smaller stride takes longer and mixes better."""


def resolve(
    manifest: Manifest,
    count: int | None,
    seed: int,
    options: Options,
    *,
    draw_labels: bool = True,
    limits: Limits | None = None,
) -> Settings:
    """Check the options of a caller, fill in the bundle's defaults, and return the settings.

    With ``draw_labels`` each seed draws a label where none was given; without it such images have no label. Without
    ``limits``, only what no machine could hold is refused.

    Raises UsageError, which says what is allowed, and OutOfMemory as ``limits`` say.
    """
    check_names(options)
    asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    for name in ("schedule", "order"):
        if not isinstance(asked.get(name, ""), str):
            raise UsageError(
                f"{name} {shown(asked[name])}: a name is needed; {name} is one of {', '.join(NAMES[name])}"
            )
    if not isinstance(asked.get("remask", ""), str):
        number("remask", asked["remask"], 0, 1, "and mlm")
    default = manifest.sampler
    seeds = _seeds(count, seed, options.get("seeds"), MOST_IMAGES if limits is None else limits.count)
    labels = _labels(options.get("label"), len(seeds))
    resolution = manifest.resolution(asked.get("resolution"))
    most = MAX_PIXELS if limits is None else limits.pixels
    size = canvas_size(asked.get("size"), manifest.latent.grid, resolution, told=most)
    canvas = size[1] // resolution.factor, size[0] // resolution.factor
    temperature = number("temperature", asked.get("temperature", default.temperature), 0.01, 100)
    family = family_of(manifest)
    family.refuse_foreign(asked, OWN_OPTIONS, f"bundle {manifest.name}")
    trained = manifest.noise.steps if manifest.noise else None
    if limits is not None and asked.get("steps") is not None and (trained is None or limits.steps < trained):
        limits.check_steps(whole("steps", asked["steps"]))  # before the family tells of its own bound, which is wider
    own = family.settle(asked, temperature, canvas, manifest)
    top_k = whole("top_k", asked.get("top_k", default.top_k))
    top_p = share("top_p", asked.get("top_p", default.top_p))
    if top_k < 0:
        raise UsageError(f"top_k {top_k}: allowed are 0 (all tokens) and more")
    drawn = _drawn_labels(labels, seeds, manifest.classes) if draw_labels else labels
    names = tuple(_label_name(value, manifest.classes) for value in drawn)
    settings = Settings(
        seeds=tuple(seeds),
        labels=names,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=number("guidance", asked.get("guidance", default.guidance), 0, 100),
        resolution=resolution.pixels,
        size=size,
        own=own,
    )
    if limits is not None:
        limits.check_draw(manifest, settings)
    return settings


def check_names(names: Iterable[str]) -> None:
    """Raise UsageError for the name of an option that there is not."""
    if unknown := [name for name in names if name not in Options.__annotations__]:
        raise UsageError(f"{unknown[0]}: no such option; there are {', '.join(Options.__annotations__)}")


def chosen_options(settings: Settings) -> dict[str, Any]:
    """Return every option of every family with its value in ``settings``; None for options of other families."""
    return dict.fromkeys(DECLARED) | settings.options


def unsuited(manifest: Manifest, settings: Settings) -> list[str]:
    """Return a line for each label of a draw whose pictures the canvas does not suit, by the bundle's own account."""
    width, height = settings.size
    own = canvas_size(None, manifest.latent.grid, manifest.resolution(settings.resolution))
    lines: list[str] = []
    for label in dict.fromkeys(settings.labels):
        kind = manifest.canvases.get(label or "", "any")
        if settings.size != own and (kind == "own" or (kind == "wide" and height != own[1])):
            wide = f" or a wider canvas of that height, such as {2 * own[0]}x{own[1]}" if kind == "wide" else ""
            lines.append(
                f"note: {label or 'a picture without label'} was drawn on {width}x{height}; what suits it is "
                f"{own[0]}x{own[1]}{wide}"
            )
    return lines


def check_defaults(manifest: Manifest, where: str) -> None:
    """Raise BundleError when a bundle's own defaults are not allowed."""
    try:
        resolve(manifest, 1, 0, {})
    except UsageError as error:
        raise BundleError(
            f"{where}: manifest.json has defaults that its prior does not allow: {error}. {AGAIN}"
        ) from None


def _seeds(count: Any, seed: Any, seeds: Any, most: int) -> list[int]:
    """Return the seed of each image. Nothing is listed before it is known to be no more than ``most`` images."""
    start, images = whole("seed", seed), None if count is None else whole("count", count)
    if images is not None and images < 1:
        raise UsageError(f"count {images}: at least 1 image")
    if seeds is None:
        images = 1 if images is None else images
        Limits(count=most).check_count(images)
        given: Sequence[Any] = range(start, start + images)
        if not 0 <= start <= MAX_SEED:
            raise UsageError(f"seed {start}: allowed are 0 .. {MAX_SEED}")
        if given[-1] > MAX_SEED:
            raise UsageError(f"seed {given[-1]}: allowed are 0 .. {MAX_SEED}, for the last of {images} images too")
        return list(given)
    given = listed("seeds", seeds, "whole numbers", most)
    if start:
        raise UsageError(f"seed {start} and seeds were both given: which one is meant? Leave one of them out")
    if images is not None and images != len(given):
        raise UsageError(f"count {images} does not fit the {len(given)} seeds given; leave one of them out")
    if not given:
        raise UsageError("seeds is empty: at least 1 image")
    exact = [whole("seeds: seed", value) for value in given]
    if bad := [value for value in exact if not 0 <= value <= MAX_SEED]:
        raise UsageError(f"seeds: seed {bad[0]}: allowed are 0 .. {MAX_SEED}")
    return exact


def _labels(label: Any, count: int) -> list[Any]:
    """Return the label of each of ``count`` images, as it was asked for."""
    if label is None or isinstance(label, str | int | Integral):
        labels: list[Any] = [label] * count
    elif isinstance(label, Sequence | np.ndarray) and not isinstance(label, bytes | bytearray | memoryview):
        labels = listed("label", label, "names or indices", MOST_IMAGES)
    else:
        raise UsageError(
            f"label {shown(label)}: a name, an index (a whole number) or a list with one for each image is needed"
        )
    if len(labels) != count:
        raise UsageError(f"label: {len(labels)} labels for {count} images: give one for all, or one each")
    return labels


def _drawn_labels(labels: list[Any], seeds: Sequence[int], classes: tuple[str, ...]) -> list[Any]:
    """Return the labels, and for None the one that the image's seed draws.

    Drawing the label first and the picture under it is a draw from the whole model, and a better one than asking the
    network without a label, which it saw in a tenth of its training only.
    """
    without = [seed for label, seed in zip(labels, seeds) if label is None]
    if not classes or not without:
        return labels
    words = random_words(np.array(without, np.uint64), stream=STREAM_LABEL, step=0, y=0, x=0)[:, 0].tolist()
    drawn = iter(words)
    return [classes[next(drawn) * len(classes) >> 32] if label is None else label for label in labels]


def _label_name(label: Any, classes: tuple[str, ...]) -> str | None:
    if label is None:
        return None
    if isinstance(label, int | Integral) and not isinstance(label, bool) and 0 <= int(label) < len(classes):
        return classes[int(label)]
    if isinstance(label, str) and label in classes:
        return str(label)
    raise UsageError(f"label {shown(label)}: this bundle knows {', '.join(classes) or 'no labels'}")
