"""The recipe of a picture: it is kept inside its file, and is enough to make the picture again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.codec.fit import Fit
from smalti.codec.opening import UNREADABLE, reading
from smalti.errors import UsageError
from smalti.families.settings import DECLARED
from smalti.saving.chunks import KEY, text_in_exif, text_in_png
from smalti.saving.targets import Source, check_source, told_file
from smalti.system.platform import reachable

ALWAYS_BEFORE: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "order": "random", "remask": 0.0}
"""Values of options that did not exist when older pictures were made."""
Call: TypeAlias = Literal["generate", "inpaint", "outpaint", "vary"]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What a draw began from, and how far it went.

    It began from nothing, or from an image and what the call says of it. Images are known by their digests.
    """

    call: Call = "generate"
    """The method of :class:`smalti.Generator`."""
    image: str | None = None
    """:func:`digest` of the image's pixels as :mod:`smalti.codec.pictures` reads them, before ``fit`` and margins."""
    mask: str | None = None
    """:func:`digest` of the mask, 255 where it repaints and 0 elsewhere, before ``fit``."""
    feather: int = 0
    fit: Fit | None = None
    margins: tuple[int, int, int, int] | None = None
    """Pixels that were added on the left, at the top, on the right and at the bottom."""
    strength: float | None = None
    step: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """The index of the step after which unfinished pictures were taken, as :meth:`smalti.Step.result` does; None for
    the pictures of the whole run."""


class Recipe(Origin, frozen=True, kw_only=True):
    """Everything that decides the pixels of a picture, or of a sheet of pictures.

    A draw from an image needs that image again, and its mask; ``image`` and ``mask`` are their digests.
    """

    version: str
    """Version of smalti."""
    bundle: str
    bundle_digest: str
    """sha256 of the bundle's manifest, which in turn fixes every file of the bundle."""
    seeds: Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]
    labels: tuple[str | None, ...]
    precision: dict[str, str]
    provider: str
    columns: Annotated[int, msgspec.Meta(ge=1)]
    """Images per row of the sheet."""
    options: dict[str, Any] = {}
    """Options of the draw, by their names in ``smalti.families.settings.DECLARED``. None stands where the family has no
    such option. Files of older versions lack some options."""


def digest(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> str:
    """Return the sha256 of pixels uint8 [H, W, 3], or of a mask bool [H, W], whose bytes are 255 for True and 0.

    Hashed are ``WIDTHxHEIGHT`` and a new line in ASCII, then the bytes row by row.
    """
    if pixels.dtype == np.bool_:
        pixels = np.where(pixels, np.uint8(255), np.uint8(0))
    height, width = pixels.shape[:2]
    found = hashlib.sha256(f"{width}x{height}\n".encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()


def encode_recipe(recipe: Recipe) -> str:
    """Return a recipe as JSON text. Its options stand beside its other fields; what a draw did not begin from is left
    out.
    """
    content = msgspec.structs.asdict(recipe)
    options: dict[str, Any] = content.pop("options")
    plain = msgspec.structs.asdict(Origin())
    kept = {name: value for name, value in content.items() if name not in plain or value != plain[name]}
    return msgspec.json.encode({**kept, **options}).decode()


def read_recipe(source: Source) -> Recipe:
    """Read the recipe inside a PNG, JPEG or WebP that smalti wrote. Fields of later versions are ignored.

    ``source`` is a path, or a file that is open to read bytes, which is read from its begin. Raises UsageError when it
    cannot be read, is no picture, or has no recipe.
    """
    place = check_source("source", source)
    where = str(place) if isinstance(place, Path) else told_file("source", source)
    try:
        text = _text_of(place, where)
    except FileNotFoundError:
        raise UsageError(f"{where} does not exist; name a picture that smalti made") from None
    except UNREADABLE as error:
        raise UsageError(f"{where} cannot be read as an image: {error}") from None
    if text is None:
        raise UsageError(f"{where} does not say how it was made; only a picture that smalti wrote can be replayed")
    try:
        # Encoded, for Pillow gives text beyond Latin-1 as a subclass of str, which msgspec does not take.
        content = msgspec.json.decode(text.encode(), type=dict[str, Any])
        recipe = msgspec.convert(content, Recipe)
        found = {**ALWAYS_BEFORE, **content}
        options = {name: msgspec.convert(found[name], kind | None) for name, kind in DECLARED.items() if name in found}
        return msgspec.structs.replace(recipe, options=options)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise UsageError(f"{where}: its recipe cannot be read: {error}") from None


def _text_of(place: Path | Any, where: str) -> str | None:
    """Return the text of the recipe in a file; None if there is none. Raises UsageError, and errors of UNREADABLE."""
    if isinstance(place, Path):
        with reachable(place).open("rb") as file:
            return _text_of(file, where)
    with reading(where):
        image = Image.open(place)
    with image:
        found: Any = image.info.get(KEY)
        found = found if isinstance(found, str) else text_in_exif(image)
        return text_in_png(place) or found
