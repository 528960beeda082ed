"""The verb that draws pictures from nothing: generate."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from smalti.cli.completion import complete_precision
from smalti.cli.loading import build_shown, loaded
from smalti.cli.options import (
    BundleOption,
    DrawnLabelsOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    check_labels,
    sampling_options,
    takes_sampling,
    turns,
)
from smalti.cli.reports import draw_report, drawn_line
from smalti.cli.targets import (
    PIPE,
    ColumnsOption,
    FormatOption,
    OutputOption,
    QualityOption,
    Target,
    check_one_stdin,
    picture_target,
    read_images,
    say,
    stdin_bytes,
    write_result,
)
from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.families.settings import Options, resolve, unsuited
from smalti.loading.replay import replay as replay_picture
from smalti.system.files import portable_name


@takes_sampling()
def generate(
    output: OutputOption,
    count: Annotated[int | None, typer.Option(metavar="NUMBER", help="Images to draw. [default: 1]")] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="NUMBER", help="Seed of image 0; image i has seed + i. [default: 0]")
    ] = None,
    label: DrawnLabelsOption = None,
    columns: ColumnsOption = None,
    format: FormatOption = None,
    quality: QualityOption = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Draw also what is in the FOLDER/ already. [default: skip it]")
    ] = False,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture made by smalti, or - for stdin: make it again.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The image that a picture to replay began from.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The mask that a picture to replay was inpainted with.")
    ] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="auto, fp32, fp16 or int8. [default: auto]", autocompletion=complete_precision
        ),
    ] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Draw images and write them. What is not given is the bundle's own default.

    In a FOLDER/ each image is written as soon as it is ready, and what is there already is not drawn again.
    """
    target = picture_target(output, format, quality, columns)
    if overwrite and (replay is not None or not target.folder):
        raise UsageError(
            "--overwrite belongs to a FOLDER/ that images are drawn into; leave it out, or name one with -o"
        )
    options = sampling_options(sampling)
    if replay is not None:
        drawing = {"count": count, "seed": seed, "label": label or None, **options}
        drawing |= {"columns": columns, "precision": precision}
        if given := [f"--{name.replace('_', '-')}" for name, value in drawing.items() if value is not None]:
            raise UsageError(f"--replay takes everything from the file; leave out {', '.join(given)}")
        _replay(replay, image, mask, target, bundle, provider, threads, as_json)
        return
    if image or mask:
        raise UsageError("--image and --mask belong to --replay; to draw on an image, take inpaint, outpaint or vary")
    count, seed = 1 if count is None else count, seed or 0
    check_labels(label, count)
    generator = loaded(bundle, provider, precision or "auto", threads)
    options["label"] = turns(label, count, generator.manifest)
    if target.path is not None and target.folder:
        _into_folder(generator, target.path, target, count, seed, overwrite, as_json, options)
        return
    result = generator.generate(count, seed, **options)
    for line in unsuited(generator.manifest, result.settings):
        typer.echo(line, err=True)
    files = write_result(result, target, "")
    if as_json:
        say(target.piped, draw_report(result, files, result.settings, result.timings))
    else:
        pixels = sum(image.width * image.height for image in result.images)
        say(target.piped, drawn_line(files, len(result.images), result.timings, pixels))


def _into_folder(
    generator: Generator,
    folder: Path,
    target: Target,
    count: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Draw a file for each image, with a bar on a terminal."""
    settings = resolve(generator.manifest, count, seed, cast(Options, options))
    for line in unsuited(generator.manifest, settings):
        typer.echo(line, err=True)
    given: dict[str, Any] = {"format": target.format, "quality": target.quality, "overwrite": overwrite, **options}
    if sys.stderr.isatty():
        with typer.progressbar(length=count, label="images", file=sys.stderr) as bar:
            written = generator.generate_into(
                folder, count, seed, on_picture=lambda done, total, path: bar.update(done - bar.pos), **given
            )
    else:
        written = generator.generate_into(folder, count, seed, **given)
    files = list(map(str, written.paths))
    if as_json:
        counts = {"drawn": written.drawn, "skipped": written.skipped}
        typer.echo(draw_report(generator, files, settings, written.timings, counts=counts))
        return
    pixels = written.drawn * settings.size[0] * settings.size[1]
    there = f"; {written.skipped} of them were there" if written.skipped else ""
    typer.echo(drawn_line(files, count, written.timings, pixels) + there)


def _replay(
    source: Path,
    image: Path | None,
    mask: Path | None,
    target: Target,
    bundle: str | None,
    provider: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Draw again what a picture shows."""
    names = {"image": image, "mask": mask}
    there = {name: path for name, path in names.items() if path is not None}
    check_one_stdin([source, *there.values()])
    opened: dict[str, Any] = dict(zip(there, read_images(list(there.values()))))
    file: Any = source
    if str(source) == PIPE:
        file = io.BytesIO(stdin_bytes())
        file.name = "stdin"  # as messages call it
    with build_shown() as on_build:
        result = replay_picture(file, **opened, bundle=bundle, provider=provider, threads=threads, on_build=on_build)
    files = write_result(result, target, portable_name(result.bundle.manifest.name))
    if as_json:
        say(target.piped, draw_report(result, files, result.settings, result.timings))
    else:
        pixels = sum(image.width * image.height for image in result.images)
        say(target.piped, drawn_line(files, len(result.images), result.timings, pixels))
