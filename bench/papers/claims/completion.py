"""Figure 8: half of a picture from the other half, where an autoregressive model reads what is given and where not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from claims import multinomial_priors, priors
from claims.common import Row, features
from claims.multinomial_sizes import MultinomialBench
from smalti.families.registry import family_of
from smalti.families.settings import Options, resolve
from smalti_train.evaluation.metrics import frechet_distance, psnr
from smalti_train.evaluation.subject import open_subject
from smalti_train.runs.loading import Prior, load_prior
from smalti_train.runs.torch_sampling import TorchPrior, described

Int32 = NDArray[np.int32]
Pixels = NDArray[np.uint8]
BATCH = 32
HALVES = {"the lower half": "upper", "the upper half": "lower"}
"""What is given, and what is drawn. Raster order comes to what is given last in the first case, too late to heed it."""
SHOWN = 8
"""Pictures of each row of the sheets."""


def completion(bench: MultinomialBench) -> None:
    """Three families complete the same unseen pictures; nobody is told a label."""
    runs: dict[str, Callable[[], Path]] = {
        "multinomial": lambda: multinomial_priors.prior(bench),
        "absorbing": lambda: priors.best(bench.earlier),
        "autoregressive": lambda: priors.prior(bench.earlier, "autoregressive", bench.scale.seeds[0]),
    }
    pictures = bench.real()[0]
    pictures = pictures[:: max(1, len(pictures) // bench.sizes.completed)][: bench.sizes.completed]
    for given, half in HALVES.items():
        rows = [pictures[:: max(1, len(pictures) // SHOWN)][:SHOWN]]
        rows.append(np.where(_region(rows[0], half), np.uint8(128), rows[0]))
        for family, run in runs.items():

            def measure(run: Callable[[], Path] = run, half: str = half) -> Row:
                return compared(bench, pictures, _completed(run(), pictures, half, bench.sizes.cost_steps), half)

            bench.row("completion", {"given": given, "family": family}, measure)
            rows.append(_completed(run(), rows[0], half, bench.sizes.cost_steps))
        bench.save_sheet(f"completion-{half}", np.concatenate(rows), SHOWN)


def compared(bench: MultinomialBench, pictures: Pixels, completed: Pixels, half: str) -> Row:
    """Completed pictures beside the originals: PSNR of what was drawn, and distances of whole and of drawn parts."""
    drawn, true = (_part(images, half) for images in (completed, pictures))
    return {
        "images": len(pictures),
        "psnr_of_region_db": float(psnr(drawn, true).mean()),
        "fid_style": frechet_distance(bench.real_features[0], features(completed)),
        "fid_style_of_region": frechet_distance(features(_part(bench.real()[0], half)), features(drawn)),
    }


def _region(images: Pixels, half: str) -> NDArray[np.bool_]:
    """True (bool [1, H, W, 1]) in the half that is drawn."""
    _, height, width, _ = images.shape
    lower = np.arange(height) >= height // 2
    return np.broadcast_to((lower if half == "lower" else ~lower)[None, :, None, None], (1, height, width, 1))


def _part(images: Pixels, half: str) -> Pixels:
    """The half that is drawn, above its mirror image: a square, as the features' network wants."""
    middle = images.shape[1] // 2
    cut = images[:, middle:] if half == "lower" else images[:, :middle]
    return np.concatenate((cut, cut[:, ::-1]), axis=1)


def _completed(run: Path, pictures: Pixels, half: str, steps: int) -> Pixels:
    """Pictures with one half drawn anew (uint8 [N, H, W, 3]), as the autoencoder of ``run`` decodes them."""
    prior, _ = load_prior(run)
    subject = open_subject(str(run))
    tokens = subject.encode(pictures).astype(np.int32)
    free = np.zeros(tokens.shape, np.bool_)
    middle = tokens.shape[1] // 2
    free[:, middle:] = half == "lower"
    free[:, :middle] = half == "upper"
    seeds = np.arange(len(tokens))
    parts = [slice(first, first + BATCH) for first in range(0, len(tokens), BATCH)]
    return subject.decode(np.concatenate([_drawn(prior, tokens[p], free[p], seeds[p].tolist(), steps) for p in parts]))


def _drawn(prior: Prior, tokens: Int32, free: NDArray[np.bool_], seeds: list[int], steps: int) -> Int32:
    """Grids int32 [N, h, w] with what is ``free`` drawn anew, without a label, as the prior's family does."""
    manifest = described("completion", prior.config, 1, [str(index) for index in range(prior.config.classes)])
    family = family_of(manifest)
    options = Options(seeds=seeds, steps=steps) if "steps" in family.options else Options(seeds=seeds)
    settings = resolve(manifest, None, 0, options, draw_labels=False)
    start = np.where(free, prior.config.codes, tokens).astype(np.int32)
    *_, drawn = family.lay_out(start, settings, manifest).draw(TorchPrior(prior))
    return drawn
