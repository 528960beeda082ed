"""Eight CC0 avatar styles of DiceBear: an endless, seeded, labelled set of drawings at any resolution.

The set is synthetic and compositional. A seed string determines the vector description of an image, so splits are
disjoint by construction and there is nothing to download. Image i of a split has style ``i % 8``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from smalti.errors import MissingExtra, UsageError
from smalti.system.platform import install_hint
from smalti_train.data.cache import build_cache, cache_key, default_directory, thread_count
from smalti_train.data.dataset import ImageSet, Licence, check_size

STYLES = ("lorelei", "notionists", "open-peeps", "landscape", "critters", "sprouts", "planets", "pixel-art")
"""Styles in the order of their labels; all CC0 1.0."""

COUNTS = {"train": 24000, "validation": 1024, "test": 2048}
"""Images per split by default."""

PASTELS = (
    "#fde2e4", "#fbd0c9", "#ffe5d0", "#fff1c9", "#f4f3cf", "#e3f2c9", "#d3ecd3", "#c9ece0",
    "#c7e9ee", "#cde4f7", "#d3dcf9", "#dcd6f7", "#eadcf5", "#f6d9ec", "#e8e4dc", "#dbe2e6",
)  # fmt: skip
"""Backgrounds for drawings without their own."""

_WITHOUT_BACKGROUND = frozenset({"lorelei", "notionists", "open-peeps", "pixel-art"})
_EITHER_BACKGROUND = frozenset({"critters", "sprouts"})
_RECIPE = 1  # raise it when the pixels of a given (split, seed, index, size) change


def render(style_name: str, seed_string: str, size: int) -> np.ndarray:
    """Draw one avatar: uint8 [size, size, 3], RGB, 0 to 255, transparency over white.

    The pixels depend only on the arguments and on the installed versions of the styles and the rasteriser. Safe to call
    from several threads.

    Raises UsageError for a style not in ``STYLES`` or a size outside ``dataset.SIZES``, MissingExtra without the
    packages.
    """
    check_size(size)
    dicebear, pyvips = _packages()
    options: dict[str, Any] = {"seed": seed_string, "size": size}
    own_palette = style_name not in _WITHOUT_BACKGROUND
    if style_name in _EITHER_BACKGROUND:
        own_palette = bool(hashlib.sha256(f"{style_name}:{seed_string}".encode()).digest()[0] & 1)
    if not own_palette:
        options["backgroundColor"] = list(PASTELS)
    svg = str(dicebear.Avatar(_style(style_name), options))
    picture = pyvips.Image.svgload_buffer(svg.encode())
    if picture.hasalpha():
        picture = picture.flatten(background=255)
    return np.ascontiguousarray(picture.numpy())


def seed_string(split: str, index: int, seed: int = 0) -> str:
    """Return the seed string of image ``index`` of ``split``: different for every (seed, split, index)."""
    return f"{seed}-{split}-{index}"


def licences() -> tuple[Licence, ...]:
    """Return the licence of each style, in the order of ``STYLES``, as its own definition states it."""
    return tuple(_licence(name) for name in STYLES)


def open_avatars(
    *,
    size: int,
    split: str,
    count: int | None = None,
    seed: int = 0,
    root: Path | None = None,
    cache_dir: Path | None = None,
    progress: bool = True,
) -> ImageSet:
    """Open one split of the avatars, drawing it first unless it is cached; see ``open_dataset``.

    ``count`` defaults to ``COUNTS[split]``; the first images of a split are the same whatever the count.
    """
    check_size(size)
    if root is not None:
        raise UsageError("avatars are drawn, not read: leave root unset")
    count = COUNTS[split] if count is None else count
    versions = _versions()
    recipe = {"recipe": _RECIPE, "split": split, "count": count, "size": size, "seed": seed, "versions": versions}

    def item(index: int) -> tuple[np.ndarray, int]:
        label = index % len(STYLES)
        return render(STYLES[label], seed_string(split, index, seed), size), label

    def meta() -> dict[str, Any]:
        return {"recipe": recipe, "licences": [asdict(licence) for licence in licences()]}

    cached = build_cache(
        cache_dir or default_directory(),
        cache_key(f"avatars-{split}-{size}", recipe),
        count,
        (size, size, 3),
        item,
        meta,
        progress,
        title=f"avatars {split} at {size}",
        workers=thread_count(),  # drawing the SVG holds the GIL, rasterising it does not
    )
    return ImageSet(
        cached.images,
        cached.labels,
        STYLES,
        tuple(Licence(**licence) for licence in cached.meta["licences"]),
        "avatars",
        split,
        size,
        canvases={name: "wide" if name == "landscape" else "own" for name in STYLES},
    )


def _packages() -> tuple[Any, Any]:
    """Import DiceBear and pyvips here, not at the top: the other datasets do not need them."""
    try:
        import dicebear
        import dicebear_styles as _  # noqa: F401
        import pyvips
    except (ImportError, OSError) as error:  # OSError: pyvips is installed, libvips is not
        raise MissingExtra(f"avatars need DiceBear and pyvips ({error}): {install_hint('train')}") from error
    return dicebear, pyvips


def _versions() -> dict[str, str]:
    """Return the versions of the packages that the pixels depend on."""
    _, pyvips = _packages()
    versions = {name: metadata.version(name) for name in ("dicebear-core", "dicebear-styles")}
    return versions | {"libvips": ".".join(str(pyvips.version(part)) for part in range(3))}


@cache
def _style(name: str) -> Any:
    """Load a style's definition, once: checking it against its schema takes most of a second."""
    if name not in STYLES:
        raise UsageError(f"style {name!r}: allowed are {', '.join(STYLES)}")
    dicebear, _ = _packages()
    text = (resources.files("dicebear_styles") / f"{name}.json").read_text(encoding="utf-8")
    return dicebear.Style(json.loads(text))


def _licence(name: str) -> Licence:
    about = _style(name).meta()
    licence, creator, source = about.license(), about.creator(), about.source()
    return Licence(
        name=name,
        licence=licence.name() or "unknown",
        url=licence.url() or "",
        creator=creator.name() or "unknown",
        source=source.url() or source.name() or "",
        note="drawn by DiceBear from seed strings: a synthetic set",
    )
