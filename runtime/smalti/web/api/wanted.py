"""Words and sizes of other interfaces as the library's options: a prompt is a label, and a size has a resolution."""

from __future__ import annotations

import secrets
from typing import Any, Final

from smalti.drawing.generator import Generator
from smalti.errors import SmaltiError
from smalti.families.canvas import canvas_size
from smalti.families.checks import shown
from smalti.families.settings import Options, resolve
from smalti.web.api.requests import SIZE
from smalti.web.failures import Refused, refusal_of

FRESH: Final = 2**32
"""Seeds that are drawn where none is asked for; all of them are numbers that JavaScript knows exactly."""


def label_of(generator: Generator, prompt: str) -> str | None:
    """Return the label that a prompt names, in large or small letters; None for an empty one.

    Raises Refused, which lists the labels.
    """
    name = prompt.strip()
    if not name:
        return None
    if name in generator.labels:
        return name
    alike = [label for label in generator.labels if label.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    there = ", ".join(generator.labels) or "none"
    told = (
        f"prompt {shown(name)}: it names a label of bundle {generator.manifest.name}, or is empty; labels are: {there}"
    )
    raise Refused(400, "unknown_label", told, param="prompt")


def fresh_seed() -> int:
    """Return a seed that nobody asked for."""
    return secrets.randbelow(FRESH)


def size_of(text: str | None) -> tuple[int, int] | None:
    """Return width and height; None for "auto" or nothing. Raises Refused for anything else than such as 256x256."""
    if text is None or text == "auto":
        return None
    if (found := SIZE.fullmatch(text)) is None:
        raise Refused(400, "invalid_value", f'size {shown(text)}: such as 256x256, or "auto", is needed', param="size")
    return int(found[1]), int(found[2])


def sized(generator: Generator, size: tuple[int, int] | None, resolution: int | None = None) -> Options:
    """Return the options for pictures of a size: the resolution whose pictures have it, else a canvas.

    Raises Refused, which says what sizes there are.
    """
    if size is None:
        return {} if resolution is None else {"resolution": resolution}
    manifest = generator.manifest
    own = {one.pixels: canvas_size(None, manifest.latent.grid, one) for one in manifest.all_resolutions}
    if resolution is None and (fitting := next((pixels for pixels, whole in own.items() if whole == size), None)):
        return {"resolution": fitting}
    asked: dict[str, Any] = {"size": size} if resolution is None else {"size": size, "resolution": resolution}
    try:
        resolve(manifest, 1, 0, Options(**asked), limits=generator.limits)
    except SmaltiError as error:
        there = ", ".join(f"{width}x{height}" for width, height in own.values())
        told = f"size {size[0]}x{size[1]}: bundle {manifest.name} draws {there}. A canvas of another size: {error}"
        raise Refused(refusal_of(error).status, "invalid_size", told, param="size") from None
    return Options(**asked)
