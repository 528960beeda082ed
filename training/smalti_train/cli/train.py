"""``smalti train autoencoder``, ``prior``, ``heads``, ``preview``, ``refit`` and ``log-sigma``, as help shows them.

What they do is in :mod:`smalti_train.cli.training`, which needs torch and is imported when a verb is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.options import JsonOption
from smalti.cli.plain import App
from smalti_train.cli.names import AUTOENCODERS, BITS, HEADS, POOL, PRIORS
from smalti_train.cli.options import (
    BatchOption,
    Changes,
    CompileOption,
    DataOption,
    InitOption,
    LrOption,
    OwnPresetOption,
    PrecisionOption,
    PresetOption,
    RootOption,
    RunOption,
    SeedOption,
    StepsOption,
)

BEST = "avatars"
"""The default preset."""

app = App(no_args_is_help=True, help="Train models. However a run was stopped, the same command continues it.")


@app.command(epilog=f"Presets: {', '.join(AUTOENCODERS)}.")
def autoencoder(
    run: RunOption,
    preset: OwnPresetOption = None,
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
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="A VQGAN's perceptual network: effnet-lite0, or torchvision's file of VGG16."
        ),
    ] = None,
    perceptual_heads: Annotated[
        Path | None, typer.Option(metavar="FILE", help="LPIPS's file of linear heads over VGG16.")
    ] = None,
) -> None:
    """Train an autoencoder: images to tokens and back. The preset says which kind."""
    from smalti_train.cli import training

    changes = Changes(steps, batch, lr, precision, compile, seed, data, root)
    training.autoencoder(run, preset, BEST, changes, init, decoder_only, perceptual, perceptual_heads)


@app.command(epilog=f"Presets: {', '.join(PRIORS)}.")
def prior(
    run: RunOption,
    preset: PresetOption = BEST,
    autoencoder: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run whose tokens a new prior learns.")
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
    objective: Annotated[
        str | None, typer.Option(metavar="NAME", help="reweighted, elbo or mlm, for priors that fill masks.")
    ] = None,
    masking: Annotated[
        str | None, typer.Option(metavar="NAME", help="random, or fixed: as many tokens as the time says.")
    ] = None,
    times: Annotated[
        str | None, typer.Option(metavar="NAME", help="uniform, or importance: by the losses seen.")
    ] = None,
    unrolls: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="How often a SUNDAE prior corrects what it drew, in each step."),
    ] = None,
) -> None:
    """Train a prior over an autoencoder's tokens; its kind is the preset's."""
    from smalti_train.cli import training

    changes = Changes(steps, batch, lr, precision, compile, seed, data, root)
    chosen = {"objective": objective, "masking": masking, "times": times}
    training.prior(run, preset, changes, autoencoder, init, chosen, unrolls)


@app.command()
def refit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run of a trained autoencoder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the new run.")],
    codes: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Codes of the new codebook. [default: as many as before]"),
    ] = None,
    pool: Annotated[int, typer.Option(metavar="NUMBER", help="Features of training images that are clustered.")] = POOL,
    seed: Annotated[
        int, typer.Option(metavar="NUMBER", help="Seed of the features chosen and of the first centres.")
    ] = 0,
    steps: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Steps of the decoder's training. [default: the run's own]")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="NUMBER", help="Its learning rate. [default: a tenth of the run's own]")
    ] = None,
    data: DataOption = None,
    root: RootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild an autoencoder's codebook from its features, so that every code is in use (ReFiT, Hu et al. 2022).

    Then train the decoder to read it: smalti train autoencoder --run OUTPUT.
    """
    from smalti_train.cli import training

    training.refit(run, output, codes, pool, seed, Changes(steps=steps, lr=lr, data=data, root=root), as_json)


@app.command("log-sigma")
def log_sigma(
    run: RunOption,
    autoencoder: Annotated[
        Path, typer.Option(metavar="RUN", help="Run of a trained VQGAN; the rest of it stays as it is.")
    ],
    bits: Annotated[int, typer.Option(metavar="NUMBER", help="Bits of the images' values, 1 to 8.")] = BITS,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
) -> None:
    """Train the head of a VQGAN that says how far pixels stray, for likelihoods of images."""
    from smalti_train.cli import training

    training.log_sigma(run, autoencoder, bits, Changes(steps, batch, lr, precision, None, seed, data, root))


@app.command()
def preview(
    run: RunOption,
    autoencoder: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run of a trained autoencoder; a new preview learns from its decoder."),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    lr: LrOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    data: DataOption = None,
    root: RootOption = None,
    init: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run of a preview whose weights a new one starts from.")
    ] = None,
) -> None:
    """Distil a small decoder, of a tenth of the operations, that shows steps; export takes it with --preview-from."""
    from smalti_train.cli import training

    training.preview(run, autoencoder, Changes(steps, batch, lr, precision, None, seed, data, root), init)


@app.command(epilog=f"Presets: {', '.join(HEADS)}.")
def heads(
    run: RunOption,
    preset: OwnPresetOption = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(metavar="RUN|BUNDLE", help="Run or bundle of the autoencoder whose tokens new heads draw larger."),
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
        str | None,
        typer.Option(
            metavar="RUN|BUNDLE", help="Run of heads, or bundle with them, whose weights new ones start from."
        ),
    ] = None,
) -> None:
    """Train heads that draw an autoencoder's tokens at twice and four times its pixels; the tokens stay as they are."""
    from smalti_train.cli import training

    changes = Changes(steps, batch, lr, precision, compile, seed, data, root)
    training.heads(run, preset, BEST, changes, autoencoder, init)
