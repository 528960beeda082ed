"""The public face of a loaded bundle: generate, stream, inpaint, encode, decode or embed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.base import Backend, ProviderReport, Session
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.device.plan import Program
from smalti.backends.signatures import mismatches
from smalti.bundle.manifest import PRIOR_ROLES, Resolution, Role
from smalti.bundle.reader import Bundle
from smalti.codec import grey
from smalti.codec.batches import check_tokens, decode_images, encode_images
from smalti.codec.embedding import embed_images
from smalti.codec.masks import Picture, check_pair, extended, matched, paste, patches, seen_by_encoder
from smalti.codec.on_device import run_decoded
from smalti.codec.tiles import Decode, Encode
from smalti.errors import BundleError, UsageError
from smalti.families.absorbing.sampler import fill_masked
from smalti.families.autoregressive.past import next_logits, past_shape
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.base import Run, Settings
from smalti.families.checks import whole
from smalti.families.registry import family_of
from smalti.families.settings import Options, check_defaults, resolve
from smalti.result import Result, Step, Timings

Int32 = NDArray[np.int32]
EMBEDDING = "embedding"
"""An encoder's second output."""
GIVEN = "the backend was given"
"""Why a generator has its backend, where nobody says more."""
NETWORK_BATCH = 16
"""Grids sent through the prior at once, which bounds its memory whatever the count."""


