"""``smalti.replay``: draw a picture again from the recipe in its file."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from smalti.backends.registry import AUTO
from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
from smalti.codec.masks import to_repaint
from smalti.codec.pictures import Picture, to_pixels
from smalti.drawing.generator import Generator
from smalti.drawing.result import Result, Step
from smalti.drawing.watch import OnStep, Watch
from smalti.errors import BundleError, UsageError
from smalti.loading.building import OnProgress
from smalti.loading.load import check_load, load
from smalti.saving.recipe import Recipe, digest, read_recipe
from smalti.saving.targets import Source


def replay(
    source: Source | Recipe,
    *,
    image: Picture | None = None,
    mask: Picture | None = None,
    bundle: str | Path | Bundle | None = None,
    provider: str = AUTO,
    threads: int | None = None,
    cancel: threading.Event | None = None,
    on_step: OnStep | None = None,
    on_build: OnProgress | None = None,
) -> Result:
    """Draw again what a file of smalti's shows: the same pixels, all images of a sheet.

    Args:
        source: a PNG, JPEG or WebP that smalti wrote, as a path or a file that is open to read bytes; or the recipe.
        image: the picture that the draw began from: the same pixels, in whatever file. Needed for what was inpainted,
            outpainted or varied, and only there.
        mask: the mask of what was inpainted.
        bundle: as in :func:`load`; by default the embedded one that the recipe names.
        provider: as in :func:`load`.
        threads: as in :func:`load`.
        cancel: ends the call once it is set.
        on_step: is called with a :class:`Step` after each.
        on_build: as in :func:`load`.

    Unfinished pictures, which :meth:`smalti.Step.result` gave, are drawn again as they were after that step. The
    result's ``columns`` are those of the sheet, so that saving it gives the same one. A JPEG or a WebP of a lower
    quality is not that file again, but what it was made from.

    Raises UsageError for a source without a recipe, for an image or a mask that is missing, not needed or another one;
    BundleError for another bundle than the recipe's, or one that this provider computes otherwise; what :func:`load`
    and the call itself raise.
    """
    check_load(bundle, provider, on_build=on_build, cancel=cancel).check_threads(threads)
    Watch(cancel, on_step)
    recipe = source if isinstance(source, Recipe) else read_recipe(source)
    pixels = given_picture("image", image, recipe)
    repaint = given_picture("mask", mask, recipe)
    generator = _loaded(recipe, bundle, provider, threads, on_build, cancel)
    return again(generator, recipe, image=pixels, mask=repaint, cancel=cancel, on_step=on_step)


def again(
    generator: Generator,
    recipe: Recipe,
    *,
    image: Any = None,
    mask: Any = None,
    cancel: threading.Event | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Draw what a recipe describes with a generator that is loaded already.

    ``image`` and ``mask`` are what :func:`given_picture` gives. Raises BundleError where the generator's bundle is
    another one, or is computed in other precisions; UsageError and Cancelled as :func:`replay` does.
    """
    check_same(recipe, generator.bundle)
    check_precisions(recipe, generator)
    taken: list[Result] = []

    def take(step: Step) -> None:
        if on_step is not None:
            on_step(step)
        if step.index == recipe.step:
            taken.append(step.result())

    watched = on_step if recipe.step is None else take
    result = _drawn(generator, recipe, image, mask, {"cancel": cancel, "on_step": watched})
    if recipe.step is not None:
        if not taken:
            raise UsageError(f"the recipe is of pictures after step {recipe.step}, and the run has no such step")
        result = taken[0]
    return replace(result, columns=recipe.columns)


def given_picture(what: str, given: Picture | None, recipe: Recipe) -> Any:
    """Return the pixels of a recipe's ``image``, or where its ``mask`` repaints; None where it has none.

    Raises UsageError where it is missing, not needed, or another one than the recipe's.
    """
    recorded = recipe.image if what == "image" else recipe.mask
    if recorded is None:
        if given is not None:
            raise UsageError(f"{what}: a recipe of {recipe.call} begins from no {what}; leave it out")
        return None
    if given is None:
        raise UsageError(
            f"{what} None: the recipe is of {recipe.call}; give the {what} that it began from ({what}=..., or "
            f"--{what} FILE)"
        )
    pixels = to_pixels(given) if what == "image" else to_repaint(given)
    found = digest(pixels)
    if found != recorded:
        raise UsageError(
            f"{what}: it is not the one that the recipe is about (the sha256 of its pixels is {found[:12]}..., and "
            f"there {recorded[:12]}...); give the same {what}, neither resized nor saved with loss"
        )
    return pixels


def check_same(recipe: Recipe, bundle: Bundle) -> None:
    """Raise BundleError where a bundle is not the very one of a recipe."""
    if bundle.digest != recipe.bundle_digest:
        raise BundleError(
            f"the picture was made with another version of bundle {recipe.bundle} (manifest sha256 "
            f"{recipe.bundle_digest[:12]}..., here {bundle.digest[:12]}...); name that one with --bundle"
        )


def check_precisions(recipe: Recipe, generator: Generator) -> None:
    """Raise BundleError where a generator computes in other precisions than those of a recipe."""
    if generator.report.precision != recipe.precision:
        raise BundleError(
            f"the picture was made in {recipe.precision}, and provider {generator.report.actual} would draw it in "
            f"{generator.report.precision}; name another provider"
        )


def _loaded(
    recipe: Recipe,
    bundle: str | Path | Bundle | None,
    provider: str,
    threads: int | None,
    on_build: OnProgress | None,
    cancel: Any,
) -> Generator:
    """Load the bundle of a recipe as it was loaded. Raises BundleError where this one or here gives other pixels."""
    if bundle is None and recipe.bundle not in embedded_bundles():
        raise BundleError(
            f"the picture was made with bundle {recipe.bundle}, which is not embedded; name it: bundle=PATH, or "
            "--bundle PATH"
        )
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(recipe.bundle if bundle is None else bundle)
    check_same(recipe, opened)
    # By the coarsest, since a component that does not come in it runs in fp32.
    precision = next((one for one in ("int8", "fp16", "fp32") if one in recipe.precision.values()), "auto")
    return load(opened, provider, precision, threads, on_build=on_build, cancel=cancel)


def _drawn(generator: Generator, recipe: Recipe, image: Any, mask: Any, watched: dict[str, Any]) -> Result:
    """Make the call of a recipe again."""
    asked: dict[str, Any] = {**recipe.options, "seeds": recipe.seeds, "label": recipe.labels, **watched}
    match recipe.call:
        case "generate":
            return generator.generate(**asked)
        case "inpaint":
            return generator.inpaint(image, mask, feather=recipe.feather, fit=recipe.fit, **asked)
        case "outpaint":
            left, top, right, bottom = recipe.margins or (0, 0, 0, 0)
            margins = {"left": left, "top": top, "right": right, "bottom": bottom}
            return generator.outpaint(image, feather=recipe.feather, fit=recipe.fit, **margins, **asked)
        case "vary":
            return generator.vary(image, strength=recipe.strength or 0.0, fit=recipe.fit, **asked)
