"""What a caller may ask of a run, checked, with the bundle's defaults where nothing was asked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypedDict, get_type_hints

from smalti.bundle.manifest import AGAIN, Manifest
from smalti.errors import BundleError, UsageError
from smalti.families.absorbing.schedule import Counts, Order, Remask
from smalti.families.base import COMMON_OPTIONS, Settings
from smalti.families.canvas import canvas_size
from smalti.families.checks import number, whole
from smalti.families.registry import FAMILIES, OWN_OPTIONS, family_of
from smalti_kernels import STREAM_LABEL, random_words

Label = str | int | None

MAX_SEED = 2**64 - 1


def _declared() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in (Settings, *(family.settings for family in FAMILIES.values())):
        found = {**get_type_hints(kind, include_extras=True), **found}
    return {name: found[name] for name in (*COMMON_OPTIONS, *OWN_OPTIONS)}


DECLARED = _declared()
"""The annotation of each option: its type and, as ``msgspec.Meta``, its help."""


class Options(TypedDict, total=False):
    """How to draw; what is left out, or None, is the bundle's own default.

    Which options there are depends on the bundle's family. ``schedule``, ``order``, ``choice_temperature`` and
    ``remask`` are of "absorbing" ones; ``final_temperature``, ``proportion`` and ``min_steps`` of "sundae" ones; a
    "multinomial" one takes none of these; an "autoregressive" one draws one token after the other in raster order, and
    takes none of these, no ``steps``, no ``stride``, and only its own ``size``.
    """

    seeds: Sequence[int] | None
    """One for each image, 0 .. 2^64 - 1, in place of ``count`` and ``seed``."""
    label: Label | Sequence[Label]
    """A label, by name or index, for all images, or one for each; None lets each seed draw its own."""
    steps: int | None
    """Steps of the diffusion, or of unrolled denoising, at least 1; of multinomial diffusion at most those trained."""
    temperature: float | None
    """0.01 .. 100; lower is tamer. In a "sundae" bundle that of the first step."""
    top_k: int | None
    """Draw from the k likeliest tokens only; 0: from all."""
    top_p: float | None
    """Draw from the fewest likeliest tokens that hold this share of the probability, 0 < p <= 1; 1: from all."""
    guidance: float | None
    """0 .. 100, pull towards the label; 1 is none."""
    schedule: Counts | None
    """Tokens per step: "exact", "cosine" or "binomial" (``smalti.families.absorbing.schedule``)."""
    order: Order | None
    """Which tokens come first: "random", "halton", or "confidence", those that the network is surest of."""
    choice_temperature: float | None
    """0 .. 1e6, with order "confidence": how much chance there is in it 
    (``smalti.families.absorbing.confidence``)."""
    remask: Remask | None
    """0 .. 1 or "mlm": how much of what was drawn is drawn again (see :mod:`smalti.families.absorbing.remasking`)."""
    final_temperature: float | None
    """0.01 .. 100, of the last step; in between it changes linearly. By default the bundle's own, or the first step's
    where that is lower."""
    proportion: float | tuple[float, float] | None
    """Above 0, at most 1: chance of each token to be drawn anew at each step; two numbers are the first step's and the
    last's. Under 20 steps it is 1 (McKinney and Willcocks 2022, section 3.5)."""
    min_steps: int | None
    """At least 0: steps before the first at which an image whose tokens did not change is frozen (see
    :func:`smalti.families.sundae.sampler.run`); as many as ``steps`` freeze none."""
    size: tuple[int, int] | None
    """Width and height in pixels, multiples of the bundle's factor; other than the bundle's own, windows are mixed."""
    stride: int | None
    """Tokens from one window to the next on such a canvas, 1 .. the shorter side of the bundle's grid; half of it by
    default. Fewer take longer and mix better."""


def resolve(
    manifest: Manifest, count: int | None, seed: int, options: Options, *, draw_labels: bool = True
) -> Settings:
    """Check what a caller asked for and fill in the bundle's defaults; UsageError says what is allowed.

    ``draw_labels`` lets seeds draw the labels that nobody chose; else these images have none.
    """
    if unknown := [name for name in options if name not in Options.__annotations__]:
        raise UsageError(f"{unknown[0]}: no such option; there are {', '.join(Options.__annotations__)}")
    asked: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    default, label = manifest.sampler, options.get("label")
    seeds = _seeds(count, seed, options.get("seeds"))
    if label is None or isinstance(label, str | int | Integral):
        labels: list[Label] = [label] * len(seeds)
    else:
        labels = list(label)
    if len(labels) != len(seeds):
        raise UsageError(f"{len(labels)} labels for {len(seeds)} images: give one for all, or one each")
    size = canvas_size(asked.get("size"), manifest.latent)
    temperature = number("temperature", asked.get("temperature", default.temperature), 0.01, 100)
    family = family_of(manifest)
    family.refuse_foreign(asked, OWN_OPTIONS, f"bundle {manifest.name}")
    own = family.settle(asked, temperature, size, manifest)
    top_k = whole("top_k", asked.get("top_k", default.top_k))
    top_p = number("top_p", asked.get("top_p", default.top_p), 0, 1)
    if top_k < 0:
        raise UsageError(f"top_k {top_k}: allowed are 0 (all tokens) and more")
    if not top_p:
        raise UsageError("top_p 0: it must be above 0 and at most 1 (all tokens)")
    names = tuple(_label_name(value, own_seed, manifest.classes, draw_labels) for value, own_seed in zip(labels, seeds))
    return Settings(
        seeds=tuple(seeds),
        labels=names,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=number("guidance", asked.get("guidance", default.guidance), 0, 100),
        size=size,
        own=own,
    )


def chosen_options(settings: Settings) -> dict[str, Any]:
    """Return every option of any family as ``settings`` have it; None where it has no meaning."""
    return dict.fromkeys(DECLARED) | settings.options


def check_defaults(manifest: Manifest, where: str) -> None:
    """Raise BundleError for a bundle that could not draw by its own defaults."""
    try:
        resolve(manifest, 1, 0, {})
    except UsageError as error:
        raise BundleError(
            f"{where}: manifest.json has defaults that its prior does not allow: {error}. {AGAIN}"
        ) from None


def _seeds(count: int | None, seed: int, seeds: Sequence[int] | None) -> list[int]:
    if seeds is None:
        count, seed = 1 if count is None else whole("count", count), whole("seed", seed)
        if count < 1:
            raise UsageError(f"count {count}: at least 1 image")
        seeds = range(seed, seed + count)
    elif count is not None and count != len(seeds):
        raise UsageError(f"count {count} does not fit the {len(seeds)} seeds given; leave one of them out")
    elif len(seeds) == 0:
        raise UsageError("seeds is empty: at least 1 image")
    exact = [whole("seed", value) for value in seeds]
    if bad := [value for value in exact if not 0 <= value <= MAX_SEED]:
        raise UsageError(f"seed {bad[0]}: allowed are 0 .. {MAX_SEED}")
    return exact


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
