"""Colours of pictures that bring an ICC profile, as those of sRGB, which all models are trained on."""

from __future__ import annotations

import io
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
"""The colour space, as a profile names it, of the modes that profiles are for."""

SAME = 2
"""Most levels by which a profile may differ from sRGB and still be one of its many spellings."""

UNUSABLE = "its colour profile is damaged or not for its colours, so they were taken as sRGB"


def to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """Convert an image of mode L, RGB or CMYK by its ICC profile to RGB in sRGB.

    A profile of sRGB leaves all pixels as they are. One that is damaged, or of other colours than the image's, is
    ignored. The second value says so; it is None where there is nothing to tell.
    """
    if image.mode == "L" and _space(profile) == "RGB":
        image = image.convert("RGB")  # many programs put the profile of their screen on grey pictures
    try:
        transform = _transform(profile, image.mode)
        return (image.convert("RGB") if transform is None else transform.apply(image)), None
    except Exception:  # of many kinds, by version of Pillow and by damage; the picture itself is well
        return image.convert("RGB"), UNUSABLE


@lru_cache(16)
def _transform(profile: bytes, mode: str) -> ImageCmsTransform | None:
    """What converts images of a mode by a profile to sRGB; None where they are that already."""
    from PIL import ImageCms  # some builds of Pillow lack it; then no profile can be used

    if _space(profile) != SPACES[mode]:
        raise ValueError("a profile of other colours")
    found = ImageCms.buildTransform(
        io.BytesIO(profile),
        ImageCms.createProfile("sRGB"),  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    if mode in ("L", "RGB"):
        steps = np.array([*product(range(0, 256, 15), repeat=len(mode))], np.uint8)  # 18 levels per channel
        probe = Image.fromarray(steps[None] if mode == "RGB" else steps.T)
        change = np.asarray(probe.convert("RGB"), np.int16) - np.asarray(found.apply(probe), np.int16)
        if np.abs(change).max() <= SAME:
            return None
    return found


def _space(profile: bytes) -> str:
    """The colour space that a profile names in its header."""
    return profile[16:20].decode("latin-1").strip()