class Generator:
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
    ) -> None:
        """Open prior and decoder on a backend; ``requested`` is the provider that was asked for, for the report.

        Raises BundleError, ProviderUnavailable and UsageError as :func:`smalti.load` does.
        """
        check_defaults(bundle.manifest, str(bundle.path))
        self.backend = backend
        chosen, why_precision = self.backend.resolve_precision(bundle, precision)
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.report = ProviderReport(
            requested=requested,
            actual=self.backend.name,
            device=self.backend.device,
            requested_precision=precision,
            precision=chosen,
            why=f"{why}; {why_precision}",
            runtime=self.backend.runtime,
            threads=self.backend.threads,
        )
        self._sessions: dict[Role, Session] = {}
        self._lock = threading.Lock()
        self.session(PRIOR_ROLES[self.manifest.family])
        self._decoder(self.manifest.resolution())

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels that this bundle knows."""
        return self.manifest.classes

    def session(self, role: Role) -> Session:
        """Return a component, ready to run; it is opened when it is first asked for.

        Raises BundleError when its graph is damaged, ProviderUnavailable when the provider cannot run it.
        """
        with self._lock:
            if role not in self._sessions:
                precision = self.report.precision[role]
                session = self.backend.open(self.bundle, role, precision)
                # A manifest of other sizes than its graph's would be drawn by, to no picture of the model's.
                if wrong := mismatches(self.bundle, role, precision, session.inputs, session.outputs):
                    raise BundleError(wrong[0])
                if isinstance(self.backend, DeviceBackend):
                    session, why = self.backend.guarded(session, self.bundle, role, precision)
                    self.report = self.report.raised(role, why) if why else self.report
                self._sessions[role] = session
            return self._sessions[role]

    def generate(self, count: int | None = None, seed: int = 0, **options: Unpack[Options]) -> Result:
        """Draw images.

        Image i has seed ``seed + i`` (0 .. 2^64 - 1), or ``seeds[i]``. Its tokens are the same whether it is drawn
        alone or in any batch. :class:`~smalti.families.settings.Options` describes the options: ``seeds``, ``label``,
        ``steps``, ``temperature``, ``top_k``, ``top_p``, ``guidance``, ``schedule``, ``order``, ``choice_temperature``,
        ``remask``, ``final_temperature``, ``proportion``, ``min_steps``, ``resolution``, ``size``, ``stride``.

        Raises UsageError for an unknown option, an option of another family, or a value out of range.
        """
        started = time.perf_counter()
        settings = resolve(self.manifest, count, seed, options)
        return self._finish(self._masked(settings), settings, started)

    def stream(self, count: int | None = None, seed: int = 0, **options: Unpack[Options]) -> Iterator[Step]:
        """Draw images as :meth:`generate` does, and yield a :class:`Step` after every network call, or step.

        Stop iterating to cancel. The last step has the tokens that :meth:`generate` returns.
        """
        settings = resolve(self.manifest, count, seed, options)
        run = family_of(self.manifest).lay_out(self._masked(settings), settings, self.manifest)
        return self._steps(run, settings, Timings())

    def inpaint(
        self,
        image: Picture,
        mask: Picture,
        count: int | None = None,
        seed: int = 0,
        *,
        feather: int = 0,
        **options: Unpack[Options],
    ) -> Result:
        """Repaint the part of ``image`` where ``mask`` is white; the other pixels stay exactly what they are.

        ``image`` and ``mask`` are PIL images, or arrays: uint8 [H, W, 3] and bool [H, W] (True: repaint). Both have one
        size, and its sides are multiples of the resolution's factor. A token is drawn anew when any pixel of its patch
        is to be repainted (McKinney and Willcocks 2022, section 3.6). All other tokens are encoded from the image, in
        which the masked part is filled from its surroundings: nothing of what lies there is seen. The draw is
        conditioned on them, and its colours are matched to those around. An autoregressive bundle sees only those that
        come earlier in raster order. Without ``label``, the images are drawn without a label. The other options are
        those of :meth:`generate`.

        With ``feather`` above 0, pixels up to so far around the mask fade from the drawn picture into the image.

        Raises UsageError for sizes that do not fit, a mask that repaints nothing, or a value out of range; BundleError
        for a bundle without an encoder.
        """
        started = time.perf_counter()
        resolution, latent = self.manifest.resolution(options.get("resolution")), self.manifest.latent
        pixels, repaint = check_pair(image, mask, resolution)
        if whole("feather", feather) < 0:
            raise UsageError(f"feather {feather}: 0 or more pixels")
        size = pixels.shape[1], pixels.shape[0]
        if options.get("size") not in (None, size):
            raise UsageError(f"size {options.get('size')}: an image is repainted at its own size; leave it out")
        options["size"] = size
        settings = resolve(self.manifest, count, seed, options, draw_labels=False)
        tokens = self.encode([seen_by_encoder(pixels, repaint, resolution.factor // latent.factor)])
        tokens[0][patches(repaint, resolution.factor)] = latent.codes
        result = self._finish(np.repeat(tokens, len(settings.seeds), axis=0), settings, started)
        images = result.images
        if not latent.pixels:  # a decoder misses the colours of an image; grey levels are what they are
            images = [matched(drawn, pixels, repaint) for drawn in images]
        images = [paste(drawn, pixels, repaint, feather) for drawn in images]
        return replace(result, images=images, from_image=True)

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
        **options: Unpack[Options],
    ) -> Result:
        """Paint on beyond the edges of ``image``: ``left``, ``top``, ``right`` and ``bottom`` pixels more.

        The image's own pixels stay exactly what they are. The sides of the whole are multiples of the resolution's
        factor. All else is as in :meth:`inpaint`.

        Raises UsageError for sizes that do not fit or a value out of range, BundleError for a bundle without an
        encoder.
        """
        pixels, beyond = extended(image, (left, top, right, bottom))
        return self.inpaint(pixels, beyond, count, seed, feather=feather, **options)

    def encode(self, images: Sequence[Image.Image | NDArray[np.uint8]], resolution: int | None = None) -> Int32:
        """Encode images of one size to tokens int32 [N, h, w]. Sides are multiples of the resolution's factor.

        Images are PIL images (any mode) or uint8 [H, W, 3]. They are seen as pictures at ``resolution``, by default the
        bundle's first: a picture of 1024 pixels is one grid of tokens at the resolution 1024, and a canvas of four by
        four at 256. Memory is bounded, unless the bundle's ``latent.encoder_halo`` is None.

        Raises UsageError for sizes that do not fit and a resolution that the bundle does not have, BundleError for a
        bundle without an encoder.
        """
        return encode_images(self._encoder(), images, self.manifest.resolution(resolution), self.manifest.latent)

    def embed(self, images: Sequence[Image.Image | NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe images, of any sizes, by features float32 [N, D].

        Each row is the mean of the encoder's features over the image, scaled to length 1. The product of two rows says
        how alike two images are; it is at most 1. Images are PIL images (any mode) or uint8 [H, W, 3]. Each is brought
        to about the size of the bundle's own pictures, in its own proportions.

        Raises UsageError for no images, BundleError for a bundle whose encoder gives no features.
        """
        session = self.session("encoder") if "encoder" in self.manifest.components else None
        names = [output.name for output in session.outputs] if session else []
        if session is None or EMBEDDING not in names:
            raise BundleError(
                f"{self.bundle.path} has no features to embed images with: its encoder is missing or from before there "
                "were any; export it again from a run that has an autoencoder"
            )
        place = names.index(EMBEDDING)
        return embed_images(lambda pixels: session({"images": pixels})[place], images, self.manifest.latent)

    def decode(self, tokens: NDArray[np.integer[Any]], resolution: int | None = None) -> list[Image.Image]:
        """Decode tokens (integers [N, h, w] or [h, w], 0 .. K - 1) to images; h and w may have any size.

        ``resolution`` is one of the bundle's, by default the first. Memory is bounded, unless its ``halo`` is None.
        Such a decoder (a published VQGAN) takes every canvas as a whole, and the memory of its attention grows with the
        square of the number of tokens.

        Raises UsageError for another shape, tokens outside the codebook, or a resolution that the bundle does not have.
        """
        return self._decode(check_tokens(tokens, self.manifest.latent.codes), Timings(), resolution)

    def logits(self, tokens: Int32, labels: Int32, rows: Int32, *, time: int | None = None) -> NDArray[np.float32]:
        """Ask the prior for its logits, float32 [N, R, K]. Sampling, likelihoods and confidence start here.

        Args:
            tokens: int32 [N, h*w] in raster order; in an absorbing bundle K is the mask.
            labels: int32 [N], an index into :attr:`labels`; their number stands for no label.
            rows: int32 [N, R], the raster positions that are asked about.
            time: in a multinomial bundle, how noisy the tokens are, 0 .. T - 1; None in other bundles.

        Raises UsageError for an autoregressive bundle, which answers :meth:`next_logits`, and for a time that is
        missing, out of range or not wanted.
        """
        if PRIOR_ROLES[self.manifest.family] != "denoiser":
            raise UsageError(f"bundle {self.manifest.name} predicts one token after the other: use next_logits")
        steps = self.manifest.noise.steps if self.manifest.noise else 0
        if (time is not None or steps) and not (time is not None and 0 <= time < steps):
            allowed = f"0 .. {steps - 1}" if steps else "none, as its prior knows no times"
            raise UsageError(f"time {time}: bundle {self.manifest.name} takes {allowed}")
        denoiser = self.session("denoiser")
        inputs = {"tokens": tokens, "labels": labels, "rows": rows}
        inputs["times"] = np.full(len(tokens), time or 0, np.int32)  # left out where the graph does not take them
        parts = (slice(first, first + NETWORK_BATCH) for first in range(0, len(tokens), NETWORK_BATCH))
        logits = [denoiser({name: value[part] for name, value in inputs.items()})[0] for part in parts]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    def next_logits(self) -> NextLogits:
        """Return a function that asks an autoregressive prior for its logits of the next token.

        The function takes tokens int32 [N, n] and labels int32 [N], and returns logits [N, K]. It remembers what it
        read, so it serves one run at a time: see :func:`smalti.families.autoregressive.past.next_logits`.

        Raises UsageError for a bundle of another family, which answers :meth:`logits`.
        """
        if self.manifest.family != "autoregressive":
            raise UsageError(f"bundle {self.manifest.name} predicts many tokens at once: use logits")
        shape = past_shape(self.manifest.components["predictor"], str(self.bundle.path))
        return next_logits(self.session("predictor"), self.manifest.latent.codes, shape, NETWORK_BATCH)

    def _masked(self, settings: Settings) -> Int32:
        latent, (width, height) = self.manifest.latent, settings.size
        factor = self.manifest.resolution(settings.resolution).factor
        shape = (len(settings.seeds), height // factor, width // factor)
        return np.full(shape, latent.codes, np.int32)

    def _finish(self, start: Int32, settings: Settings, started: float) -> Result:
        """Draw what is masked in ``start`` (int32 [N, h, w]), and decode."""
        timings, tokens = Timings(), start
        run = family_of(self.manifest).lay_out(start, settings, self.manifest)
        if isinstance(self.backend, DeviceBackend) and run.program:
            tokens, images = self._on_device(self.backend, run.program(), settings, timings)
        else:
            for step in self._steps(run, settings, timings):
                tokens = step.tokens
            images = self._decode(tokens, timings, settings.resolution)
        timings.host = time.perf_counter() - started - timings.total
        return Result(images, tokens, settings, timings, self.report, self.bundle)

    def _on_device(
        self, backend: DeviceBackend, program: Program, settings: Settings, timings: Timings
    ) -> tuple[Int32, list[Image.Image]]:
        """Draw and decode on the device; return tokens and images."""
        started = time.perf_counter()
        latent, prior = self.manifest.latent, self.session(PRIOR_ROLES[self.manifest.family])
        with backend.run(program, prior, latent.grid) as run:
            timings.calls = sum(1 for _ in run.steps())
            tokens = run.result()
            timings.network = time.perf_counter() - started  # draws included
            wanted = self.manifest.resolution(settings.resolution)
            if latent.pixels or not tokens.size:
                return tokens, self._decode(tokens, timings, settings.resolution)
            images = run_decoded(run, backend.bound(self.session(wanted.decoder)), wanted)
            timings.decoder = time.perf_counter() - started - timings.network
        return tokens, images

    def _drawn(self, run: Run, timings: Timings) -> Iterator[Int32]:
        """Yield the grids after each step, wherever they are drawn."""
        if not (isinstance(self.backend, DeviceBackend) and run.program):
            yield from run.draw(self, timings.timed, self.backend.sample)
            return
        prior = self.session(PRIOR_ROLES[self.manifest.family])
        with self.backend.run(run.program(), prior, self.manifest.latent.grid) as drawn:
            for _ in drawn.steps():
                timings.calls += 1
                yield drawn.result()

    def _steps(self, run: Run, settings: Settings, timings: Timings) -> Iterator[Step]:
        """Draw call by call."""
        drawn = self._drawn(run, timings)
        codes, index = self.manifest.latent.codes, 0
        while True:
            started, before = time.perf_counter(), timings.network
            grids = next(drawn, None)
            timings.draw += time.perf_counter() - started - (timings.network - before)
            if grids is None:
                return
            yield Step(
                index,
                run.calls,
                grids,
                settings,
                lambda part: self._decode(part, Timings(), settings.resolution),
                self._preview,
                codes,
            )
            index += 1

    def _encoder(self) -> Encode:
        """What turns pixels (uint8 [N, H, W, 3]) into tokens (int32 [N, h, w])."""
        if self.manifest.latent.pixels:
            return partial(grey.to_tokens, codes=self.manifest.latent.codes)
        if "encoder" not in self.manifest.components:
            raise BundleError(f"{self.bundle.path} has no encoder")
        session = self.session("encoder")
        return lambda pixels: session({"images": pixels})[0]

    def _decoder(self, resolution: Resolution) -> Decode:
        """What turns tokens (int32 [N, h, w]) into pixels (uint8 [N, H, W, 3])."""
        if self.manifest.latent.pixels:
            return partial(grey.to_pixels, codes=self.manifest.latent.codes)
        session = self.session(resolution.decoder)
        return lambda tokens: session({"tokens": tokens})[0]

    def _preview(self, tokens: Int32) -> list[Image.Image]:
        """Rough images of tokens int32 [N, h, w] of 0 .. K, at the first resolution."""
        if "preview" not in self.manifest.components:
            return self._decode(fill_masked(tokens, self.manifest.latent.codes), Timings(), None)
        session, latent = self.session("preview"), self.manifest.latent
        return decode_images(lambda part: session({"tokens": part})[0], tokens, latent.factor, latent.preview_halo)

    def _decode(self, tokens: Int32, timings: Timings, resolution: int | None) -> list[Image.Image]:
        wanted = self.manifest.resolution(resolution)
        decoder = self._decoder(wanted)

        def decode(part: Int32) -> NDArray[np.uint8]:
            started = time.perf_counter()
            pixels = decoder(part)
            timings.decoder += time.perf_counter() - started
            return pixels

        return decode_images(decode, tokens, wanted.factor, wanted.halo)
