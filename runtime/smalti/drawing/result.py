"""Results of a run: images that are saved with their recipe, single steps, and the seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ParamSpec, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.base import ProviderReport
from smalti.bundle.reader import Bundle
from smalti.errors import UsageError
from smalti.families.absorbing import sampler as absorbing
from smalti.families.base import Settings
from smalti.families.checks import whole
from smalti.families.limits import memory_told
from smalti.families.settings import chosen_options
from smalti.saving.chunks import KEY, PARAMETERS
from smalti.saving.formats import Format, contact_sheet, encoded
from smalti.saving.parameters import parameters
from smalti.saving.recipe import Origin, Recipe, encode_recipe
from smalti.saving.targets import Target, check_target, write
from smalti.version import __version__

Int32 = NDArray[np.int32]
Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
COLUMNS = 4
"""Images per row of a sheet where nobody says."""
FROM_NOTHING = Origin()


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
    origin: Origin = field(default=FROM_NOTHING, repr=False)
    """What the draw began from."""
    columns: int = COLUMNS
    """Images per row of a sheet; of a replayed result, those of the sheet that was replayed."""

    @property
    def from_image(self) -> bool:
        """Whether the draw began from an image. Repeating such a draw takes that image too."""
        return self.origin.image is not None

    @memory_told()
    def save(
        self,
        target: Target,
        columns: int | None = None,
        *,
        which: int | None = None,
        format: Format | None = None,
        quality: int | None = None,
    ) -> None:
        """Write the images as one file; several images become a sheet with ``columns`` images per row.

        Args:
            target: a path, where the file appears whole or not at all, or a file that is open to write bytes.
            columns: at least 1; by default :attr:`columns`.
            which: the index of one image, 0 .. N - 1, which is then written alone.
            format: ``png``, ``jpeg`` or ``webp``; by default what the end of the name says (.png, .jpg, .jpeg, .webp).
            quality: 1 .. 100, of a JPEG (95 by default) or of a WebP that loses some; without it, a WebP keeps every
                pixel.

        The file holds the recipe that :func:`smalti.replay` and ``smalti generate --replay`` follow, and besides in the
        form that web UIs read. Images are sRGB.

        Raises UsageError for another target, format, quality, index or number of columns, and for a sheet that the
        format has no room for; OutputError when the file cannot be written.
        """
        where, kind, quality = check_target(target, format, quality)
        columns = self._columns(columns)
        recipe = self.recipe(which, columns)
        if which is None:
            image = contact_sheet(np.stack([np.asarray(image) for image in self.images]), columns)
        else:
            image = self.images[which]
        steps = self.settings.value("steps") or self.tokens[0].size
        texts = {KEY: encode_recipe(recipe)}
        texts[PARAMETERS] = parameters(recipe, self.bundle.manifest.family, steps)
        write(where, encoded(image, kind, quality, texts))

    def recipe(self, which: int | None = None, columns: int | None = None) -> Recipe:
        """Describe how the images were made: all, as they lie in ``columns``, or the one of index ``which``.

        Raises UsageError for an index that is not 0 .. N - 1, or columns below 1.
        """
        columns = min(self._columns(columns), len(self.images))
        if which is None:
            return recipe_of(self.bundle, self.report, self.settings, self.origin, columns)
        index = whole("which", which)
        if not 0 <= index < len(self.images):
            raise UsageError(f"which {index}: allowed are 0 .. {len(self.images) - 1}, or None for all images")
        return recipe_of(self.bundle, self.report, one_of(self.settings, index), self.origin)

    def _columns(self, columns: int | None) -> int:
        found = whole("columns", self.columns if columns is None else columns)
        if found < 1:
            raise UsageError(f"columns {found}: at least 1 image per row is needed")
        return found


def recipe_of(
    bundle: Bundle, report: ProviderReport, settings: Settings, origin: Origin = FROM_NOTHING, columns: int = 1
) -> Recipe:
    """Return the recipe of a draw whose images lie in ``columns``."""
    return Recipe(
        version=__version__,
        bundle=bundle.manifest.name,
        bundle_digest=bundle.digest,
        seeds=settings.seeds,
        labels=settings.labels,
        options=chosen_options(settings),
        precision=dict(report.precision),
        provider=report.actual,
        columns=columns,
        **msgspec.structs.asdict(origin),
    )


def one_of(settings: Settings, index: int) -> Settings:
    """Return the settings of one image of a draw."""
    part = slice(index, index + 1)
    return replace(settings, seeds=settings.seeds[part], labels=settings.labels[part])


@dataclass(frozen=True)
class Step:
    """State of a run after one network call, or after one step in families that draw tokens again and again."""

    index: int
    """0 .. total - 1."""
    total: int
    """Number of steps. In the family sundae a run may have fewer, because it ends when all its samples are frozen."""
    tokens: Int32
    """int32 [N, h, w]. In the family absorbing, K stands where a token is masked. In the family multinomial, tokens
    still have noise. It is a copy that cannot be written to."""
    settings: Settings
    timings: Timings
    """Seconds spent up to here, without those of whoever watches."""
    _images: Callable[[Int32, Timings], list[Image.Image]] = field(repr=False)
    _preview: Callable[[Int32], list[Image.Image]] = field(repr=False)
    _result: Callable[[Int32, Timings, int], Result] = field(repr=False)
    _codes: int = field(repr=False)

    @memory_told()
    def images(self) -> list[Image.Image]:
        """Decode the tokens. A masked token is shown as its nearest unmasked neighbour.

        The last step's images are the ones that :meth:`Generator.generate` returns.
        """
        return self._images(absorbing.fill_masked(self.tokens, self._codes), Timings())

    @memory_told()
    def result(self) -> Result:
        """Decode the tokens as :meth:`images` does, and return what can be saved.

        The last step's result is that of :meth:`Generator.generate`. An earlier one's pictures are unfinished: its
        recipe says after which step they were taken, and replaying it gives the same pictures.
        """
        filled = absorbing.fill_masked(self.tokens, self._codes).copy()
        return self._result(filled, replace(self.timings), self.index)

    @memory_told()
    def preview(self) -> list[Image.Image]:
        """Decode the tokens roughly and cheaply, to pictures of the bundle's first resolution.

        The bundle's preview decoder does this, and shows a masked token as its neighbours make it likely; ``cost`` in
        its certificate is its share of the decoder's operations. A bundle without one takes its first decoder, which
        shows the nearest unmasked neighbour.
        """
        return self._preview(self.tokens)
