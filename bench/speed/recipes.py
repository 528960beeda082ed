"""Train every published recipe for one step at its full size, from a folder of images made here.

    python bench/speed/recipes.py unleashing-ffhq256
    python bench/speed/recipes.py taming-imagenet-f16 --layers 4
    python bench/speed/recipes.py all --memory 80 --precision bf16

Prints for both stages: parameters, seconds of the step, the most memory in use, and what weights, gradients, Adam's
moments and averages alone need, which decides on what device a recipe can train at all. A stage that needs more than
``--memory`` is not trained but for ``--layers``, which cuts the prior's layers; sizes printed are then of both.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti_train.models.discriminator import Discriminator
from smalti_train.models.meta_init import unfilled
from smalti_train.presets.unleashing import RECIPE_AUTOENCODERS, RECIPE_PRIORS
from smalti_train.runs.config import PriorRun, VQGANRun
from smalti_train.runs.loading import build_autoencoder, build_prior
from smalti_train.trainers import prior as train_prior
from smalti_train.trainers import trainer
from smalti_train.trainers import vqgan as train_vqgan

STAGES = ("autoencoder", "prior")
BYTES = 20
"""Per parameter of a network that is averaged: weight, gradient, two moments and average, float32 each."""
IMAGES = 24
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", choices=[*RECIPE_AUTOENCODERS, "all"])
    parser.add_argument("--stage", choices=[*STAGES, "both"], default="both")
    parser.add_argument("--layers", type=int, help="train the prior with this many layers instead of all")
    parser.add_argument("--batch", type=int, help="instead of the recipe's")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--memory", type=float, default=24, help="GiB that the device has")
    parser.add_argument("--work", type=Path, help="folder for images and runs; a temporary one otherwise")
    options = parser.parse_args()
    if options.recipe != "all" and options.stage != "both":
        one_stage(options)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for recipe in RECIPE_AUTOENCODERS if options.recipe == "all" else [options.recipe]:
            for stage in STAGES if options.stage == "both" else [options.stage]:
                # Each in a process of its own, whose greatest memory is then that of the stage.
                command = [sys.executable, __file__, recipe, "--stage", stage, "--work", str(work / recipe)]
                for name in ("layers", "batch", "precision", "memory"):
                    if (value := getattr(options, name)) is not None:
                        command += [f"--{name}", str(value)]
                subprocess.run(command, check=True)


def one_stage(options: argparse.Namespace) -> None:
    if options.work is None:
        raise SystemExit("one stage alone needs --work, the folder where the other stage is or will be")
    options.work.mkdir(parents=True, exist_ok=True)
    root = make_images(options.work / "images")
    if options.stage == "autoencoder":
        train_the_autoencoder(options, root)
    else:
        train_the_prior(options, root)


def make_images(root: Path) -> Path:
    """A folder of smooth random pictures of 256 pixels under two labels."""
    generator = np.random.default_rng(0)
    for index in range(IMAGES):
        folder = root / ("even", "odd")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return root


def shortened(config: Any, options: argparse.Namespace, root: Path) -> Any:
    changes = {"steps": 1, "precision": options.precision, "batch": options.batch or config.loop.batch}
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, root=str(root)),
        loop=dataclasses.replace(config.loop, **changes),
    )


def train_the_autoencoder(options: argparse.Namespace, root: Path) -> None:
    config: VQGANRun = shortened(RECIPE_AUTOENCODERS[options.recipe], options, root)
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, start=0))  # the whole step, judged
    with unfilled():
        count = size_of(build_autoencoder(config.model))
        judge = size_of(Discriminator(config.discriminator))
    needed = BYTES * count + (BYTES - 4) * judge  # the discriminator is not averaged
    print(f"{config.preset} autoencoder: {count / 1e6:.1f}M parameters, discriminator {judge / 1e6:.1f}M", flush=True)
    if fits(needed, options.memory):
        measured(train_vqgan, lambda: train_vqgan.train_vqgan(config, options.work / "autoencoder"))


def train_the_prior(options: argparse.Namespace, root: Path) -> None:
    config: PriorRun = shortened(RECIPE_PRIORS[options.recipe], options, root)
    if config.model.classes:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=2))
    with unfilled():
        count = size_of(build_prior(config.model))
    print(f"{config.preset} prior: {count / 1e6:.1f}M parameters", flush=True)
    if not fits(BYTES * count, options.memory) and options.layers is None:
        print("  not trained: cut its layers with --layers, or say with --memory that the device has more", flush=True)
        return
    if options.layers is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, layers=options.layers))
        with unfilled():
            count = size_of(build_prior(config.model))
        print(f"  cut to {options.layers} layers: {count / 1e6:.1f}M parameters", flush=True)
        if not fits(BYTES * count, options.memory):
            return
    autoencoder = options.work / "autoencoder"
    if not autoencoder.exists():
        raise SystemExit(f"{autoencoder} is missing: run --stage autoencoder first")
    measured(train_prior, lambda: train_prior.train_prior(config, options.work / "prior", autoencoder))


def size_of(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def fits(needed: int, memory: float) -> bool:
    """Say what training needs besides activations, and whether the device has it."""
    enough = needed < memory * GIB
    verdict = "below" if enough else "MORE THAN"
    print(f"  weights, gradients, moments, averages: {needed:,} bytes = {needed / GIB:.2f} GiB, {verdict} {memory} GiB")
    return enough


def measured(module: Any, train: Callable[[], None]) -> None:
    """Train by a function of ``module``, and print the seconds from the beginning of the last step to its update."""
    marks: dict[str, float] = {}
    loop: Any = trainer
    began, ended = loop.learning_rate, loop.LossWatch.__call__

    def begins(*arguments: Any) -> float:
        marks["began"] = time.perf_counter()
        return began(*arguments)

    def ends(*arguments: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        marks["ended"] = time.perf_counter()
        ended(*arguments)

    loop.learning_rate, loop.LossWatch.__call__ = begins, ends
    module.sheet = lambda *_: Image.new("RGB", (8, 8))  # 32 samples would take longer than all the rest
    train()
    print(f"  one step: {marks['ended'] - marks['began']:.2f} s", flush=True)
    print(f"  most memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB:.2f} GiB")
    if torch.cuda.is_available():
        print(f"  most memory of the GPU: {torch.cuda.max_memory_allocated() / GIB:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
