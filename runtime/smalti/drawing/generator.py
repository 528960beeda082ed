"""The public face of a loaded bundle: generate, stream, inpaint, vary, encode, decode or embed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Backend
from smalti.backends.forked import renewed_after_fork
from smalti.bundle.reader import Bundle
from smalti.codec.fit import Fit
from smalti.codec.margins import extended, fitted_margins
from smalti.codec.masks import check_pair, seen_by_encoder, to_repaint
from smalti.codec.pictures import Picture, to_pixels
from smalti.drawing.calls import checked
from smalti.drawing.draw import Plan, draw, stream
from smalti.drawing.folder import OnPicture, Written, draw_into
from smalti.drawing.loaded import EMBEDDING, GIVEN, NETWORK_BATCH, Loaded
from smalti.drawing.pace import Pace, kind_of_draw
from smalti.drawing.repaint import Pixels, Repaint, inpainted, of_inpaint, of_outpaint, varied
from smalti.drawing.result import Result, Step
from smalti.drawing.watch import OnStep, Watch
from smalti.errors import UsageError
from smalti.families.base import Settings
from smalti.families.checks import number, share
from smalti.families.limits import Limits
from smalti.families.settings import Options, resolve
from smalti.saving.formats import Format
from smalti.saving.recipe import Origin, digest

Int32 = NDArray[np.int32]
__all__ = ["EMBEDDING", "GIVEN", "NETWORK_BATCH", "Generator"]


@checked
class Generator(Loaded):
    """A loaded bundle. Prior and decoder are ready; other components load when first used.

    :func:`smalti.load` makes one. Several threads may call its methods.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        precision: str = "auto",
        *,
        requested: str = "auto",
        why: str = GIVEN,
        limits: Limits | None = None,
    ) -> None:
        """Open prior and decoder on a backend; ``requested`` is the provider that was asked for, for the report.

        Raises BundleError, ProviderUnavailable and UsageError as :func:`smalti.load` does.
        """
        super().__init__(bundle, backend, precision, requested=requested, why=why, limits=limits)
        self._pace = Pace()
        renewed_after_fork(self._pace)

    def generate(
        self,
        count: int | None = None,
        seed: int = 0,
        *,
        cancel: threading.Event | None = None,
        on_step: OnStep | None = None,
        budget_ms: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw images.

        Image i has seed ``seed + i`` (0 .. 2^64 - 1), or ``seeds[i]``. Its tokens are the same whether it is drawn
        alone or in any batch. :class:`~smalti.families.settings.Options` describes the options: ``seeds``, ``label``,
        ``steps``, ``temperature``, ``top_k``, ``top_p``, ``guidance``, ``schedule``, ``order``, ``choice_temperature``,
        ``remask``, ``final_temperature``, ``proportion``, ``min_steps``, ``resolution``, ``size``, ``stride``.

        ``on_step`` is called with a :class:`Step` after each. ``cancel`` ends the call between two pieces of work,
        once it is set. ``budget_ms`` stands for ``steps``: as many as this machine draws and decodes in that time, by
        what it took for draws before; the first such call draws a few times more to find out.

        Raises UsageError for an unknown option, an option of another family, or a value out of range; Cancelled when
        the call was cancelled.
        """
        watch = Watch(cancel, on_step)
        if budget_ms is not None:
            options["steps"] = self._steps_within(budget_ms, count, seed, options)
        started = time.perf_counter()
        settings = resolve(self.manifest, count, seed, options, limits=self.limits)
        return self._draw(Plan(self._masked(settings), settings), watch, started)

    def stream(
        self,
        count: int | None = None,
        seed: int = 0,
        *,
        cancel: threading.Event | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Step]:
        """Draw images as :meth:`generate` does, and yield a :class:`Step` after every network call, or step.

        Stop iterating to cancel. The last step has the tokens that :meth:`generate` returns, and its
        :meth:`Step.result` is what that returns.
        """
        settings = resolve(self.manifest, count, seed, options, limits=self.limits)
        return stream(self, Plan(self._masked(settings), settings), Watch(cancel))

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        feather: int = 0,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
        on_step: OnStep | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Repaint the part of ``image`` where ``mask`` is white; the other pixels stay exactly what they are.

        ``image`` is read as in :meth:`encode`. ``mask`` is white (True) where to repaint, or opaque where its
        transparency varies: see :func:`smalti.codec.masks.to_repaint`. Both have one size, and its sides are multiples
        of the resolution's factor; else ``fit`` brings both to one, and the results have that size.

        A token is drawn anew when any pixel of its patch is to be repainted (McKinney and Willcocks 2022, section 3.6).
        All other tokens are encoded from the image, in which the masked part is filled from its surroundings: nothing
        of what lies there is seen. The draw is conditioned on them, and its colours are matched to those around. An
        autoregressive bundle sees only those that come earlier in raster order. Without ``label``, the images are drawn
        without a label. The other options are those of :meth:`generate`, ``cancel`` and ``on_step`` too.

        With ``feather`` above 0, pixels up to so far around the mask fade from the drawn picture into the image.

        Raises UsageError for sizes that do not fit, a mask that repaints nothing, or a value out of range; BundleError
        for a bundle without an encoder; Cancelled when the call was cancelled.
        """
        watch, started = Watch(cancel, on_step), time.perf_counter()
        return self._draw(self._inpainting(image, mask, count, seed, feather, fit, options, watch), watch, started)

    def stream_inpaint(
        self,
        image: Picture,
        mask: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        feather: int = 0,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Step]:
        """Repaint a part of an image as :meth:`inpaint` does, and yield a :class:`Step` after each.

        Pictures and previews of a step have the image's own pixels around what is drawn.
        """
        watch = Watch(cancel)
        return stream(self, self._inpainting(image, mask, count, seed, feather, fit, options, watch), watch)

    def outpaint(
        self,
        image: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        feather: int = 0,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
        on_step: OnStep | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Paint on beyond the edges of ``image``: ``left``, ``top``, ``right`` and ``bottom`` pixels more.

        The image's own pixels stay exactly what they are. The sides of the whole are multiples of the resolution's
        factor; else ``fit`` changes the margins, never the image: "pad" paints on so much further, on the right and
        below or on the only side that was asked for, and "crop" less far. "stretch" is for other calls. All else is as
        in :meth:`inpaint`.

        Raises UsageError for sizes that do not fit or a value out of range, BundleError for a bundle without an
        encoder, Cancelled when the call was cancelled.
        """
        watch, started, margins = Watch(cancel, on_step), time.perf_counter(), (left, top, right, bottom)
        return self._draw(self._outpainting(image, margins, count, seed, feather, fit, options, watch), watch, started)

    def stream_outpaint(
        self,
        image: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        left: int = 0,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        feather: int = 0,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Step]:
        """Paint on beyond an image's edges as :meth:`outpaint` does, and yield a :class:`Step` after each."""
        watch, margins = Watch(cancel), (left, top, right, bottom)
        return stream(self, self._outpainting(image, margins, count, seed, feather, fit, options, watch), watch)

    def vary(
        self,
        image: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        strength: float = 0.3,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
        on_step: OnStep | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """Draw variations of an image: of its tokens a share ``strength`` (above 0, at most 1) is drawn anew.

        Each seed draws others. The image is seen through its encoder, so that no pixel stays exactly what it is. Its
        size, and ``fit``, are as in :meth:`encode`. All else is as in :meth:`inpaint`.

        Raises UsageError for sizes that do not fit or a value out of range, BundleError for a bundle without an
        encoder, Cancelled when the call was cancelled.
        """
        watch, started = Watch(cancel, on_step), time.perf_counter()
        pixels = to_pixels(image)
        tokens = self.encode([pixels], options.get("resolution"), fit=fit, cancel=cancel)
        factor = self.manifest.resolution(options.get("resolution")).factor
        settings = self._sized(count, seed, options, (tokens.shape[2] * factor, tokens.shape[1] * factor))
        strength = share("strength", strength)
        origin = Origin(call="vary", image=digest(pixels), strength=strength, fit=fit)
        return self._draw(varied(tokens, settings, self.manifest.latent, origin), watch, started)

    def generate_into(
        self,
        folder: str | bytes | os.PathLike[str],
        count: int | None = None,
        seed: int = 0,
        *,
        format: Format = "png",
        quality: int | None = None,
        overwrite: bool = False,
        on_picture: OnPicture | None = None,
        cancel: threading.Event | None = None,
        **options: Unpack[Options],
    ) -> Written:
        """Draw images into a folder, one file for each, which is written as soon as its image is ready.

        A file is named after the bundle and its seed, such as ``avatars-7.png``, and holds its recipe. One that is
        there, whole, and says that it is the same image is left as it is, without drawing it again: call again with the
        same arguments after an interrupt, or with a larger ``count``. A damaged one is drawn again. The quality of its
        format is not compared: say ``overwrite`` to write the same images in another. The folder is made where it is
        missing.

        Args:
            folder: a path.
            count: images to draw; it may be large, since only a few images are held at a time.
            seed: as in :meth:`generate`, and so are the options. No seed may be there twice.
            format: ``png``, ``jpeg`` or ``webp``.
            quality: 1 .. 100, as in :meth:`Result.save`.
            overwrite: draw and write all images, whatever files are there.
            on_picture: is told ``(done, total, path)`` after each image that is written or was there.
            cancel: ends the call once it is set. What is written stays.

        Raises UsageError for a value out of range, and where a file of one of the names is another image or none that
        smalti wrote, before anything is drawn; OutputError when a file cannot be written; Cancelled when the call was
        cancelled.
        """
        # Only a part is drawn at once, and that is limited below.
        limits = replace(self.limits, memory=sys.maxsize)
        settings = resolve(self.manifest, count, seed, options, limits=limits)
        watch = Watch(cancel)

        def drawn(part: Settings) -> Result:
            return self._draw(Plan(self._masked(part), part), watch, time.perf_counter())

        asked: dict[str, Any] = {"format": format, "quality": quality, "overwrite": overwrite, "on_picture": on_picture}
        return draw_into(self, settings, drawn, folder, watch, **asked)

    def warm_up(self, count: int = 1, **options: Unpack[Options]) -> None:
        """Draw once and forget it, so that the next draw of this kind finds everything open and compiled."""
        self.generate(count, **options)

    def _inpainting(
        self,
        image: Picture,
        mask: Picture,
        count: int | None,
        seed: int,
        feather: int,
        fit: Fit | None,
        options: Options,
        watch: Watch,
    ) -> Plan:
        pixels, repaint = to_pixels(image), to_repaint(mask)
        return self._repainting(pixels, repaint, of_inpaint(pixels, repaint, feather, fit), count, seed, options, watch)

    def _outpainting(
        self,
        image: Picture,
        margins: tuple[int, int, int, int],
        count: int | None,
        seed: int,
        feather: int,
        fit: Fit | None,
        options: Options,
        watch: Watch,
    ) -> Plan:
        pixels = to_pixels(image)
        origin = of_outpaint(pixels, margins, feather, fit)
        factor = self.manifest.resolution(options.get("resolution")).factor
        whole = extended(pixels, fitted_margins((pixels.shape[1], pixels.shape[0]), margins, factor, fit))
        return self._repainting(*whole, origin, count, seed, options, watch)

    def _repainting(
        self,
        image: Pixels,
        mask: Repaint,
        origin: Origin,
        count: int | None,
        seed: int,
        options: Options,
        watch: Watch,
    ) -> Plan:
        resolution, latent = self.manifest.resolution(options.get("resolution")), self.manifest.latent
        pixels, repaint = check_pair(image, mask, resolution, origin.fit)
        settings = self._sized(count, seed, options, (pixels.shape[1], pixels.shape[0]))
        seen = seen_by_encoder(pixels, repaint, resolution.factor // latent.factor)
        tokens = self.encode([seen], cancel=watch.cancel)
        return inpainted(tokens, pixels, repaint, settings, resolution, latent, origin)

    def _sized(self, count: int | None, seed: int, options: Options, size: tuple[int, int]) -> Settings:
        """Return the settings of a draw that begins from an image of a size."""
        if options.get("size") not in (None, size):
            raise UsageError(f"size {options.get('size')}: an image is drawn on at its own size; leave it out")
        options["size"] = size
        return resolve(self.manifest, count, seed, options, draw_labels=False, limits=self.limits)

    def _steps_within(self, budget_ms: float, count: int | None, seed: int, options: Options) -> int:
        """Return how many steps a draw may have."""
        if options.get("steps") is not None:
            raise UsageError("budget_ms chooses the steps: leave steps out")
        seconds = number("budget_ms", budget_ms, 1, 3.6e6) / 1000
        settings = resolve(self.manifest, count, seed, options, limits=self.limits)
        if settings.value("steps") is None:
            raise UsageError(f"budget_ms: bundle {self.manifest.name} has no steps to choose; leave it out")
        factor = self.manifest.resolution(settings.resolution).factor
        tokens = settings.size[0] * settings.size[1] // factor**2
        most = self.manifest.noise.steps if self.manifest.noise else tokens

        def draw(steps: int) -> float:
            started = time.perf_counter()
            self.generate(count, seed, **{**options, "steps": steps})
            return time.perf_counter() - started

        return self._pace.steps_within(kind_of_draw(settings), seconds, most, draw)

    def _draw(self, plan: Plan, watch: Watch, started: float) -> Result:
        result = draw(self, plan, watch, started)
        steps = plan.settings.value("steps")
        if steps is not None and plan.origin.image is None and watch.on_step is None:
            self._pace.note(kind_of_draw(plan.settings), steps, time.perf_counter() - started)
        return result

    def _masked(self, settings: Settings) -> Int32:
        latent, (width, height) = self.manifest.latent, settings.size
        factor = self.manifest.resolution(settings.resolution).factor
        shape = (len(settings.seeds), height // factor, width // factor)
        return np.full(shape, latent.codes, np.int32)
