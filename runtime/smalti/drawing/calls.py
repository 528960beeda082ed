"""Every call of a loaded bundle from outside: arguments are checked by name, before work, and a lack of memory is told.

Values of options are checked in :mod:`smalti.families.settings`, and pictures once more where they are read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, Final, Protocol, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.bundle.manifest import Manifest
from smalti.codec.pictures import as_array
from smalti.codec.tiles import check_box
from smalti.drawing.elsewhere import Opened, check_process
from smalti.errors import UsageError
from smalti.families.checks import listed, shown, whole
from smalti.families.limits import coding_bytes, memory_told
from smalti.families.settings import check_names

Kind = TypeVar("Kind")
MARGINS: Final = ("left", "top", "right", "bottom")
WIDEST: Final = 2**16
"""Most pixels of a fading border; no picture is wider."""


class Checked(Opened, Protocol):
    """A loaded bundle whose calls are checked."""

    manifest: Manifest
    process: int


Check = Callable[[Checked, Mapping[str, Any]], None]


def checked(kind: type[Kind]) -> type[Kind]:
    """Let all public methods of a class, inherited ones too, check their arguments and tell a lack of memory."""
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(kind, name, _checked(method))
    return kind


def _checked(method: FunctionType) -> Callable[..., Any]:
    signature = inspect.signature(method)
    checks = [_check_names] if "options" in signature.parameters else []
    checks += [CHECKS[name] for name in signature.parameters if name in CHECKS]
    checks += [SPECIAL[method.__name__]] if method.__name__ in SPECIAL else []

    @wraps(method)
    def call(self: Checked, *given: Any, **named: Any) -> Any:
        check_process(self, self.process)
        with memory_told():
            if checks:
                bound = signature.bind(self, *given, **named)  # a TypeError, as Python's own, for a missing argument
                bound.apply_defaults()
                options = bound.arguments.get("options", {})
                arguments = {**bound.arguments, "options": tuple(options), **options}
                for check in checks:  # the names of options first: a wrong one explains much of what else is wrong
                    check(self, arguments)
            answer = method(self, *given, **named)
        return _steps(answer) if inspect.isgenerator(answer) else answer

    return call


def _steps(steps: Iterator[Any]) -> Iterator[Any]:
    with memory_told():
        yield from steps


def _check_names(model: Checked, given: Mapping[str, Any]) -> None:
    del model
    check_names(given["options"])


def _check_options(model: Checked, given: Mapping[str, Any]) -> None:
    """Check those that are read before all options are settled."""
    model.manifest.resolution(given.get("resolution"))
    size = given.get("size")
    if not isinstance(size, tuple | list | None) or not all(map(_is_whole, cast(Sequence[Any], size or ()))):
        raise UsageError(f"size {shown(size)}: width and height in pixels are needed, such as (512, 256)")


def _check_image(model: Checked, given: Mapping[str, Any]) -> None:
    model.limits.check_sizes([_size("image", given["image"])], "image")


def _check_images(model: Checked, given: Mapping[str, Any]) -> None:
    """Check a list of pictures, and what encoding them holds."""
    images, limits = given["images"], model.limits
    if isinstance(images, Image.Image):
        raise UsageError("images: a list of images is needed; put the one in brackets")
    if hasattr(images, "__array__"):  # one beside the other
        images = as_array(images, "images")
        images = list(images) if images.ndim > 1 else images
    sizes = [_size("images", one) for one in listed("images", images, "images", limits.count)]
    if not sizes:
        raise UsageError("images is empty: one or more images are needed")
    limits.check_sizes(sizes, "images")
    latent = model.manifest.latent
    whole_images = latent.encoder_halo is None and not latent.pixels and "resolution" in given
    limits.check_memory(coding_bytes(sizes, latent.factor, whole_images=whole_images), f"images ({len(sizes)})")


def _check_margins(model: Checked, given: Mapping[str, Any]) -> None:
    """Check how far an image is painted on, before its canvas is made."""
    told = ", ".join(f"{name} {shown(given[name])}" for name in MARGINS)
    if not all(_is_whole(given[name]) for name in MARGINS):
        raise UsageError(f"{told}: whole numbers of pixels are needed")
    left, top, right, bottom = (whole(name, given[name]) for name in MARGINS)
    if min(left, top, right, bottom) < 0:
        raise UsageError(f"{told}: 0 or more pixels each, and some on one side")
    width, height = _size("image", given["image"])
    model.limits.check_pixels(width + left + right, height + top + bottom, f"{told}: the whole of")


def _check_feather(model: Checked, given: Mapping[str, Any]) -> None:
    del model
    if not 0 <= whole("feather", given["feather"]) <= WIDEST:
        raise UsageError(f"feather {given['feather']}: 0 or more pixels, at most {WIDEST}")


def _check_fit(model: Checked, given: Mapping[str, Any]) -> None:
    del model
    if not isinstance(given["fit"], str | None):
        raise UsageError(f"fit {shown(given['fit'])}: the name of a way to fit is needed, or None")


def _check_role(model: Checked, given: Mapping[str, Any]) -> None:
    role, there = given["role"], model.manifest.components
    if not isinstance(role, str) or role not in there:
        raise UsageError(f"role {shown(role)}: components of bundle {model.manifest.name} are {', '.join(there)}")


def _check_decode(model: Checked, given: Mapping[str, Any]) -> None:
    """Check tokens that are to be decoded, and what that holds."""
    tokens, manifest, limits = _array("tokens", given["tokens"]), model.manifest, model.limits
    if tokens.ndim not in (2, 3) or tokens.dtype.kind not in "iu" or not tokens.size:
        return  # which is told by smalti.codec.batches.check_tokens, with all that is allowed
    resolution = manifest.resolution(given["resolution"])
    rows, columns = tokens.shape[-2:]
    count = tokens.size // (rows * columns)
    limits.check_count(count, "tokens: images")
    width, height = columns * resolution.factor, rows * resolution.factor
    if given["box"] is not None:
        left, top, right, bottom = check_box(given["box"], width, height)
        if resolution.halo is not None:  # else all is decoded
            width, height = right - left, bottom - top
    limits.check_sizes([(width, height)] * count, "tokens: pictures of")
    whole_images = resolution.halo is None and not manifest.latent.pixels
    needed = coding_bytes([(width, height)] * count, resolution.factor, whole_images=whole_images)
    limits.check_memory(needed, f"tokens: {count} pictures of {width}x{height}")


def _check_logits(model: Checked, given: Mapping[str, Any]) -> None:
    """Check what the prior is asked. Its graph would tell of it in its own words, and print."""
    if model.manifest.family == "autoregressive":
        return  # the call itself says what to ask instead
    latent = model.manifest.latent
    length, labels = latent.grid[0] * latent.grid[1], len(model.manifest.classes)
    if given["time"] is not None:
        whole("time", given["time"])
    tokens = _integers("tokens", given["tokens"], (None, length), latent.codes, f"int32 [N, {length}]")
    _integers("labels", given["labels"], (len(tokens),), labels, f"int32 [{len(tokens)}], one for each of the tokens")
    _integers("rows", given["rows"], (len(tokens), None), length - 1, f"int32 [{len(tokens)}, R]")


def _integers(name: str, value: Any, shape: tuple[int | None, ...], most: int, form: str) -> NDArray[Any]:
    """Check an array of whole numbers 0 .. ``most``. Raises UsageError, which says its ``form``."""
    fits = _is_array(value) and value.dtype == np.int32 and len(value.shape) == len(shape)
    if not fits or not all(side in (None, own) for side, own in zip(shape, value.shape)):
        raise UsageError(f"{name} must be an array {form}; got {_form(value)}")
    if value.size and not (value.min() >= 0 and value.max() <= most):
        raise UsageError(f"{name} must be 0 .. {most}; got {value.min()} .. {value.max()}")
    return value


def _is_whole(value: Any) -> bool:
    try:
        whole("", value)
    except UsageError:
        return False
    return True


def _is_array(value: Any) -> TypeGuard[NDArray[Any]]:
    return isinstance(value, np.ndarray)


def _form(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if _is_array(value) else shown(value)


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise UsageError(
            f"{name} {shown(value)}: an array of whole numbers is needed, whose rows are all of one length"
        ) from None


def _size(name: str, image: Any) -> tuple[int, int]:
    """Return width and height of a picture. What its pixels are is checked where they are read."""
    if isinstance(image, Image.Image):
        return image.size
    array = as_array(image, f"{name}: an image")
    if array.ndim in (2, 3):
        return array.shape[1], array.shape[0]
    advice = "hand in one picture at a time" if array.ndim == 4 else "rows and columns of pixels are needed"
    raise UsageError(f"{name}: an image must be a PIL image or an array [H, W, 3]; got {_form(array)}; {advice}")


CHECKS: Final[Mapping[str, Check]] = {
    "image": _check_image,
    "images": _check_images,
    "resolution": _check_options,
    "options": _check_options,
    "bottom": _check_margins,
    "feather": _check_feather,
    "fit": _check_fit,
    "role": _check_role,
}
"""Checks by the name of a parameter; the last margin stands for all four."""
SPECIAL: Final[Mapping[str, Check]] = {"decode": _check_decode, "logits": _check_logits}
"""Checks by the name of a method."""
