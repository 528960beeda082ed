"""The verbs that draw a part of a picture: inpaint and outpaint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli.options import (
    BundleOption,
    PrecisionOption,
    ProviderOption,
    ThreadsOption,
    check_png,
    sampling_options,
    takes_sampling,
)
from smalti.images import open_image
from smalti.loading.load import load
from smalti.result import Result

OutputOption = Annotated[Path, typer.Option("--output", "-o", help="A .png; several images become a sheet.")]
CountOption = Annotated[int, typer.Option(help="Variants to draw.")]
SeedOption = Annotated[int, typer.Option(help="Seed of variant 0; variant i has seed + i.")]
LabelOption = Annotated[str | None, typer.Option(help="Label. [default: none, the image says what it is]")]
FeatherOption = Annotated[int, typer.Option(help="Pixels of the image, around, that fade into what is drawn.")]
ColumnsOption = Annotated[int, typer.Option(min=1, help="Images per row of a sheet.")]


@takes_sampling("size")
def inpaint(
    image: Annotated[Path, typer.Argument(help="Image whose sides are multiples of the resolution's factor.")],
    mask: Annotated[Path, typer.Argument(help="Image of the same size; white is repainted.")],
    output: OutputOption,
    count: CountOption = 1,
    seed: SeedOption = 0,
    label: LabelOption = None,
    feather: FeatherOption = 0,
    columns: ColumnsOption = 4,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    **sampling: Any,
) -> None:
    """Repaint a part of an image; the other pixels stay as they are."""
    check_png(output)
    pixels, white = open_image(image), open_image(mask)
    options = sampling_options(sampling)
    generator = load(bundle, provider, precision, threads)
    _write(generator.inpaint(pixels, white, count, seed, label=label, feather=feather, **options), output, columns)


@takes_sampling("size")
def outpaint(
    image: Annotated[Path, typer.Argument(help="Image to paint on.")],
    output: OutputOption,
    left: Annotated[int, typer.Option(help="Pixels to add on the left.")] = 0,
    top: Annotated[int, typer.Option(help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option(help="Pixels to add on the right.")] = 0,
    bottom: Annotated[int, typer.Option(help="Pixels to add at the bottom.")] = 0,
    count: CountOption = 1,
    seed: SeedOption = 0,
    label: LabelOption = None,
    feather: FeatherOption = 0,
    columns: ColumnsOption = 4,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    **sampling: Any,
) -> None:
    """Paint on beyond an image's edges; its own pixels stay as they are."""
    check_png(output)
    pixels = open_image(image)
    options = sampling_options(sampling)
    generator = load(bundle, provider, precision, threads)
    margins = {"left": left, "top": top, "right": right, "bottom": bottom}
    _write(generator.outpaint(pixels, count, seed, **margins, label=label, feather=feather, **options), output, columns)


def _write(result: Result, output: Path, columns: int) -> None:
    result.save(output, columns)
    typer.echo(f"{output}: {len(result.images)} image(s), {result.timings.total:.2f} s")
