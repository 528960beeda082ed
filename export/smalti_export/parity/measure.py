"""Make inputs for every component from unseen images, and measure a variant's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from smalti.backends.base import Session
from smalti.bundle.manifest import PRIOR_ROLES, Manifest, Resolution, Role
from smalti.codec import grey
from smalti.errors import UsageError
from smalti.verification.comparison import compare
from smalti_export.graphs.graph_modules import wrap
from smalti_export.parity.certificate import Reference, torch_graph, torch_run
from smalti_export.parity.denoisers import (
    DenoiserReference,
    Drawing,
    compare_denoisers,
    denoiser_batches,
    denoiser_feeds,
)
from smalti_export.parity.predictors import (
    PredictorReference,
    Turns,
    compare_predictors,
    prefix_feeds,
    runs_compared,
    with_past,
)
from smalti_export.precision.activation_ranges import Feed
from smalti_export.source import Pair, released, seeing
from smalti_train.data import ImageSet
from smalti_train.models.pixels import PixelCodes
from smalti_train.models.preview_decoder import PreviewDecoder
from smalti_train.runs.config import AutoregressiveConfig
from smalti_train.trainers.preview import cost

BATCH, WHOLE_BATCH = 16, 4
"""Images per batch; the second number is for decoders whose layers span the image, which are the large ones."""
BATCHES = 16
"""Most batches of unseen images: the first half calibrates scales, the second half is measured."""
DRAWS = 10_000
"""Fewest draws that a variant is compared on; where images are few, grids are used again."""
CONTINUED = 4
"""Whole runs for each grid that predictors read with a past, which is large."""
PREVIEWS = 2
"""Batches on which previews are compared with the decoder's images."""

AnyReference = Reference | DenoiserReference | PredictorReference


