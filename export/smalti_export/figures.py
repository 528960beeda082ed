"""Unseen images and their tokens as inputs of every component, and what a variant's outputs for them are worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti.backend import Session
from smalti.errors import UsageError
from smalti.manifest import PRIORS, Role, SamplerDefaults
from smalti_export.pair import Pair, released
from smalti_export.parity import (
    Drawing,
    Reference,
    compare_decoders,
    compare_denoisers,
    compare_encoders,
    torch_run,
)
from smalti_export.predictors import PredictorReference, Turns, compare_predictors, prefix_feeds, torch_graph
from smalti_export.quantize import masked_feeds
from smalti_export.ranges import Feed
from smalti_export.wrappers import wrap
from smalti_train.config import AutoregressiveConfig
from smalti_train.data import ImageSet

BATCH, WHOLE_BATCH = 16, 4
"""Images per batch; fewer where the decoder's layers span the image, as those are the large ones."""
BATCHES = 16
"""Of unseen images: scales come from the first half, figures from the second (some 16,000 draws at 16x16)."""


@dataclass
class Figures:
    """Measures variants against the torch models; their own outputs are computed once, when first needed."""

    pair: Pair
    feeds: dict[Role, list[Feed]]
    drawing: Drawing | Turns
    references: dict[Role, Reference | PredictorReference] = field(default_factory=dict)

    def calibration(self, role: Role) -> list[Feed]:
        """Inputs from which scales may come."""
        return self.feeds[role][: len(self.feeds[role]) // 2]

    def measure(self, role: Role, session: Session) -> dict[str, float]:
        """Compare a component's ``session`` with the model, on inputs that no scale came from."""
        reference = self._reference(role)
        if isinstance(reference, PredictorReference):
            return compare_predictors(reference, session)

        def variant(inputs: Feed) -> NDArray[Any]:
            return session(inputs)[0]

        compare = {"encoder": compare_encoders, "decoder": compare_decoders, "denoiser": compare_denoisers}[role]
        return compare(reference, variant)

    def _reference(self, role: Role) -> Reference | PredictorReference:
        if role not in self.references:
            unseen = self.feeds[role][len(self.feeds[role]) // 2 :]
            if isinstance(self.drawing, Turns) and role == "predictor":
                graph = torch_graph(wrap(role, self.pair.prior))
                self.references[role] = PredictorReference(graph, unseen, self.drawing)
            elif isinstance(self.drawing, Drawing) and role == "denoiser":
                self.references[role] = Reference(torch_run(wrap(role, self.pair.prior)), unseen, self.drawing)
            else:
                run = torch_run(wrap(role, released(self.pair.autoencoder)[0]))
                self.references[role] = Reference(run, unseen)
        return self.references[role]


def make_figures(pair: Pair, images: ImageSet, defaults: SamplerDefaults) -> Figures:
    """Encode unseen images and lay out how tokens are drawn; UsageError when there are too few images."""
    config = pair.prior_run.model
    pixels = _batches(pair, images)
    encode = torch_run(wrap("encoder", released(pair.autoencoder)[0]))
    tokens = [encode({"images": part}) for part in pixels]
    count, batch = len(tokens) * len(tokens[0]), len(tokens[0])
    grids = np.concatenate(tokens).reshape(count, -1)
    labels = _labels(pair, images, count)
    feeds: dict[Role, list[Feed]] = {
        "encoder": [{"images": part} for part in pixels],
        "decoder": [{"tokens": part} for part in tokens],
    }
    role = PRIORS[pair.family]
    if isinstance(config, AutoregressiveConfig):
        past = 2 * config.layers, config.heads, config.width // config.heads
        turns = Turns(
            pair.grid, config.codes, config.classes, past, defaults.temperature, defaults.top_k, defaults.top_p
        )
        feeds[role] = prefix_feeds(grids, labels, config.codes, past, len(tokens), batch)
        return Figures(pair, feeds, turns)
    feeds[role] = masked_feeds(grids, labels, config.mask, config.classes, len(tokens), batch)
    drawing = Drawing(pair.grid, config.codes, config.classes, defaults)
    return Figures(pair, feeds, drawing)


def _batches(pair: Pair, images: ImageSet) -> list[NDArray[np.uint8]]:
    """uint8 [n, H, W, 3], all of one n, H and W those of the prior's grid."""
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
    """int32 [count]: the images' own labels, or classes in turn where the prior's are not those of the images."""
    classes = pair.prior_run.model.classes
    if not classes:
        return np.zeros(count, np.int32)
    if pair.prior_run.imported is None:
        return images.labels[:count]
    return (np.arange(count) % classes).astype(np.int32)
