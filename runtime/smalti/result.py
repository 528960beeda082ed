"""What a run gives back: images that can save themselves with their recipe, single steps, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.base import ProviderReport
from smalti.bundle.reader import Bundle
from smalti.errors import UsageError
from smalti.families.absorbing import sampler as absorbing
from smalti.families.base import Settings
from smalti.families.recipe import PNG_KEY, Recipe, encode_recipe
from smalti.families.settings import chosen_options
from smalti.images import contact_sheet, save_png
from smalti.version import __version__

Int32 = NDArray[np.int32]
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


@dataclass
class Timings:
    """Seconds spent per stage."""

    network: float = 0.0
    draw: float = 0.0
    decoder: float = 0.0
    host: float = 0.0
    """Everything else: schedules, arrays, pictures."""
    calls: int = 0
    """Network calls."""

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.network + self.draw + self.decoder + self.host

    def timed(self, network: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
        """Count calls of ``network`` and the seconds they take."""

        def call(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
            started = time.perf_counter()
            answer = network(*arguments, **named)
            self.network += time.perf_counter() - started
            self.calls += 1
            return answer

        return call


@dataclass(frozen=True)
class Result:
    """What :meth:`Generator.generate` returns."""

    images: list[Image.Image]
    tokens: Int32
    """int32 [N, h, w]."""
    settings: Settings
    timings: Timings
    report: ProviderReport
    bundle: Bundle = field(repr=False)
    from_image: bool = False
    """Whether the draw began from an image: then seeds and settings alone do not make it again."""

    def save(self, path: str | Path, columns: int = 4) -> None:
        """Write the images as one PNG, a sheet if there are several, that ``smalti generate --replay`` can make again.

        What began from an image is written without that recipe.

        Raises UsageError when ``path`` does not end in .png, OutputError when it cannot be written.
        """
        if Path(path).suffix.lower() != ".png" or columns < 1:
            raise UsageError(f"save takes a path that ends in .png and at least 1 column; got {path} and {columns}")
        columns = min(columns, len(self.images))
        sheet = contact_sheet(np.stack([np.asarray(image) for image in self.images]), columns)
        save_picture(sheet, Path(path), None if self.from_image else self.recipe(slice(None), columns))

    def recipe(self, which: slice, columns: int) -> Recipe:
        """Describe how some of the images were made, laid out in ``columns``."""
        return Recipe(
            version=__version__,
            bundle=self.bundle.manifest.name,
            bundle_digest=self.bundle.digest,
            seeds=self.settings.seeds[which],
            labels=self.settings.labels[which],
            options=chosen_options(self.settings),
            precision=dict(self.report.precision),
            provider=self.report.actual,
            columns=columns,
        )


@dataclass(frozen=True)
class Step:
    """One network call of :meth:`Generator.stream`, or one step where tokens are drawn again and again."""

    index: int
    """0 .. total - 1."""
    total: int
    """How many there are; in a bundle of the family sundae the most there can be, for a run ends as soon as all its
    samples are frozen."""
    tokens: Int32
    """int32 [N, h, w]; K where a token is still masked, or masked again. Of the family multinomial, tokens that still
    have noise."""
    settings: Settings
    _decode: Callable[[Int32], list[Image.Image]] = field(repr=False)
    _preview: Callable[[Int32], list[Image.Image]] | None = field(repr=False)
    """None where the bundle has no preview decoder."""
    _codes: int = field(repr=False)

    def images(self) -> list[Image.Image]:
        """Decode what is there; masked tokens are shown as their nearest unmasked neighbour.

        Those of the last step are the images that :meth:`Generator.generate` returns.
        """
        return self._decode(absorbing.fill_masked(self.tokens, self._codes))

    def preview(self) -> list[Image.Image]:
        """Show roughly what is there, masked tokens as the others make them likely.

        It takes the bundle's preview decoder, which needs a small part of the decoder's operations (its certificate
        says which, as ``cost``); in a bundle without one the images are those of :meth:`images`.
        """
        return self.images() if self._preview is None else self._preview(self.tokens)


def save_picture(image: Image.Image, path: Path, recipe: Recipe | None) -> None:
    """Write a PNG, with its recipe if there is one; the file appears whole or not at all (OutputError)."""
    save_png(image, path, None if recipe is None else {PNG_KEY: encode_recipe(recipe)})
