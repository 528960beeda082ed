"""Results of a run: images that are saved with their recipe, single steps, and the seconds of each stage."""

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
    """Seconds spent in each stage."""

    network: float = 0.0
    draw: float = 0.0
    decoder: float = 0.0
    host: float = 0.0
    """Everything else, such as schedules and copies of arrays."""
    calls: int = 0
    """Network calls."""

    @property
    def total(self) -> float:
        """Sum of all stages."""
        return self.network + self.draw + self.decoder + self.host

    def timed(self, network: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
        """Wrap ``network`` so that its calls and their seconds are counted here."""

        def call(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
            started = time.perf_counter()
            answer = network(*arguments, **named)
            self.network += time.perf_counter() - started
            self.calls += 1
            return answer

        return call


@dataclass(frozen=True)
class Result:
    """Images that :meth:`Generator.generate` or :meth:`Generator.inpaint` drew, and how."""

    images: list[Image.Image]
    tokens: Int32
    """int32 [N, h, w]."""
    settings: Settings
    timings: Timings
    report: ProviderReport
    bundle: Bundle = field(repr=False)
    from_image: bool = False
    """Whether the draw began from an image. Seeds and settings alone do not repeat such a draw."""

    def save(self, path: str | Path, columns: int = 4) -> None:
        """Write the images as one PNG; several images become a sheet with ``columns`` images per row.

        The PNG holds the recipe that ``smalti generate --replay`` follows. A draw that began from an image has none.

        Raises UsageError when ``path`` does not end in .png or ``columns`` is below 1, OutputError when the file cannot
        be written.
        """
        if Path(path).suffix.lower() != ".png" or columns < 1:
            raise UsageError(f"save takes a path that ends in .png and at least 1 column; got {path} and {columns}")
        columns = min(columns, len(self.images))
        sheet = contact_sheet(np.stack([np.asarray(image) for image in self.images]), columns)
        save_picture(sheet, Path(path), None if self.from_image else self.recipe(slice(None), columns))

    def recipe(self, which: slice, columns: int) -> Recipe:
        """Describe how the images of the slice ``which`` were made, and that they lie in ``columns``."""
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
    """State of a run after one network call, or after one step in families that draw tokens again and again."""

    index: int
    """0 .. total - 1."""
    total: int
    """Number of steps. In the family sundae a run may have fewer, because it ends when all its samples are frozen."""
    tokens: Int32
    """int32 [N, h, w]. In the family absorbing, K stands where a token is masked. In the family multinomial, tokens
    still have noise."""
    settings: Settings
    _decode: Callable[[Int32], list[Image.Image]] = field(repr=False)
    _preview: Callable[[Int32], list[Image.Image]] = field(repr=False)
    _codes: int = field(repr=False)

    def images(self) -> list[Image.Image]:
        """Decode the tokens. A masked token is shown as its nearest unmasked neighbour.

        The last step's images are the ones that :meth:`Generator.generate` returns.
        """
        return self._decode(absorbing.fill_masked(self.tokens, self._codes))

    def preview(self) -> list[Image.Image]:
        """Decode the tokens roughly and cheaply, to pictures of the bundle's first resolution.

        The bundle's preview decoder does this, and shows a masked token as its neighbours make it likely; ``cost`` in
        its certificate is its share of the decoder's operations. A bundle without one takes its first decoder, which
        shows the nearest unmasked neighbour.
        """
        return self._preview(self.tokens)


def save_picture(image: Image.Image, path: Path, recipe: Recipe | None) -> None:
    """Write a PNG with its recipe, if there is one. The file appears whole; else OutputError is raised."""
    save_png(image, path, None if recipe is None else {PNG_KEY: encode_recipe(recipe)})
