"""What the verbs of ``smalti train`` do; :mod:`smalti_train.cli.train` has their options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar, get_args

import typer
from torch import Tensor

from smalti.errors import UsageError
from smalti.system.platform import command_line
from smalti_train.cli.changes import check_numbers, resolve, with_images
from smalti_train.cli.options import Changes
from smalti_train.data.config import open_split
from smalti_train.models.edge_autoencoder import EdgeAutoencoderConfig
from smalti_train.presets.catalogue import AUTOENCODERS, HEADS, PRIORS
from smalti_train.runs.bundle_weights import initial_weights
from smalti_train.runs.config import (
    EFFNET_LITE0,
    CodecRun,
    HeadsRun,
    Masking,
    Objective,
    PixelRun,
    PreviewRun,
    PriorRun,
    Times,
    VQGANRun,
)
from smalti_train.runs.config_files import read_run
from smalti_train.runs.folder import RunFolder
from smalti_train.runs.loading import load_autoencoder
from smalti_train.runs.translation import initial_prior
from smalti_train.trainers.autoencoder import train_autoencoder
from smalti_train.trainers.heads import train_heads
from smalti_train.trainers.log_sigma import head_run, train_log_sigma
from smalti_train.trainers.preview import preview_run, train_preview
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.refit import refit_run
from smalti_train.trainers.vqgan import train_vqgan

Preset = TypeVar("Preset")


def autoencoder(
    run: Path,
    preset: str | None,
    best: str,
    changes: Changes,
    init: str | None,
    decoder_only: bool | None,
    perceptual: str | None,
    perceptual_heads: Path | None,
) -> None:
    """Train an autoencoder; ``best`` is the preset of a new run where none is named."""
    chosen = _own(run) if preset is None and (run / "config.json").exists() else _preset(AUTOENCODERS, preset or best)
    if isinstance(chosen, PixelRun):
        own = dataclasses.replace(changes, data=None, root=None)
        given = (*dataclasses.astuple(own), init, decoder_only, perceptual, perceptual_heads)
        return _pixels(dataclasses.replace(chosen, data=with_images(chosen.data, changes)), run, given)
    config = resolve(chosen, changes)
    config = dataclasses.replace(config, decoder_only=decoder_only or config.decoder_only)
    if isinstance(config, VQGANRun):
        if perceptual is not None:
            perceptual = perceptual if perceptual == EFFNET_LITE0 else str(Path(perceptual).resolve())
            heads = None if perceptual_heads is None else str(perceptual_heads.resolve())
            config = dataclasses.replace(config, perceptual=perceptual, perceptual_heads=heads)
        elif perceptual_heads is not None:
            raise UsageError("--perceptual-heads: LPIPS's heads belong to VGG16; name its file with --perceptual too")
        train_vqgan(config, run, _start(init, run, config))
    else:
        if perceptual is not None or perceptual_heads is not None:
            raise UsageError(
                f"--perceptual: {config.preset} is no VQGAN and sees through its own network; leave it out"
            )
        train_autoencoder(config, run, _start(init, run, config))


def prior(
    run: Path,
    preset: str,
    changes: Changes,
    autoencoder: Path | None,
    init: str | None,
    chosen: Mapping[str, str | None],
    unrolls: int | None,
) -> None:
    """Train a prior; ``chosen`` has objective, masking and times, in this order."""
    config = resolve(_preset(PRIORS, preset), changes)
    for (name, value), kind in zip(chosen.items(), (Objective, Masking, Times)):
        if value is not None and value not in get_args(kind):
            raise UsageError(f"{name} {value!r}: allowed are {', '.join(get_args(kind))}")
    changed: dict[str, object] = {**chosen, "unrolls": unrolls}
    config = dataclasses.replace(config, **{name: value for name, value in changed.items() if value is not None})
    # A prior without classes stays without, whatever the folders of the images are called.
    if (changes.data is not None or changes.root is not None) and config.model.classes:
        names = open_split(config.data, "train").label_names
        classes = len(names) if len(names) > 1 else 0  # a single label carries no information
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=classes))
    start = None if init is None or RunFolder(run).checkpoints() else initial_prior(init, config, autoencoder)
    train_prior(config, run, autoencoder, start)


def refit(run: Path, output: Path, codes: int | None, pool: int, seed: int, changes: Changes, as_json: bool) -> None:
    """Rebuild a codebook, and print what became of it."""
    check_numbers(changes.lr, steps=changes.steps, codes=codes, pool=pool)
    figures = refit_run(
        run,
        output,
        codes=codes,
        pool=pool,
        seed=seed,
        steps=changes.steps,
        lr=changes.lr,
        data=lambda own: with_images(own, changes),
        progress=True,
    )
    if as_json:
        typer.echo(json.dumps({"run": str(output), **dict(zip(("before", "rebuilt"), figures))}, indent=2))
        return
    for name, found in zip(("before", "rebuilt"), figures):
        typer.echo(f"{name}: {found['codes_used_percent']:.1f} % of the codes used, PSNR {found['psnr']:.2f} dB")
    typer.echo(f"{output}: now train its decoder with {command_line()} train autoencoder --run {output}")


def log_sigma(run: Path, autoencoder: Path, bits: int, changes: Changes) -> None:
    """Train the probabilistic head of a VQGAN."""
    _, trained = load_autoencoder(autoencoder)
    if not isinstance(trained, VQGANRun):
        raise UsageError(f"{autoencoder} is no VQGAN, and no other autoencoder has a probabilistic head")
    config = resolve(head_run(trained, bits), changes)
    train_log_sigma(config, run, autoencoder)


def preview(run: Path, autoencoder: Path | None, changes: Changes, init: Path | None) -> None:
    """Distil a preview decoder."""
    chosen = read_run(run / "config.json") if (run / "config.json").exists() else None
    if chosen is None:
        if autoencoder is None:
            raise UsageError("a new preview learns from a decoder: name its autoencoder's run with --autoencoder")
        chosen = preview_run(*load_autoencoder(autoencoder))
    if not isinstance(chosen, PreviewRun):
        raise UsageError(f"{run} is a run of another kind; name another folder")
    train_preview(resolve(chosen, changes), run, autoencoder, init)


def heads(
    run: Path, preset: str | None, best: str, changes: Changes, autoencoder: str | None, init: str | None
) -> None:
    """Train heads of larger pictures; ``best`` is the preset of new ones where none is named."""
    chosen = read_run(run / "config.json") if preset is None and (run / "config.json").exists() else None
    if chosen is None:
        chosen = _preset(HEADS, preset or best)
        source = None if autoencoder is None else Path(autoencoder)
        if source is not None and (source / "config.json").exists():
            trained = load_autoencoder(source)[1].model
            if not isinstance(trained, EdgeAutoencoderConfig):
                raise UsageError(f"{source} is no edge autoencoder, and only those have heads")
            if not trained.smoothing:  # which trainings of the autoencoder leave out, as it takes time
                trained = dataclasses.replace(trained, smoothing=chosen.model.autoencoder.smoothing)
            chosen = dataclasses.replace(chosen, model=dataclasses.replace(chosen.model, autoencoder=trained))
    if not isinstance(chosen, HeadsRun):
        raise UsageError(f"{run} is a run of another kind; name another folder")
    config = resolve(chosen, changes)
    train_heads(config, run, autoencoder, init)


def _pixels(config: PixelRun, run: Path, training: Sequence[object]) -> None:
    """Write the run of pixels, which need no training. Raises UsageError for options of a training."""
    if any(value is not None for value in training):
        raise UsageError(f"{config.preset} takes pixels as tokens, and nothing is trained: give --run alone")
    folder = RunFolder(run)
    try:
        folder.open(config)
        folder.keep_config(config)
    finally:
        folder.close()
    typer.echo(f"{run}: pixels are the tokens of {config.preset}, so nothing was trained; name it with --autoencoder")


def _start(init: str | None, run: Path, config: CodecRun) -> dict[str, Tensor] | None:
    """Weights named by --init; None for a run that has a checkpoint already."""
    return None if init is None or RunFolder(run).checkpoints() else initial_weights(init, config)


def _preset(presets: Mapping[str, Preset], name: str) -> Preset:
    if name not in presets:
        raise UsageError(f"preset {name!r}: there are {', '.join(presets)}")
    return presets[name]


def _own(run: Path) -> CodecRun:
    """The configuration of an existing run. Raises UsageError for a run that this command cannot continue."""
    config = read_run(run / "config.json")
    if isinstance(config, PriorRun | PreviewRun | HeadsRun):
        kind = {PriorRun: "prior", PreviewRun: "preview", HeadsRun: "heads"}[type(config)]
        raise UsageError(f"{run} is the run of a {kind}: continue it with '{command_line()} train {kind}'")
    if isinstance(config, VQGANRun) and config.pixel_bits is not None:
        raise UsageError(
            f"{run} is the run of a probabilistic head: continue it with '{command_line()} train log-sigma'"
        )
    if isinstance(config, VQGANRun) and config.imported is not None and not config.decoder_only:
        raise UsageError(f"{run} was imported, and has no training to continue: start a new one with --init {run}")
    return config
