"""The one reader of pictures, for runtime and training: whatever people hand in becomes uint8 [H, W, 3] in sRGB.

* The EXIF orientation is applied.
* Numbers have the meaning that :mod:`smalti.codec.levels` states, by their type.
* Colours with an ICC profile are converted to sRGB. Pictures that smalti makes are sRGB and need no profile.
* Transparent pixels are laid over white.
* Of a file of several frames or pages, the one that is open is read, by default the first.

The last two, and profiles that cannot be used, are told by a warning of the logger ``smalti.codec.pictures``, once per
call with all its pictures.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.codec.levels import Levels, to_levels, to_switches
from smalti.codec.opening import frames, loaded, reading
from smalti.codec.profiles import SPACES, to_srgb
from smalti.errors import UsageError

Picture: TypeAlias = Image.Image | NDArray[Any]
"""A PIL image of any mode, or an array [H, W], or [H, W, C] of 1 to 4 channels: grey, RGB, the last transparency.

What NumPy can read as an array, such as a tensor of torch on the CPU, is one too."""

MOST_PIXELS = 2**28
"""Most pixels of one picture: 16384x16384."""

OVER_WHITE = "its transparent pixels were laid over white"
DARK = "it has 16 bits, of which its values use the lowest 8, so it is black; uint8 has levels 0 .. 255"
ORIENTATION = 0x0112

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """A picture as it was read."""

    colours: Levels
    """uint8 [H, W, 3]: without regard to transparency."""
    alpha: Levels | None
    """uint8 [H, W], 255 where opaque; None where nothing can be transparent."""
    notes: tuple[str, ...]
    """What the user should know of how it was read."""

    @property
    def pixels(self) -> Levels:
        """uint8 [H, W, 3], over white."""
        if self.alpha is None or self.alpha.min() == 255:
            return self.colours
        layer = Image.fromarray(np.dstack([self.colours, self.alpha]))
        white = Image.new("RGBA", layer.size, "white")
        return np.asarray(Image.alpha_composite(white, layer).convert("RGB"))


def read(picture: Picture, what: str = "an image", *, mask: bool = False) -> Reading:
    """Read a picture, which messages call ``what``. In a ``mask``, integers 0 and 1 are black and white.

    Raises UsageError for anything that is no picture, has no pixels or more than MOST_PIXELS, or whose numbers mean no
    brightness.
    """
    if isinstance(picture, Image.Image):
        return _of_image(picture, what, mask)
    return _of_array(as_array(picture, what), what, mask)


def as_array(picture: Any, what: str) -> NDArray[Any]:
    """Return a picture that is no PIL image as a plain array. Raises UsageError for what is none."""
    if isinstance(picture, np.ma.MaskedArray):
        raise UsageError(f"{what}: an array with a mask of its own has no values there; hand in array.filled(0)")
    kind = type(cast(object, picture)).__name__
    if not hasattr(picture, "__array__"):
        advice = "np.array(...) makes one of nested lists" if isinstance(picture, list | tuple) else "open files first"
        raise UsageError(f"{what} must be a PIL image or an array [H, W, 3]; got {kind}; {advice}")
    try:
        return np.asarray(picture)
    except MemoryError:
        raise
    except Exception as error:  # of a class that is not ours, such as a tensor on a GPU
        told = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"{what} of type {kind} cannot be read as an array: {told}; of a tensor of torch, hand in "
            "tensor.detach().cpu().numpy()"
        ) from None


def to_pixels(picture: Picture) -> Levels:
    """Return a picture's pixels, uint8 [H, W, 3]. Raises UsageError as :func:`read` does; notes are logged."""
    found = read(picture)
    tell([found.notes])
    return found.pixels


