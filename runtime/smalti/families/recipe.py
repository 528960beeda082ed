"""The recipe of a picture: it is kept inside the PNG, and is enough to make the picture again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from smalti.errors import UsageError
from smalti.families.settings import DECLARED
from smalti.images import UNREADABLE
from smalti.platform import reachable

PNG_KEY = "smalti"
"""The text chunk that holds a recipe."""
ALWAYS_BEFORE: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "order": "random", "remask": 0.0}
"""Values of options that did not exist when older pictures were made."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the pixels of a PNG."""

    version: str
    """Version of smalti."""
    bundle: str
    bundle_digest: str
    """sha256 of the bundle's manifest, which in turn fixes every file of the bundle."""
    seeds: tuple[int, ...]
    labels: tuple[str | None, ...]
    precision: dict[str, str]
    provider: str
    columns: int
    """Images per row of the sheet."""
    options: dict[str, Any] = {}
    """Options of the draw, by their names in ``smalti.families.settings.DECLARED``. None stands where the family has no
    such option. Files of older versions lack some options."""


def encode_recipe(recipe: Recipe) -> str:
    """Return a recipe as JSON text. Its options stand beside its other fields."""
    content = msgspec.structs.asdict(recipe)
    options: dict[str, Any] = content.pop("options")
    return msgspec.json.encode({**content, **options}).decode()


def read_recipe(path: Path) -> Recipe:
    """Read the recipe inside a PNG. Fields of later versions are ignored. Raises UsageError when there is none."""
    try:
        with Image.open(reachable(path)) as image:
            text: Any = image.info.get(PNG_KEY)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; name a PNG that smalti made") from None
    except UNREADABLE as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from None
    if not isinstance(text, str):
        raise UsageError(f"{path} does not say how it was made; only a PNG that smalti wrote can be replayed")
    try:
        # Encoded, for Pillow gives text beyond Latin-1 as a subclass of str, which msgspec does not take.
        content = msgspec.json.decode(text.encode(), type=dict[str, Any])
        recipe = msgspec.convert(content, Recipe)
        found = {**ALWAYS_BEFORE, **content}
        options = {name: msgspec.convert(found[name], kind | None) for name, kind in DECLARED.items() if name in found}
        return msgspec.structs.replace(recipe, options=options)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}: its recipe cannot be read: {error}") from None
