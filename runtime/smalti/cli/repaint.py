"""The verbs that draw on a picture: inpaint, outpaint and vary."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli.loading import loaded
from smalti.cli.options import (
    BundleOption,
    FitOption,
    JsonOption,
    LabelsOption,
    PrecisionOption,
    ProviderOption,
    ThreadsOption,
    check_labels,
    sampling_options,
    takes_sampling,
    turns,
)
from smalti.cli.reports import draw_report, drawn_line
from smalti.cli.targets import (
    ColumnsOption,
    FormatOption,
    OutputOption,
    QualityOption,
    Target,
    picture_target,
    read_images,
    say,
    stem,
    write_result,
)
from smalti.codec.fit import check_fit
from smalti.drawing.result import Result

CountOption = Annotated[int, typer.Option(metavar="NUMBER", help="Variants to draw.")]
SeedOption = Annotated[int, typer.Option(metavar="NUMBER", help="Seed of variant 0; variant i has seed + i.")]
FeatherOption = Annotated[
    int, typer.Option(metavar="PIXELS", help="Pixels of the image, around, that fade into what is drawn.")
]


@takes_sampling("size")
def inpaint(
    image: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE", help="Image file, or - for stdin; see --fit if its sides are no multiples of the factor."
        ),
    ],
    mask: Annotated[
        Path,
        typer.Argument(metavar="MASK", help="Image of the same size; white is repainted, or what is opaque."),
    ],
    output: OutputOption,
    count: CountOption = 1,
    seed: SeedOption = 0,
    label: LabelsOption = None,
    feather: FeatherOption = 0,
    fit: FitOption = None,
    columns: ColumnsOption = None,
    format: FormatOption = None,
    quality: QualityOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Repaint a part of an image; the other pixels stay as they are."""
    target = picture_target(output, format, quality, columns)
    check_labels(label, count)
    pixels, white = read_images([image, mask])
    options, way = sampling_options(sampling), check_fit(fit)
    generator = loaded(bundle, provider, precision, threads)
    options["label"] = turns(label, count, generator.manifest)
    result = generator.inpaint(pixels, white, count, seed, feather=feather, fit=way, **options)
    _write(result, target, stem(image), as_json, feather=feather, fit=way)


@takes_sampling("size")
def outpaint(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file to paint on, or - for stdin.")],
    output: OutputOption,
    left: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add on the left.")] = 0,
    top: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add on the right.")] = 0,
    bottom: Annotated[int, typer.Option(metavar="PIXELS", help="Pixels to add at the bottom.")] = 0,
    count: CountOption = 1,
    seed: SeedOption = 0,
    label: LabelsOption = None,
    feather: FeatherOption = 0,
    fit: FitOption = None,
    columns: ColumnsOption = None,
    format: FormatOption = None,
    quality: QualityOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Paint on beyond an image's edges; its own pixels stay as they are, and --fit pad or crop changes the margins."""
    target = picture_target(output, format, quality, columns)
    check_labels(label, count)
    (pixels,) = read_images([image])
    options, way = sampling_options(sampling), check_fit(fit)
    generator = loaded(bundle, provider, precision, threads)
    options["label"] = turns(label, count, generator.manifest)
    margins = {"left": left, "top": top, "right": right, "bottom": bottom}
    result = generator.outpaint(pixels, count, seed, **margins, feather=feather, fit=way, **options)
    _write(result, target, stem(image), as_json, feather=feather, fit=way, margins=list(margins.values()))


@takes_sampling("size")
def vary(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image file to vary, or - for stdin.")],
    output: OutputOption,
    strength: Annotated[
        float, typer.Option(metavar="NUMBER", help="Share of the image that is drawn anew, above 0 and at most 1.")
    ] = 0.3,
    count: CountOption = 1,
    seed: SeedOption = 0,
    label: LabelsOption = None,
    fit: FitOption = None,
    columns: ColumnsOption = None,
    format: FormatOption = None,
    quality: QualityOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Draw variations of an image: a share of it is drawn anew, another for each seed."""
    target = picture_target(output, format, quality, columns)
    check_labels(label, count)
    (pixels,) = read_images([image])
    options, way = sampling_options(sampling), check_fit(fit)
    generator = loaded(bundle, provider, precision, threads)
    options["label"] = turns(label, count, generator.manifest)
    result = generator.vary(pixels, count, seed, strength=strength, fit=way, **options)
    _write(result, target, stem(image), as_json, strength=strength, fit=way)


def _write(result: Result, target: Target, name: str, as_json: bool, **more: Any) -> None:
    """Write pictures, and report them. ``more`` are settings beside those of the draw."""
    files = write_result(result, target, name)
    if as_json:
        say(target.piped, draw_report(result, files, result.settings, result.timings, more))
    else:
        say(target.piped, drawn_line(files, len(result.images), result.timings))
