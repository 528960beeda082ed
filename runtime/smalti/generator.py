"""The public face of a bundle: load it, generate, stream, inpaint, encode, decode."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti import absorbing
from smalti.backend import (
    OnnxSession,
    ProviderReport,
    default_threads,
    resolve_precision,
    resolve_provider,
    runtime_version,
)
from smalti.bundle import Bundle, open_bundle
from smalti.errors import BundleError, UsageError
from smalti.images import to_array
from smalti.inpainting import Picture, check_pair, paste, patches
from smalti.manifest import Role
from smalti.result import Result, Step, Timings
from smalti.schedule import make_schedule
from smalti.settings import Options, Settings, resolve
from smalti.tiles import decode_tiled

Int32 = NDArray[np.int32]
NETWORK_BATCH = 16
"""Grids sent through the denoiser at once, which bounds its memory whatever the count."""
DECODE_TOKENS = 4096
"""Tokens decoded in one call of the decoder, which bounds its memory; sixteen images of 256x256 at f=16."""


def load(
    bundle: str | Path | Bundle | None = None,
    provider: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Generator:
    """Open a bundle and get it ready to run.

    ``bundle``: a path (folder or ``.zip``) or an embedded name; None takes the embedded default. ``provider``: ``auto``
    or ``cpu``. ``precision``: ``auto``, ``fp32``, ``fp16`` or ``int8``. ``threads``: cores to use, all by default.

    Raises BundleError for a bundle that is missing or damaged, ProviderUnavailable for a provider that cannot run here,
    UsageError for a value outside these.
    """
    if not isinstance(bundle, str | Path | Bundle | None):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"bundle {bundle!r}: a path or a name is needed")
    return Generator(bundle if isinstance(bundle, Bundle) else open_bundle(bundle), provider, precision, threads)


class Generator:
    """A loaded bundle. Components become ready when first used; methods may be called from several threads."""

    def __init__(self, bundle: Bundle, provider: str, precision: str, threads: int | None) -> None:
        if threads is not None and not (isinstance(threads, int) and threads >= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"threads {threads!r}: a whole number, at least 1, is needed")
        actual, why = resolve_provider(provider)
        chosen, why_precision = resolve_precision(bundle, precision)
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.report = ProviderReport(
            requested=provider,
            actual=actual,
            device="CPU",
            requested_precision=precision,
            precision=chosen,
            why=f"{why}; {why_precision}",
            runtime=runtime_version(),
            threads=threads or default_threads(),
        )
        self._sessions: dict[Role, OnnxSession] = {}
        self._lock = threading.Lock()
        self._session("denoiser")
        self._session("decoder")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels this bundle knows."""
        return self.manifest.classes

    def _session(self, role: Role) -> OnnxSession:
        with self._lock:
            if role not in self._sessions:
                self._sessions[role] = OnnxSession(self.bundle, role, self.report.precision[role], self.report.threads)
            return self._sessions[role]

    def generate(self, count: int | None = None, seed: int = 0, **options: Unpack[Options]) -> Result:
        """Draw images.

        Image i has seed ``seed + i`` (0 .. 2^64 - 1), or ``seeds[i]``, and the same tokens whether it is drawn alone or
        in any batch. The options are those of :class:`smalti.settings.Options`: ``seeds``, ``label``, ``steps``,
        ``temperature``, ``guidance``, ``schedule``, ``order``.

        Raises UsageError for an option or a value outside these.
        """
        started = time.perf_counter()
        settings = resolve(self.manifest, count, seed, options)
        return self._finish(self._masked(len(settings.seeds)), settings, started)

    def stream(self, count: int | None = None, seed: int = 0, **options: Unpack[Options]) -> Iterator[Step]:
        """Draw images as :meth:`generate` does, giving the grids after every network call.

        Stop iterating to cancel. The last step's tokens are those that :meth:`generate` returns.
        """
        settings = resolve(self.manifest, count, seed, options)
        return self._steps(self._masked(len(settings.seeds)), settings, Timings())

    def inpaint(
        self, image: Picture, mask: Picture, count: int | None = None, seed: int = 0, **options: Unpack[Options]
    ) -> Result:
        """Repaint the part of ``image`` that ``mask`` shows in white; the other pixels stay exactly what they are.

        ``image`` and ``mask`` are PIL images or arrays of one size, that of the bundle's own images: uint8 [H, W, 3]
        and bool [H, W] (True: repaint). A token is drawn anew when any pixel of its patch is to be repainted (paper
        003, section 4.4); the others are those of the image, and condition the draw. Where no ``label`` is given, the
        image says what it is. Options as for :meth:`generate`.

        Raises UsageError for sizes that do not fit, a mask that repaints nothing, or a value outside what is allowed.
        """
        started = time.perf_counter()
        settings = resolve(self.manifest, count, seed, options, draw_labels=False)
        latent = self.manifest.latent
        pixels, repaint = check_pair(image, mask, latent)
        tokens = self.encode([pixels])
        tokens[0][patches(repaint, latent.factor)] = latent.codes
        result = self._finish(np.repeat(tokens, len(settings.seeds), axis=0), settings, started)
        images = [paste(drawn, pixels, repaint) for drawn in result.images]
        return replace(result, images=images, from_image=True)

    def encode(self, images: Sequence[Image.Image | NDArray[np.uint8]]) -> Int32:
        """Tokens (int32 [N, h, w]) of images of one size, whose sides are multiples of the bundle's factor.

        Images are PIL images (any mode) or uint8 [H, W, 3]. Raises UsageError for sizes that do not fit.
        """
        if "encoder" not in self.manifest.components:
            raise BundleError(f"{self.bundle.path} has no encoder")
        if isinstance(images, Image.Image):
            raise UsageError("encode takes a list of images; put the one in brackets")
        factor = self.manifest.latent.factor
        arrays = [to_array(image) for image in images]
        if not arrays or any(array.shape != arrays[0].shape for array in arrays):
            raise UsageError("encode takes one or more images, all of one size")
        height, width, _ = arrays[0].shape
        if height % factor or width % factor or not height or not width:
            near = [max(1, round(side / factor)) * factor for side in (width, height)]
            raise UsageError(
                f"image size {width}x{height}: sides must be multiples of {factor}; resize to {near[0]}x{near[1]}"
            )
        batch = max(1, DECODE_TOKENS * factor**2 // (height * width))
        encoder = self._session("encoder")
        parts = [encoder({"images": np.stack(arrays[i : i + batch])})[0] for i in range(0, len(arrays), batch)]
        return np.concatenate(parts)

    def decode(self, tokens: NDArray[np.integer[Any]]) -> list[Image.Image]:
        """Images of tokens (integers [N, h, w] or [h, w], 0 .. K - 1); any h and w, in bounded memory.

        Raises UsageError for another shape or tokens outside the codebook.
        """
        grids = np.asarray(tokens)
        grids = grids[None] if grids.ndim == 2 else grids
        codes = self.manifest.latent.codes
        if grids.ndim != 3 or grids.dtype.kind not in "iu" or not grids.size:
            raise UsageError(
                f"tokens must be integers [N, h, w] with no side empty; got {grids.dtype} {list(grids.shape)}"
            )
        if grids.min() < 0 or grids.max() >= codes:
            raise UsageError(f"tokens must be 0 .. {codes - 1}; got {grids.min()} .. {grids.max()}")
        return self._decode(grids.astype(np.int32), Timings())

    def logits(self, tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
        """Ask the prior itself: float32 [N, R, K], what it expects at raster positions ``rows`` (int32 [N, R]).

        ``tokens`` int32 [N, h*w], K where masked; ``labels`` int32 [N], an index into :attr:`labels`, or their number
        for none. Sampling, likelihoods and confidence all start here.
        """
        denoiser = self._session("denoiser")
        parts = (slice(first, first + NETWORK_BATCH) for first in range(0, len(tokens), NETWORK_BATCH))
        logits = [denoiser({"tokens": tokens[p], "labels": labels[p], "rows": rows[p]})[0] for p in parts]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def _masked(self, count: int) -> Int32:
        return np.full((count, *self.manifest.latent.grid), self.manifest.latent.codes, np.int32)

    def _finish(self, start: Int32, settings: Settings, started: float) -> Result:
        """Draw what is masked in ``start`` (int32 [N, h, w]), and decode."""
        timings, tokens = Timings(), start
        for step in self._steps(start, settings, timings):
            tokens = step.tokens
        images = self._decode(tokens, timings)
        timings.host = time.perf_counter() - started - timings.total
        return Result(images, tokens, settings, timings, self.report, self.bundle)

    def _steps(self, start: Int32, settings: Settings, timings: Timings) -> Iterator[Step]:
        no_label = len(self.labels)

        def network(tokens: Int32, labels: Int32, rows: Int32) -> NDArray[np.float32]:
            started = time.perf_counter()
            logits = self.logits(tokens, labels, rows)
            timings.network += time.perf_counter() - started
            timings.calls += 1
            return logits

        count, *grid = start.shape
        tokens = start.reshape(count, -1)
        schedule = make_schedule(
            settings.seeds,
            (grid[0], grid[1]),
            settings.steps,
            settings.schedule,
            settings.order,
            wanted=tokens == self.manifest.latent.codes,
        )
        indices = [no_label if name is None else self.labels.index(name) for name in settings.labels]
        grids = absorbing.run(
            network,
            tokens,
            schedule,
            seeds=settings.seeds,
            labels=np.asarray(indices, np.int32),
            width=grid[1],
            temperature=settings.temperature,
            guidance=settings.guidance,
            no_label=no_label,
        )
        for index in range(schedule.calls):
            started, before = time.perf_counter(), timings.network
            tokens = next(grids)
            timings.draw += time.perf_counter() - started - (timings.network - before)
            yield Step(
                index,
                schedule.calls,
                tokens.reshape(-1, *grid),
                settings,
                lambda grids: self._decode(grids, Timings()),
                self.manifest.latent.codes,
            )

    def _decode(self, tokens: Int32, timings: Timings) -> list[Image.Image]:
        latent = self.manifest.latent
        decoder = self._session("decoder")

        def decode(part: Int32) -> NDArray[np.uint8]:
            started = time.perf_counter()
            (pixels,) = decoder({"tokens": part})
            timings.decoder += time.perf_counter() - started
            return pixels

        each = max(1, DECODE_TOKENS // (tokens.shape[1] * tokens.shape[2]))
        batches = (tokens[first : first + each] for first in range(0, len(tokens), each))
        return [
            Image.fromarray(image)
            for batch in batches
            for image in decode_tiled(decode, batch, latent.factor, latent.halo)
        ]
