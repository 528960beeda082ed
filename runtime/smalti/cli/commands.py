"""The runtime's verbs; those that draw are in :mod:`smalti.cli.generate`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from smalti import __version__
from smalti.cli.bundle import app as bundle_app
from smalti.cli.doctor import doctor
from smalti.cli.engine import app as engine_app
from smalti.cli.generate import generate
from smalti.cli.options import (
    BundleOption,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ResolutionOption,
    ThreadsOption,
    check_png,
)
from smalti.cli.repaint import inpaint, outpaint
from smalti.cli.verbs import LAZY
from smalti.errors import UsageError
from smalti.files import check_writable, write_whole
from smalti.images import contact_sheet, open_image, save_png
from smalti.loading.load import load
from smalti.platform import reachable
from smalti.verification.benchmark import measure

ImagesArgument = Annotated[list[Path], typer.Argument(help="Image files; to be encoded, all of one size.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Vector-quantised image models, run without torch.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 bad bundle, 4 no such provider, 5 engine not built, 6 parity failed, "
    "130 interrupted.",
)


GROUPS = {"": app, "engine": engine_app}
"""What verbs that are loaded when they are called are listed in, by the words before the last."""


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"smalti {__version__}")
        raise typer.Exit


app.command()(generate)
app.command()(inpaint)
app.command()(outpaint)
app.add_typer(bundle_app, name="bundle")
app.add_typer(engine_app, name="engine")
app.command()(doctor)


@app.command()
def encode(
    images: ImagesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy for the tokens (int32 [N, h, w]).")],
    resolution: ResolutionOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Turn images into tokens."""
    _check_npy(output)
    tokens = load(bundle, provider, precision, threads).encode([open_image(path) for path in images], resolution)
    _save_npy(tokens, output)
    typer.echo(f"{output}: tokens {list(tokens.shape)}")


@app.command()
def embed(
    images: ImagesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy for the features (float32 [N, D]).")],
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Turn images into vectors of length 1, whose products say how alike the images are."""
    _check_npy(output)
    features = load(bundle, provider, precision, threads).embed([open_image(path) for path in images])
    _save_npy(features, output)
    typer.echo(f"{output}: features {list(features.shape)}")


def _check_npy(output: Path) -> None:
    if output.suffix != ".npy":
        raise UsageError(f"output {output}: name a file that ends in .npy")
    check_writable(output)


def _save_npy(array: NDArray[Any], output: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(output, buffer.getvalue())


@app.command()
def decode(
    tokens: Annotated[Path, typer.Argument(help="A .npy of tokens (integers [N, h, w] or [h, w]).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png; several images become a sheet.")],
    columns: Annotated[int, typer.Option(min=1, help="Images per row of a sheet.")] = 4,
    resolution: ResolutionOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Turn tokens into images, of any size."""
    check_png(output)
    try:
        grids = np.load(reachable(tokens), allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{tokens} does not exist; name a .npy that 'smalti encode' made") from None
    except (OSError, ValueError, EOFError):
        raise UsageError(f"{tokens} is not a .npy of integers, such as 'smalti encode' makes") from None
    images = load(bundle, provider, precision, threads).decode(grids, resolution)
    save_png(contact_sheet(np.stack([np.asarray(image) for image in images]), columns), output)
    typer.echo(f"{output}: {len(images)} image(s) of {images[0].width}x{images[0].height}")


@app.command()
def bench(
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    count: Annotated[int, typer.Option(help="Images per batch.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Diffusion steps; the bundle's own by default.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed runs; the median is reported.")] = 5,
    resolution: ResolutionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure seconds per megapixel, split into network, draw, decoder and host."""
    loaded = load(bundle, provider, precision, threads)
    report = measure(loaded, count=count, steps=steps, repeats=repeats, resolution=resolution)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(
        f"{report['bundle']}: {report['count']} x {report['width']}x{report['height']}, {report['steps']} steps "
        f"({report['network_calls']} network calls), {report['provider']['runtime']}, "
        f"{report['precision']}, {report['provider']['threads']} threads"
    )
    typer.echo(f"{'stage':<10}{'seconds':>10}{'s/megapixel':>14}{'share':>9}")
    for stage, seconds in report["seconds"].items():
        share = seconds / report["seconds"]["total"]
        typer.echo(f"{stage:<10}{seconds:>10.4f}{report['seconds_per_megapixel'][stage]:>14.3f}{share:>9.1%}")


def _placeholder(verb: str, help_line: str) -> None:
    """List a verb in the help that is loaded when it is called; calls never come this far (see smalti.cli.main)."""
    group, name = verb.rpartition(" ")[::2]

    @GROUPS[group].command(name, help=help_line, add_help_option=False)
    def _(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:  # pyright: ignore[reportUnusedFunction]
        del arguments


for _verb, (_, _help) in LAZY.items():
    _placeholder(_verb, _help)
