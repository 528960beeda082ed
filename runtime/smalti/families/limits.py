"""How much one call may ask for: a server sets its own limits, and work beyond them is refused before it begins."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from smalti.bundle.manifest import Manifest
from smalti.errors import OutOfMemory, UsageError, beyond
from smalti.families.base import Settings
from smalti.families.checks import whole
from smalti_kernels.platform import THREADS_VARIABLE, allowed_cores, allowed_memory

PER_CORE = 4
"""Threads for each core; more only wait for each other."""
LEAST_MEMORY = 2**30
"""Bytes that a call may take on the smallest machine."""
PIXEL_BYTES = 8
"""Bytes for each pixel of a picture: four of the picture, three of its array, and some of what is made of them."""
LOGIT_BYTES = 16
"""Bytes for each logit of a step on a canvas of several windows: a sum of 64 bits, and copies of 32."""
WHOLE_BYTES = 2**9
"""Bytes for each pixel in a decoder or encoder that takes a picture as a whole: its channels."""


def _most_threads() -> int:
    return PER_CORE * allowed_cores()


def _most_memory() -> int:
    return max(LEAST_MEMORY, allowed_memory() // 2)


@contextlib.contextmanager
def memory_told() -> Generator[None]:
    """Make Python's and NumPy's MemoryError an error of smalti. It is a decorator, too."""
    try:
        yield
    except MemoryError as error:
        if isinstance(error, OutOfMemory):
            raise
        told = str(error) or "Python has no more"
        raise OutOfMemory(f"there is not enough memory: {told}; ask for fewer or smaller images") from error


@dataclass(frozen=True)
class Limits:
    """The most that one call may ask for. ``smalti.load(limits=Limits(count=4, steps=50))`` is for a server.

    Each is a whole number, at least 1. What is beyond them raises :class:`smalti.UsageError`, or
    :class:`smalti.OutOfMemory` for memory, before anything is made or drawn.
    """

    threads: int = field(default_factory=_most_threads)
    """Threads of a provider; by default four for each core that affinity and quotas of control groups allow."""
    count: int = 2**17
    """Images of one call. Their pixels and memory are limited too, which is what binds in most bundles."""
    steps: int = 4096
    """Steps of a draw."""
    pixels: int = 2**28
    """Pixels of one image; by default those of 16384x16384."""
    all_pixels: int = 2**32
    """Pixels of all images of one call."""
    memory: int = field(default_factory=_most_memory)
    """Bytes that a call may hold, by an estimate; by default half of what the machine or its control group has, and at
    least a gibibyte."""

    def __post_init__(self) -> None:
        """Raise UsageError for a limit that is no whole number, or below 1."""
        for one in fields(self):
            found = whole(one.name, getattr(self, one.name))
            if found < 1:
                raise UsageError(f"{one.name} {found}: a limit is a whole number, at least 1")
            object.__setattr__(self, one.name, found)

    def check_threads(self, threads: Any) -> int | None:
        """Return how many threads a provider gets; None leaves it to the provider.

        ``threads`` are those of the caller, by default those of ``$SMALTI_THREADS``. Raises UsageError for anything but
        a whole number from 1 to :attr:`threads`.
        """
        name, given = "threads", threads
        if threads is None:
            name, given = THREADS_VARIABLE, os.environ.get(THREADS_VARIABLE) or None
            if given is None:
                return None
            given = int(given) if given.strip().isdecimal() else given
        found = whole(name, given)
        if found < 1:
            raise UsageError(f"{name} {found}: a whole number, at least 1, is needed")
        if found > self.threads:
            raise UsageError(
                f"{name} {found}: allowed are 1 .. {self.threads}, which is {PER_CORE} for each core or what "
                "smalti.Limits(threads=...) says; more would only wait for each other"
            )
        return found

    def check_count(self, count: int, what: str = "count") -> None:
        """Raise UsageError for more images than a call may have."""
        if count > self.count:
            told = f"{what} {count}: at most {self.count} images in one call; draw them in several calls"
            raise beyond("count", told)

    def check_steps(self, steps: int) -> None:
        """Raise UsageError for more steps than a draw may have, or none."""
        if not 1 <= steps <= self.steps:
            raise beyond("steps", f"steps {steps}: allowed are 1 .. {self.steps}")

    def check_sizes(self, sizes: Sequence[tuple[int, int]], what: str) -> None:
        """Raise UsageError for too many images, one that is too large, or too many pixels in all.

        ``sizes`` are widths and heights in pixels; ``what`` is the argument that they come from.
        """
        self.check_count(len(sizes), what)
        for width, height in sizes:
            self.check_pixels(width, height, what)
        self.check_total(sum(width * height for width, height in sizes), what)

    def check_pixels(self, width: int, height: int, what: str) -> None:
        """Raise UsageError for an image that is too large."""
        if width * height > self.pixels:
            told = f"{what} {width}x{height}: at most {self.pixels} pixels in one image; take a smaller one"
            raise beyond("pixels", told)

    def check_total(self, pixels: int, what: str) -> None:
        """Raise UsageError for too many pixels of all images of a call."""
        if pixels > self.all_pixels:
            told = f"{what}: {pixels} pixels in all, and at most {self.all_pixels} in one call"
            raise beyond("all_pixels", f"{told}; take fewer or smaller images")

    def check_memory(self, needed: int, what: str) -> None:
        """Raise OutOfMemory for work that would hold more bytes than allowed; ``what`` names the arguments."""
        if needed > self.memory:
            told = f"{what}: about {needed / 2**30:.3g} GiB of memory would be needed, and at most"
            told += f" {self.memory / 2**30:.3g} GiB are taken; ask for fewer or smaller images"
            raise beyond("memory", told, OutOfMemory)

    def check_draw(self, manifest: Manifest, settings: Settings) -> None:
        """Raise UsageError or OutOfMemory for a draw that is too much."""
        count, (width, height), steps = len(settings.seeds), settings.size, settings.value("steps")
        self.check_count(count)
        self.check_steps(steps or 1)
        self.check_pixels(width, height, "size")
        asked = f"count {count}, size {width}x{height}" + (f", steps {steps}" if steps else "")
        self.check_total(count * width * height, asked)
        self.check_memory(draw_bytes(manifest, settings), asked)


def draw_bytes(manifest: Manifest, settings: Settings) -> int:
    """Estimate the bytes that a draw holds: logits of its greatest step, what a predictor remembers, and the images."""
    resolution, count = manifest.resolution(settings.resolution), len(settings.seeds)
    rows, columns = settings.size[1] // resolution.factor, settings.size[0] // resolution.factor
    tokens, share = rows * columns, 1.0
    if manifest.family == "absorbing" and settings.value("order") != "confidence":
        share = min(1.0, 2 / settings.value("steps"))  # the cosine schedule's greatest step is 1.6 times the mean
    elif manifest.family == "sundae":
        share = max(settings.value("proportion"))
    elif manifest.family == "autoregressive":
        share = 1 / tokens
    each = LOGIT_BYTES if (rows, columns) != manifest.latent.grid else LOGIT_BYTES // 2
    logits = count * math.ceil(tokens * share) * manifest.latent.codes * each
    predictor = manifest.components.get("predictor")
    past = next((one.shape for one in predictor.inputs if one.name == "past"), ()) if predictor else ()
    known = math.prod(side for side in past if isinstance(side, int)) if past else 0
    whole_images = resolution.halo is None and not manifest.latent.pixels
    sizes = [settings.size] * count
    return logits + 8 * known * tokens * count + coding_bytes(sizes, resolution.factor, whole_images=whole_images)


def coding_bytes(sizes: Sequence[tuple[int, int]], factor: int, *, whole_images: bool) -> int:
    """Estimate the bytes that encoding or decoding images of these widths and heights holds.

    ``whole_images`` is for a network that takes each image as a whole: its channels, and the attention of every token
    to every other one, which is the square of the number of tokens.
    """
    pixels = [width * height for width, height in sizes]
    most = max(pixels, default=0)
    inside = most * WHOLE_BYTES + 4 * (most // factor**2) ** 2 if whole_images else 0
    return PIXEL_BYTES * sum(pixels) + inside
