"""Priors over one VQGAN's tokens: figure 5's objectives, table 4's two families."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from claims.autoencoders import variant
from claims.common import Bench, Row, curve
from claims.samples import DISTANCES, measured, part, strip
from smalti_train.evaluation.subject import open_subject
from smalti_train.runs.config import PriorRun
from smalti_train.trainers.prior import train_prior


def prior(bench: Bench, objective: str, seed: int) -> Path:
    """The run of a prior, trained unless it is there. All have the same transformer, tokens, steps and batches."""
    base = bench.scale.autoregressive if objective == "autoregressive" else bench.scale.absorbing
    loop = dataclasses.replace(base.loop, seed=seed)
    config: PriorRun = dataclasses.replace(base, loop=loop, objective=objective)
    run = bench.work / f"prior-{objective}-{seed}"
    shared = bench.work / "tokens"

    def training() -> None:
        if shared.exists() and not (run / "tokens").exists():
            shutil.copytree(shared, run / "tokens")  # the same images by the same encoder: no need to encode again
        train_prior(config, run, autoencoder)
        if not shared.exists():
            shutil.copytree(run / "tokens", bench.work / ".tokens", dirs_exist_ok=True)
            (bench.work / ".tokens").rename(shared)

    autoencoder = variant(bench, "both")
    bench.train(run, loop.steps, training)
    return run


def best(bench: Bench) -> Path:
    """The prior that everything else is drawn from: that of Bond-Taylor et al. 2021."""
    return prior(bench, "reweighted", bench.scale.seeds[0])


def figure5(bench: Bench) -> None:
    """Bounds on unseen images' likelihood while each objective trains."""
    for objective, seed in bench.scale.trainings:
        run = prior(bench, objective, seed)

        def measure(run: Path = run) -> Row:
            bounds = curve(run, "validation/bits_per_dim")
            return {"bits_per_dim": bounds[-1][1], "curve": bounds}

        bench.row("figure5", {"objective": objective, "seed": seed}, measure)


def table4(bench: Bench) -> None:
    """Both families with the same transformer: likelihood of unseen images, and samples, one step for each token."""
    strips: list[np.ndarray] = []
    for objective in ("autoregressive", "reweighted"):
        for seed in bench.scale.seeds:
            run = prior(bench, objective, seed)
            options = {} if objective == "autoregressive" else {"steps": bench.scale.tokens}

            def measure(run: Path = run, options: dict = options) -> Row:
                drawn = measured(bench, run, options)
                figures = part(drawn, *DISTANCES, "samples")
                bounds = curve(run, "validation/bits_per_dim")
                lowest = min(bounds, key=lambda point: point[1])
                bits = {"bits_per_token": likelihood(bench, run), "lowest_validation": lowest, "curve": bounds}
                return {**bits, **figures, "seconds_per_image": drawn["seconds_per_image"]}

            family = "autoregressive" if objective == "autoregressive" else "absorbing"
            bench.row("table4", {"family": family, "seed": seed}, measure)
            strips.append(strip(bench, run, options, rows=2))
    bench.save_sheet("table4", np.concatenate(strips), 8)


def likelihood(bench: Bench, run: Path) -> float:
    """Bits per token of unseen images' tokens: exact for an autoregressive prior, else a bound."""
    subject, unseen = open_subject(str(run)), bench.unseen()
    assert subject.bits is not None
    tokens = subject.encode(unseen.images)
    return subject.bits(tokens.reshape(len(tokens), -1), unseen.labels)