@dataclass
class Figures:
    """Measure variants against the torch models, whose outputs are computed once, when first needed."""

    pair: Pair
    feeds: dict[Role, list[Feed]]
    drawing: Drawing | Turns
    references: dict[Role, AnyReference] = field(default_factory=dict[Role, AnyReference])

    def calibration(self, role: Role) -> list[Feed]:
        """Inputs for calibrating scales, spread evenly over the first half."""
        half, count = self.feeds[role][: len(self.feeds[role]) // 2], BATCHES // 2
        return half[:: max(1, len(half) // count)][:count]

    def measure(self, role: Role, session: Session, runs: bool = True) -> dict[str, float]:
        """Compare a component's ``session`` with the model on inputs that were not used for calibration.

        Whole ``runs`` of a prior take most of the time, and no tolerance applies to them.
        """

        match self.reference(role):
            case PredictorReference() as reference:
                return compare_predictors(reference, session, runs)
            case DenoiserReference() as reference:
                return compare_denoisers(reference, lambda inputs: session(inputs)[0], runs)
            case reference:
                return compare(reference.cases, session) | (self._preview if role == "preview" else {})

    @cached_property
    def _preview(self) -> dict[str, float]:
        """Figures of the preview decoder in any precision: its PSNR against the decoder, and its cost."""
        assert self.pair.preview is not None
        models = self.pair.preview, released(self.pair)[0]
        rough, sharp = (torch_graph(wrap("decoder", model)) for model in models)
        known = Reference("decoder", sharp, self.feeds["decoder"][len(self.feeds["decoder"]) // 2 :][:PREVIEWS])
        return {
            "decoder_psnr": compare(known.cases, rough)["psnr"],
            "cost": cost(self.pair.preview, self.pair.autoencoder),
        }

    def reference(self, role: Role) -> Reference | DenoiserReference | PredictorReference:
        """The torch model's outputs, computed on first use."""
        if role not in self.references:
            unseen = self.feeds[role][len(self.feeds[role]) // 2 :]
            if role == "predictor":
                assert isinstance(self.drawing, Turns)
                graph = torch_graph(wrap(role, self.pair.prior))
                self.references[role] = PredictorReference(graph, unseen, self.drawing, DRAWS)
            elif role == "denoiser":
                assert isinstance(self.drawing, Drawing)
                self.references[role] = DenoiserReference(torch_run(wrap(role, self.pair.prior)), unseen, self.drawing)
            else:
                model = self.pair.preview if role == "preview" else released(self.pair)[0]
                assert model is not None
                if role == "encoder":
                    assert not isinstance(model, PreviewDecoder)
                    model = seeing(self.pair, model)
                scale = next((one.factor for one in self.pair.resolutions if one.decoder == role), 0)
                graph = torch_graph(wrap(role, model, max(1, scale // self.pair.autoencoder.config.factor)))
                self.references[role] = Reference(role, graph, unseen)
        return self.references[role]


def make_figures(pair: Pair, images: ImageSet, record: Manifest) -> Figures:
    """Encode unseen images into inputs for every component; ``record`` says how tokens are drawn.

    Raises UsageError when there are too few images, or images too small.
    """
    config = pair.prior_run.model
    pixels = _batches(pair, images)
    tokens = list(map(_encoder(pair), pixels))
    count, batch = len(tokens) * len(tokens[0]), len(tokens[0])
    grids = np.concatenate(tokens).reshape(count, -1)
    labels = _labels(pair, images, count)
    feeds: dict[Role, list[Feed]] = {
        "encoder": [{"images": part} for part in pixels],
        **{one.decoder: [{"tokens": part} for part in _fewer(tokens, one, pair)] for one in pair.resolutions},
        "preview": [{"tokens": part} for part in _unfinished(tokens, config.codes)],
    }
    role = PRIOR_ROLES[pair.family]
    if isinstance(config, AutoregressiveConfig):
        past = 2 * config.layers, config.heads, config.width // config.heads
        turns = Turns(record, past, runs_compared(pair.grid, past))
        prefixes = prefix_feeds(grids, labels, config.codes, past, len(tokens), batch)
        feeds[role] = with_past(torch_graph(wrap(role, pair.prior)), prefixes, max(1, turns.grids // CONTINUED))
        return Figures(pair, feeds, turns)
    drawing = Drawing(record)
    masks = drawing.masks
    feeds[role] = denoiser_feeds(
        grids,
        labels,
        config.codes,
        config.classes,
        max(len(tokens), 2 * denoiser_batches(DRAWS, batch, grids.shape[1], masks=masks)),
        batch,
        masks=masks,
        noise=record.noise,
    )
    return Figures(pair, feeds, drawing)


def _encoder(pair: Pair) -> Callable[[NDArray[np.uint8]], NDArray[np.int32]]:
    """A function that encodes pixels uint8 [n, H, W, 3] to tokens int32 [n, h, w]."""
    if isinstance(pair.autoencoder, PixelCodes):
        codes = pair.autoencoder.config.codes
        return lambda pixels: grey.to_tokens(pixels, codes)
    run = torch_run(wrap("encoder", released(pair)[0]))
    return lambda pixels: run({"images": pixels})


def _fewer(tokens: list[NDArray[np.int32]], resolution: Resolution, pair: Pair) -> list[NDArray[np.int32]]:
    """Batches with fewer grids where pictures are larger: as many pixels in each, but at least one picture."""
    scale = resolution.factor // pair.autoencoder.config.factor
    return [part[: max(1, len(part) // scale**2)] for part in tokens]


def _unfinished(tokens: list[NDArray[np.int32]], codes: int) -> list[NDArray[np.int32]]:
    """The same batches with some tokens not drawn yet, as when a preview is shown."""
    generator = np.random.default_rng(0)
    shares = ((np.arange(len(part)) / len(part))[:, None, None] for part in tokens)
    return [
        np.where(generator.random(part.shape) < lost, codes, part).astype(np.int32)
        for part, lost in zip(tokens, shares)
    ]


def _batches(pair: Pair, images: ImageSet) -> list[NDArray[np.uint8]]:
    """Batches uint8 [n, H, W, 3] with the same n; H and W fit the prior's grid."""
    batch = min(WHOLE_BATCH if pair.halo is None else BATCH, len(images) // 2)
    if batch == 0:
        raise UsageError(f"export measures on unseen images and needs 2; the validation split has {len(images)}")
    height, width = (side * pair.autoencoder.config.factor for side in pair.grid)
    if images.size < max(height, width):
        raise UsageError(
            f"the images are {images.size} pixels wide and high, and the pair's are {height}x{width}; the run's "
            "data must be at least as large"
        )
    count = min(len(images), BATCHES * batch) // batch
    return [np.ascontiguousarray(images.images[i * batch : (i + 1) * batch, :height, :width]) for i in range(count)]


def _labels(pair: Pair, images: ImageSet, count: int) -> NDArray[np.int32]:
    """Labels int32 [count]: the images' own, or classes in turn when an imported prior has other classes."""
    classes = pair.prior_run.model.classes
    if not classes:
        return np.zeros(count, np.int32)
    if pair.prior_run.imported is None:
        return images.labels[:count]
    return (np.arange(count) % classes).astype(np.int32)
