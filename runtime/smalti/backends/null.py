"""A backend without a network, for tests of programs that use smalti."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Backend, Session
from smalti.backends.signatures import Signature
from smalti.bundle.manifest import Precision, Role, TensorSpec, kind_of
from smalti.bundle.reader import Bundle
from smalti_kernels import random_words

_COLOURS, _FEATURES = 101, 102
"""Streams of noise that no sampler uses, so that colours and features do not depend on draws."""


class NullBackend(Backend):
    """A backend without a network: all tokens are equally likely, and each token is decoded to its own colour.

    ``smalti.load(backend=smalti.NullBackend())`` opens no graph and needs no inference library. Options, errors, seeds,
    sizes and timings are those of a real backend. Tokens follow from the seeds, so equal calls give equal pictures.
    Encoding a decoded picture gives its tokens back.
    """

    name: ClassVar[str] = "null"
    device = "none"
    runtime = "none"
    threads = 1

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        """Return a stand-in for a component, with the inputs and outputs that the manifest declares."""
        return _NullSession(bundle, role)


class _NullSession:
    def __init__(self, bundle: Bundle, role: Role) -> None:
        component, latent = bundle.manifest.components[role], bundle.manifest.latent
        self.role, self.latent, self.factor = role, latent, bundle.manifest.resolution_of(role).factor
        self.inputs = tuple(map(_signature, component.inputs))
        self.outputs = tuple(map(_signature, component.outputs))
        self.colours = _bytes(np.arange(latent.codes + 1), _COLOURS, 3)

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        if kind_of(self.role) in ("decoder", "preview"):
            pixels = self.colours[inputs["tokens"]]
            return [pixels.repeat(self.factor, axis=1).repeat(self.factor, axis=2)]
        if self.role == "encoder":
            return [self._encoded(inputs["images"], output) for output in self.outputs]
        logits = np.zeros((*self._rows(inputs), self.latent.codes), np.float32)
        if self.role == "denoiser":
            return [logits]
        past, new = inputs["past"], inputs["tokens"].shape[1]
        kept = np.zeros((*past.shape[:3], past.shape[3] + new, past.shape[4]), np.float32)
        return [logits, kept]

    def _rows(self, inputs: Arrays) -> tuple[int, ...]:
        return inputs["rows"].shape if self.role == "denoiser" else inputs["tokens"].shape[:1]

    def _encoded(self, images: NDArray[np.uint8], output: Signature) -> NDArray[Any]:
        factor, count = self.factor, len(images)
        height, width = images.shape[1] // factor, images.shape[2] // factor
        patches = images.reshape(count, height, factor, width, factor, 3).mean(axis=(2, 4))
        if output.dtype == "float32":
            features = patches.mean(axis=(1, 2)) + 1
            side = output.shape[-1] or 3
            spread = _bytes(np.arange(3), _FEATURES, side).astype(np.float64)
            vectors = features @ spread
            return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        far = ((patches[..., None, :] - self.colours[: self.latent.codes].astype(np.float32)) ** 2).sum(-1)
        return far.argmin(-1).astype(np.int32)


def _bytes(which: NDArray[np.int64], stream: int, count: int) -> NDArray[np.uint8]:
    """Return random bytes [N, count] of numbers [N], the same on every machine."""
    words = [random_words(which, stream=stream, step=index, y=0, x=0)[..., 0] for index in range(count)]
    return (np.stack(words, axis=-1) >> np.uint32(24)).astype(np.uint8)


def _signature(spec: TensorSpec) -> Signature:
    return Signature(spec.name, spec.dtype, tuple(side if isinstance(side, int) else None for side in spec.shape))