def all_pixels(pictures: Iterable[Picture]) -> list[Levels]:
    """Return the pixels, uint8 [H, W, 3] each, of pictures of any sizes.

    Raises UsageError for what is no list of pictures, and as :func:`read` does.
    """
    if hasattr(pictures, "__array__") and not isinstance(pictures, Image.Image):
        pictures = as_array(pictures, "images")
    single = isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
    if single or not isinstance(pictures, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError("a list of images is needed; put the one in brackets")
    found = [read(picture) for picture in pictures]
    tell([one.notes for one in found])
    return [one.pixels for one in found]


def tell(notes: Sequence[Iterable[str]]) -> None:
    """Log what the user should know of pictures that were read together; ``notes`` has those of each."""
    for note, count in Counter(note for own in notes for note in own).items():
        _log.warning("%s: %s", "the image" if len(notes) == 1 else f"{count} of {len(notes)} images", note)


def _of_image(image: Image.Image, what: str, mask: bool) -> Reading:
    _check_size(image.width, image.height, what)
    notes: list[str] = []
    if (count := frames(image)) > 1:  # asked before loading, which may close the file
        notes.append(f"it is one of {count} frames, and the others were not read")
    loaded(image, what)
    measure = to_switches if mask else to_levels
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and image.format == "PNG":
            values = values.astype(np.uint16)  # a PNG has at most 16 bits: an older Pillow stored them as I
        plain = Image.fromarray(measure(values, what, pillow=True))
        notes += [DARK] if _is_dark(values) else []
        key = image.info.get("transparency")
        alpha = np.where(values == key, 0, 255).astype(np.uint8) if isinstance(key, int) else None
    else:
        with reading(what):
            plain, alpha = _split(image)
        if mask and image.mode == "L":
            plain = Image.fromarray(measure(np.asarray(plain), what, pillow=True))
    profile = image.info.get("icc_profile")
    if profile and plain.mode in SPACES and image.mode != "LAB" and not mask:  # LAB is the same to everyone
        plain, note = to_srgb(plain, profile)
        notes += [note] if note else []
    turn = _orientation(image)
    with reading(what):
        plain = plain.convert("RGB")
    colours = _turned(np.asarray(plain), turn)
    return _reading(colours, None if alpha is None else _turned(alpha, turn), notes)


def _split(image: Image.Image) -> tuple[Image.Image, Levels | None]:
    """Split an image into its colours, in a mode without transparency, and its alpha."""
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        if image.mode == "1":
            return image.convert("L"), None
        return (image if image.mode in ("L", "CMYK") else image.convert("RGB")), None
    if image.mode == "LA":
        grey, alpha = image.split()
        return grey, np.asarray(alpha)
    rgba = image.convert("RGBA")
    return rgba.convert("RGB"), np.asarray(rgba.getchannel("A"))


def _of_array(array: NDArray[Any], what: str, mask: bool) -> Reading:
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        if array.ndim == 3 and 1 <= shape[0] <= 4:
            advice = "channels come last: np.moveaxis(x, 0, -1)"
        elif array.ndim == 4:
            advice = "hand in one picture at a time, or a list"
        else:
            advice = "of 1 to 4 channels: grey, RGB, and transparency"
        raise UsageError(f"{what} must be a PIL image or an array [H, W, 3]; got {array.dtype} {shape}; {advice}")
    _check_size(shape[1], shape[0], what)
    levels = (to_switches if mask else to_levels)(array, what)
    channels = levels.shape[2]
    alpha = levels[..., -1] if channels in (2, 4) else None
    colours = np.repeat(levels[..., :1], 3, axis=2) if channels < 3 else levels[..., :3]
    return _reading(colours, alpha, [DARK] if _is_dark(array) else [])


def _reading(colours: Levels, alpha: Levels | None, notes: list[str]) -> Reading:
    if alpha is not None and alpha.min() < 255:
        notes.append(OVER_WHITE)
    return Reading(np.ascontiguousarray(colours), alpha, tuple(notes))


def _is_dark(values: NDArray[Any]) -> bool:
    """Whether values of 16 bits look as if they were meant for 8."""
    return values.dtype.newbyteorder("=") == np.uint16 and 1 < int(values.max()) <= 255


def _check_size(width: int, height: int, what: str) -> None:
    if not width or not height:
        raise UsageError(f"{what} has size {width}x{height}: it has no pixels")
    if width * height > MOST_PIXELS:
        raise UsageError(f"{what} has size {width}x{height}: at most {MOST_PIXELS} pixels are read; reduce it first")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 .. 8; 1 where there is none that can be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of Pillow's; a picture outlives damaged remarks on it
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turned(values: Levels, orientation: int) -> Levels:
    """Turn rows and columns of values as an EXIF orientation says."""
    if orientation >= 5:
        values = np.swapaxes(values, 0, 1)
    upside = orientation in (3, 4, 7, 8)
    mirrored = orientation in (2, 3, 6, 7)
    return values[:: -1 if upside else 1, :: -1 if mirrored else 1]
