"""SUNDAE priors over the tokens of ``unleashing.py``'s VQGAN: resampling, positions and unrolls."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from claims import priors
from claims.common import Row, curve
from claims.samples import DISTANCES, LIKENESS, measured, part
from claims.sundae_sizes import VARIANTS, SundaeBench
from smalti_train.runs.config import PriorRun
from smalti_train.trainers.prior import train_prior

FIGURE = "validation/unrolled_bits_per_token"


def trained(bench: SundaeBench, name: str, config: PriorRun) -> Path:
    """The run of a prior over the tokens of ``unleashing.py``'s absorbing prior, trained unless it is there."""
    absorbing, run = priors.best(bench.earlier), bench.work / name

    def training() -> None:
        if (absorbing / "tokens").exists() and not (run / "tokens").exists():
            shutil.copytree(absorbing / "tokens", run / "tokens")  # the same images by the same encoder
        train_prior(config, run, absorbing / "autoencoder")

    bench.train(run, config.loop.steps, training)
    return run


def best(bench: SundaeBench) -> Path:
    """The prior that samples are drawn from."""
    return trained(bench, "avatars", bench.sizes.best)


def variant(bench: SundaeBench, name: str) -> Path:
    """The run of one of ``VARIANTS``; but for that they are alike, down to the order of the images."""
    base = bench.sizes.variant
    config = dataclasses.replace(base, model=dataclasses.replace(base.model, **VARIANTS[name]))
    return trained(bench, f"variant-{name.replace(', ', '-').replace(' ', '-')}", config)


def resampling(bench: SundaeBench) -> None:
    """What unseen tokens cost while each variant trains."""
    for name in VARIANTS:

        def measure(name: str = name) -> Row:
            points = curve(variant(bench, name), FIGURE)
            return {"bits_per_token": points[-1][1], "curve": points}

        bench.row("resampling", {"variant": name, "seed": 0}, measure)


def unrolls(bench: SundaeBench) -> None:
    """Two unrolls in training against three, of the same number of steps: what unseen tokens cost, and samples."""
    steps = bench.sizes.heat_steps
    for count in (2, 3):

        def measure(count: int = count) -> Row:
            # With two it is the first of the variants.
            run = (
                variant(bench, next(iter(VARIANTS)))
                if count == 2
                else trained(bench, f"unrolls-{count}", dataclasses.replace(bench.sizes.variant, unrolls=count))
            )
            points = curve(run, FIGURE)
            drawn = measured(bench, run, {"steps": steps, "min_steps": steps})
            seconds = next((row["seconds"] for row in bench.rows("trainings") if row["setting"]["run"] == run.name), 0)
            return {
                "bits_per_token": points[-1][1],
                "curve": points,
                **part(drawn, *DISTANCES, *LIKENESS),
                "training_minutes": seconds / 60,
            }

        bench.row("unrolls", {"variant": f"T = {count}", "seed": 0, "steps": steps}, measure)
