"""``smalti train autoencoder``, ``prior``, ``heads``, ``preview``, ``refit`` and ``log-sigma``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import typer
from torch import Tensor

from smalti.errors import UsageError
from smalti_train.cli.options import (
    BatchOption,
    CompileOption,
    DataOption,
    InitOption,
    LrOption,
    PrecisionOption,
    PresetOption,
    RootOption,
    RunOption,
    SeedOption,
    StepsOption,
    check_numbers,
    resolve,
    with_images,
)
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
from smalti_train.trainers.codebook_refit import POOL
from smalti_train.trainers.heads import train_heads
from smalti_train.trainers.log_sigma import BITS, head_run, train_log_sigma
from smalti_train.trainers.preview import preview_run, train_preview
from smalti_train.trainers.prior import train_prior
from smalti_train.trainers.refit import refit_run
from smalti_train.trainers.vqgan import train_vqgan

Preset = TypeVar("Preset")
BEST = "avatars"
"""The default preset."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train models. However a run was stopped, the same command continues it.",
)


@app.command(epilog=f"Presets: {', '.join(AUTOENCODERS)}.")
def autoencoder(
    run: RunOption,
    preset: Annotated[
        str | None, typer.Option(help="Named configuration. [default: the run's own, if there is one, or avatars]")
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
    init: InitOption = None,
    decoder_only: Annotated[
        bool | None, typer.Option("--decoder-only", help="Keep encoder and codebook of --init as they are.")
    ] = None,
    perceptual: Annotated[
        str | None, typer.Option(help="A VQGAN's perceptual network: effnet-lite0, or torchvision's file of VGG16.")
    ] = None,
    perceptual_heads: Annotated[Path | None, typer.Option(help="LPIPS's file of linear heads over VGG16.")] = None,
) -> None:
    """Train an autoencoder: images to tokens and back. The preset says which kind."""
    chosen = _own(run) if preset is None and (run / "config.json").exists() else _preset(AUTOENCODERS, preset or BEST)
    if isinstance(chosen, PixelRun):
        given = (steps, batch, lr, precision, compile, seed, init, decoder_only, perceptual, perceptual_heads)
        return _pixels(dataclasses.replace(chosen, data=with_images(chosen.data, data, root)), run, given)
    config = resolve(chosen, steps, batch, lr, precision, compile, seed, data, root)
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


@app.command(epilog=f"Presets: {', '.join(PRIORS)}.")
def prior(
    run: RunOption,
    preset: PresetOption = BEST,
    autoencoder: Annotated[Path | None, typer.Option(help="Run whose tokens a new prior learns.")] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
    init: InitOption = None,
    objective: Annotated[str | None, typer.Option(help="reweighted, elbo or mlm, for priors that fill masks.")] = None,
    masking: Annotated[str | None, typer.Option(help="random, or fixed: as many tokens as the time says.")] = None,
    times: Annotated[str | None, typer.Option(help="uniform, or importance: by the losses seen.")] = None,
    unrolls: Annotated[
        int | None, typer.Option(help="How often a SUNDAE prior corrects what it drew, in each step.")
    ] = None,
) -> None:
    """Train a prior over an autoencoder's tokens; its kind is the preset's."""
    config = resolve(_preset(PRIORS, preset), steps, batch, lr, precision, compile, seed, data, root)
    chosen = {"objective": objective, "masking": masking, "times": times}
    for (name, value), kind in zip(chosen.items(), (Objective, Masking, Times)):
        if value is not None and value not in get_args(kind):
            raise UsageError(f"{name} {value!r}: allowed are {', '.join(get_args(kind))}")
    changed = {**chosen, "unrolls": unrolls}
    config = dataclasses.replace(config, **{name: value for name, value in changed.items() if value is not None})
    # A prior without classes stays without, whatever the folders of the images are called.
    if (data is not None or root is not None) and config.model.classes:
        names = open_split(config.data, "train").label_names
        classes = len(names) if len(names) > 1 else 0  # a single label carries no information
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, classes=classes))
    start = None if init is None or RunFolder(run).checkpoints() else initial_prior(init, config, autoencoder)
    train_prior(config, run, autoencoder, start)


