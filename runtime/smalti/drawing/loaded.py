"""A bundle on a backend: its components, and what they say of images and tokens."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.backends.base import Backend, ProviderReport, Session
from smalti.backends.device.backend import DeviceBackend
from smalti.backends.forked import renewed_after_fork
from smalti.backends.signatures import mismatches
from smalti.bundle.manifest import PRIOR_ROLES, Role
from smalti.bundle.reader import Bundle
from smalti.codec import grey
from smalti.codec.batches import check_tokens, encode_images
from smalti.codec.embedding import embed_images
from smalti.codec.fit import Fit
from smalti.codec.pictures import Picture
from smalti.codec.tiles import Box, Encode, check_box, seen_by_box
from smalti.drawing.draw import decoded, decoder_of
from smalti.drawing.elsewhere import GIVEN, Saved, opened_again, saved
from smalti.drawing.result import Timings
from smalti.drawing.watch import Watch
from smalti.errors import BundleError, UsageError
from smalti.families.autoregressive.past import next_logits, past_shape
from smalti.families.autoregressive.sampler import NextLogits
from smalti.families.limits import Limits
from smalti.families.settings import check_defaults

Int32 = NDArray[np.int32]
EMBEDDING = "embedding"
"""An encoder's second output."""
NETWORK_BATCH = 16
"""Grids sent through the prior at once, which bounds its memory whatever the count."""


class Loaded:
    """A bundle on a backend: its components, and what they say of images and tokens."""

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
        check_defaults(bundle.manifest, str(bundle.path))
        self.limits = Limits() if limits is None else limits
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
        self.process = os.getpid()
        """The one that opened it."""
        renewed_after_fork(self)
        self.session(PRIOR_ROLES[self.manifest.family])
        decoder_of(self, self.manifest.resolution())

    def __reduce__(self) -> tuple[Callable[..., Loaded], tuple[type[Loaded], Saved]]:
        """Pickle and copy where the bundle lies and how it was loaded; it is opened again, if it is still the same."""
        return opened_again, (type(self), saved(self))

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

    def encode(
        self,
        images: Sequence[Picture],
        resolution: int | None = None,
        *,
        fit: Fit | None = None,
        cancel: threading.Event | None = None,
    ) -> Int32:
        """Encode images of one size to tokens int32 [N, h, w]. Sides are multiples of the resolution's factor.

        Images are PIL images of any mode or arrays such as uint8 [H, W, 3]; :mod:`smalti.codec.pictures` says how they
        are read. With ``fit``, each is brought to a size that fits: "pad" continues its right and lower edge, "crop"
        cuts as much from both sides, "stretch" resizes. They are seen as pictures at ``resolution``, by default the
        bundle's first: a picture of 1024 pixels is one grid of tokens at the resolution 1024, and a canvas of four by
        four at 256. Memory is bounded, unless the bundle's ``latent.encoder_halo`` is None.

        Raises UsageError for sizes that do not fit and a resolution that the bundle does not have, BundleError for a
        bundle without an encoder, Cancelled once ``cancel`` is set.
        """
        encoder = Watch(cancel).guarded(self._encoder())
        return encode_images(encoder, images, self.manifest.resolution(resolution), self.manifest.latent, fit)

    def embed(self, images: Sequence[Picture], *, cancel: threading.Event | None = None) -> NDArray[np.float32]:
        """Describe images, of any sizes, by features float32 [N, D].

        Each row is the mean of the encoder's features over the image, scaled to length 1. The product of two rows says
        how alike two images are; it is at most 1. Images are read as in :meth:`encode`. Each is brought to about
        the size of the bundle's own pictures, in its own proportions.

        Raises UsageError for no images, BundleError for a bundle whose encoder gives no features, Cancelled once
        ``cancel`` is set.
        """
        session = self.session("encoder") if "encoder" in self.manifest.components else None
        names = [output.name for output in session.outputs] if session else []
        if session is None or EMBEDDING not in names:
            raise BundleError(
                f"{self.bundle.path} has no features to embed images with: its encoder is missing or from before there "
                "were any; export it again from a run that has an autoencoder"
            )
        place = names.index(EMBEDDING)

        def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return session({"images": pixels})[place]

        return embed_images(Watch(cancel).guarded(describe), images, self.manifest.latent)

    def decode(
        self,
        tokens: NDArray[np.integer[Any]],
        resolution: int | None = None,
        *,
        box: Box | None = None,
        cancel: threading.Event | None = None,
    ) -> list[Image.Image]:
        """Decode tokens (integers [N, h, w] or [h, w], 0 .. K - 1) to images; h and w may have any size.

        ``resolution`` is one of the bundle's, by default the first. ``box`` (left, top, right, bottom, in pixels) asks
        for a part of each picture, as ``crop(box)`` of PIL would cut it; only the tokens around it are decoded.

        Memory is bounded, unless the resolution's ``halo`` is None. Such a decoder (a published VQGAN) takes every
        canvas as a whole, and the memory of its attention grows with the square of the number of tokens.

        Raises UsageError for another shape, tokens outside the codebook, a box outside the picture, or a resolution
        that the bundle does not have; Cancelled once ``cancel`` is set.
        """
        grids = check_tokens(tokens, self.manifest.latent.codes)
        if box is None:
            return decoded(self, grids, Timings(), resolution, Watch(cancel))
        wanted = self.manifest.resolution(resolution)
        asked = check_box(box, grids.shape[2] * wanted.factor, grids.shape[1] * wanted.factor)
        seen, inner = seen_by_box(grids, asked, wanted.factor, wanted.halo)
        return [image.crop(inner) for image in decoded(self, seen, Timings(), resolution, Watch(cancel))]

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
        denoiser = self._sessions.get("denoiser") or self.session("denoiser")  # a lock at every step is for nothing
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

    def _encoder(self) -> Encode:
        """What turns pixels (uint8 [N, H, W, 3]) into tokens (int32 [N, h, w])."""
        if self.manifest.latent.pixels:
            return partial(grey.to_tokens, codes=self.manifest.latent.codes)
        if "encoder" not in self.manifest.components:
            raise BundleError(f"{self.bundle.path} has no encoder")
        session = self.session("encoder")
        return lambda pixels: session({"images": pixels})[0]
