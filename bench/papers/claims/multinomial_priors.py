"""The multinomial prior over the tokens of ``unleashing.py``'s VQGAN: quality by steps, cost beside other priors."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from claims import priors
from claims.common import Row, curve
from claims.multinomial_sizes import MultinomialBench
from claims.samples import DISTANCES, LIKENESS, measured, part, strip
from smalti_train.models.meta_init import unfilled
from smalti_train.models.multinomial_unet import MultinomialUNetConfig
from smalti_train.presets.catalogue import PRIORS
from smalti_train.runs.config import AbsorbingConfig, PriorConfig
from smalti_train.runs.loading import Prior, SundaePrior, build_prior
from smalti_train.runs.torch_sampling import TorchPrior, described, draw_tokens
from smalti_train.trainers.prior import train_prior

PUBLISHED = {
    "multinomial U-Net, published": "vqddm-celebahq256",
    "absorbing transformer, published": "unleashing-ffhq256",
    "SUNDAE hourglass, published": "sundae-ffhq256",
}
"""Recipes at their published sizes, all over 16x16 tokens of 1024 codes."""
COST_BATCH = 16


def prior(bench: MultinomialBench) -> Path:
    """The run of the multinomial prior, trained unless it is there, on the tokens of ``unleashing.py``'s priors."""
    absorbing, run, config = priors.best(bench.earlier), bench.work / "multinomial", bench.sizes.prior

    def training() -> None:
        if (absorbing / "tokens").exists() and not (run / "tokens").exists():
            shutil.copytree(absorbing / "tokens", run / "tokens")  # the same images by the same encoder
        train_prior(config, run, absorbing / "autoencoder")

    bench.train(run, config.loop.steps, training)
    return run


def steps(bench: MultinomialBench) -> None:
    """Samples in fewer and fewer strides, q(z_{t-d} | z_t, x0_hat); the bound on unseen tokens beside them."""
    run, strips = prior(bench), list[NDArray[np.uint8]]()
    bound = curve(run, "validation/bits_per_dim")[-1][1]
    for count in bench.sizes.steps:

        def measure(count: int = count) -> Row:
            row = measured(bench, run, {"steps": count})
            return part(row, *DISTANCES, "kid_style", *LIKENESS, "seconds_per_image") | {"bits_per_token": bound}

        bench.row("steps", {"steps": count}, measure)
        strips.append(strip(bench, run, {"steps": count}))
    bench.save_sheet("steps", np.concatenate(strips), 8)


def costs(bench: MultinomialBench) -> None:
    """Parameters, FLOPs of one call for one image, and seconds per image, of three families."""
    ours: dict[str, PriorConfig] = {
        "multinomial U-Net": bench.sizes.prior.model,
        "absorbing transformer": bench.scale.absorbing.model,
        "SUNDAE hourglass": bench.sizes.sundae,
    }
    count = bench.sizes.cost_steps
    for name, config in ours.items():
        calls = min(count, config.grid[0] * config.grid[1]) if isinstance(config, AbsorbingConfig) else count  # pyright: ignore[reportOptionalSubscript]

        def measure(config: PriorConfig = config, calls: int = calls) -> Row:
            return {**size(config), "calls": calls, "seconds_per_image": seconds(config, calls)}

        bench.row("costs", {"prior": name, "steps": count}, measure)
    for name, recipe in PUBLISHED.items():
        bench.row("costs", {"prior": name}, lambda recipe=recipe: size(PRIORS[recipe].model))


def size(config: PriorConfig) -> Row:
    """Millions of parameters, and GFLOP (two for a multiplication) of one call for one image; nothing is computed."""
    assert config.grid is not None
    with torch.device("meta"), unfilled():
        model = build_prior(config).eval()
        tokens, label = torch.zeros(1, config.grid[0] * config.grid[1], dtype=torch.int64), torch.zeros(1).long()
        inputs: tuple[Tensor, ...] = (tokens, label)
        if isinstance(config, MultinomialUNetConfig):
            inputs = (tokens, label, label)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*inputs)
    return {
        "parameters_millions": sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        "gflop_per_call": counter.get_total_flops() / 1e9,
        "grid": list(config.grid),
        "codes": config.codes,
    }


def seconds(config: PriorConfig, count: int, repeats: int = 3) -> float:
    """Seconds per image of drawing a batch's tokens in ``count`` steps, the least of some: what the weights are does
    not matter, as no sample is frozen."""
    torch.manual_seed(0)
    model = build_prior(config).eval()
    labels = [i % max(1, config.classes) for i in range(COST_BATCH)]
    best = float("inf")
    for first in range(repeats):
        started = time.perf_counter()
        _drawn(model, range(first * COST_BATCH, (first + 1) * COST_BATCH), labels, count)
        best = min(best, time.perf_counter() - started)
    return best / COST_BATCH


def _drawn(model: Prior, seeds: range, labels: list[int], count: int) -> Any:
    names = [str(index) for index in range(model.config.classes)]
    manifest = described("costs", model.config, 1, names)
    own = {"min_steps": count} if isinstance(model, SundaePrior) else {}  # no picture is left alone
    return draw_tokens(TorchPrior(model), manifest, seeds, [names[label] for label in labels], steps=count, **own)