@app.command()
def refit(
    run: Annotated[Path, typer.Argument(help="Run of a trained autoencoder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new run.")],
    codes: Annotated[int | None, typer.Option(help="Codes of the new codebook. [default: as many as before]")] = None,
    pool: Annotated[int, typer.Option(help="Features of training images that are clustered.")] = POOL,
    seed: Annotated[int, typer.Option(help="Seed of the features chosen and of the first centres.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Steps of the decoder's training. [default: the run's own]")] = None,
    lr: Annotated[float | None, typer.Option(help="Its learning rate. [default: a tenth of the run's own]")] = None,
    data: DataOption = None,
    root: RootOption = None,
) -> None:
    """Rebuild an autoencoder's codebook from its features, so that every code is in use (ReFiT, Hu et al. 2022).

    Then train the decoder to read it: smalti train autoencoder --run OUTPUT.
    """
    check_numbers(lr, steps=steps, codes=codes, pool=pool)
    figures = refit_run(
        run,
        output,
        codes=codes,
        pool=pool,
        seed=seed,
        steps=steps,
        lr=lr,
        data=lambda own: with_images(own, data, root),
        progress=True,
    )
    for name, found in zip(("before", "rebuilt"), figures):
        typer.echo(f"{name}: {found['codes_used_percent']:.1f} % of the codes used, PSNR {found['psnr']:.2f} dB")
    typer.echo(f"{output}: now train its decoder with smalti train autoencoder --run {output}")


@app.command("log-sigma")
def log_sigma(
    run: RunOption,
    autoencoder: Annotated[Path, typer.Option(help="Run of a trained VQGAN; the rest of it stays as it is.")],
    bits: Annotated[int, typer.Option(help="Bits of the images' values, 1 to 8.")] = BITS,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
) -> None:
    """Train the head of a VQGAN that says how far pixels stray, for likelihoods of images."""
    _, trained = load_autoencoder(autoencoder)
    if not isinstance(trained, VQGANRun):
        raise UsageError(f"{autoencoder} is no VQGAN, and no other autoencoder has a probabilistic head")
    config = resolve(head_run(trained, bits), steps, batch, lr, precision, None, seed, data, root)
    train_log_sigma(config, run, autoencoder)


@app.command()
def preview(
    run: RunOption,
    autoencoder: Annotated[
        Path | None, typer.Option(help="Run of a trained autoencoder; a new preview learns from its decoder.")
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
    init: Annotated[Path | None, typer.Option(help="Run of a preview whose weights a new one starts from.")] = None,
) -> None:
    """Distil a small decoder, of a tenth of the operations, that shows steps; export takes it with --preview-from."""
    chosen = read_run(run / "config.json") if (run / "config.json").exists() else None
    if chosen is None:
        if autoencoder is None:
            raise UsageError("a new preview learns from a decoder: name its autoencoder's run with --autoencoder")
        chosen = preview_run(*load_autoencoder(autoencoder))
    if not isinstance(chosen, PreviewRun):
        raise UsageError(f"{run} is a run of another kind; name another folder")
    train_preview(resolve(chosen, steps, batch, lr, precision, None, seed, data, root), run, autoencoder, init)


@app.command(epilog=f"Presets: {', '.join(HEADS)}.")
def heads(
    run: RunOption,
    preset: Annotated[
        str | None, typer.Option(help="Named configuration. [default: the run's own, if there is one, or avatars]")
    ] = None,
    autoencoder: Annotated[
        str | None, typer.Option(help="Run or bundle of the autoencoder whose tokens new heads draw larger.")
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    compile: CompileOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
    init: Annotated[
        str | None, typer.Option(help="Run of heads, or bundle with them, whose weights new ones start from.")
    ] = None,
) -> None:
    """Train heads that draw an autoencoder's tokens at twice and four times its pixels; the tokens stay as they are."""
    chosen = read_run(run / "config.json") if preset is None and (run / "config.json").exists() else None
    if chosen is None:
        chosen = _preset(HEADS, preset or BEST)
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
    config = resolve(chosen, steps, batch, lr, precision, compile, seed, data, root)
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
        raise UsageError(f"{run} is the run of a {kind}: continue it with 'smalti train {kind}'")
    if isinstance(config, VQGANRun) and config.pixel_bits is not None:
        raise UsageError(f"{run} is the run of a probabilistic head: continue it with 'smalti train log-sigma'")
    if isinstance(config, VQGANRun) and config.imported is not None and not config.decoder_only:
        raise UsageError(f"{run} was imported, and has no training to continue: start a new one with --init {run}")
    return config
