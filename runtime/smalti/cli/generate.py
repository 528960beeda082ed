"""The verb that draws pictures from nothing: generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.bundle.reader import embedded_bundles, open_bundle
from smalti.cli.options import (
    BundleOption,
    JsonOption,
    ProviderOption,
    ThreadsOption,
    sampling_options,
    takes_sampling,
)
from smalti.errors import BundleError, OutputError, UsageError
from smalti.families.recipe import Recipe, read_recipe
from smalti.families.settings import chosen_options, unsuited
from smalti.files import check_folder, check_writable, portable_name
from smalti.generator import Generator
from smalti.loading.load import load
from smalti.platform import reachable
from smalti.result import Result, save_picture


@takes_sampling()
def generate(
    output: Annotated[str, typer.Option("--output", "-o", help="A .png (several images become a sheet) or a FOLDER/.")],
    count: Annotated[int | None, typer.Option(help="Images to draw. [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of image 0; image i has seed + i. [default: 0]")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label; give several to take turns. [default: drawn by the seed]")
    ] = None,
    columns: Annotated[int | None, typer.Option(help="Images per row of a sheet. [default: 4]")] = None,
    replay: Annotated[Path | None, typer.Option(help="A PNG made by smalti: make the same picture again.")] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, fp16 or int8. [default: auto]")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Draw images and write them as PNG. What is not given is the bundle's own default."""
    target = Path(output)
    folder = reachable(target).is_dir() or output.endswith(("/", "\\"))
    if not folder and target.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png, or a folder (with a slash at its end)")
    if columns is not None and columns < 1:
        raise UsageError(f"columns {columns}: at least 1 is needed")
    (check_folder if folder else check_writable)(target)
    options = sampling_options(sampling)
    if replay is not None:
        drawing = {"count": count, "seed": seed, "label": label or None, **options}
        drawing |= {"columns": columns, "precision": precision}
        if given := [f"--{name.replace('_', '-')}" for name, value in drawing.items() if value is not None]:
            raise UsageError(f"--replay takes everything from the file; leave out {', '.join(given)}")
        generator, result, columns = _replay(read_recipe(replay), bundle, provider, threads)
    else:
        generator = load(bundle, provider, precision or "auto", threads)
        count = 1 if count is None else count
        labels = None if not label else [label[i % len(label)] for i in range(count)]
        result = generator.generate(count, seed or 0, label=labels, **options)
        for line in unsuited(generator.manifest, result.settings):
            typer.echo(line, err=True)
    written = _write(generator, result, target, folder, 4 if columns is None else columns)
    if as_json:
        typer.echo(json.dumps(_summary(generator, result, written), indent=2))
    else:
        pixels = sum(image.width * image.height for image in result.images)
        typer.echo(
            f"{', '.join(map(str, written[:3]))}{' ...' if len(written) > 3 else ''}: {len(result.images)} image(s), "
            f"{result.timings.total:.2f} s, {result.timings.total / pixels * 1e6:.2f} s per megapixel"
        )


def _replay(recipe: Recipe, bundle: str | None, provider: str, threads: int | None) -> tuple[Generator, Result, int]:
    if bundle is None and recipe.bundle not in embedded_bundles():
        raise BundleError(f"the picture was made with bundle {recipe.bundle}, which is not embedded; add --bundle PATH")
    opened = open_bundle(bundle or recipe.bundle)
    if opened.digest != recipe.bundle_digest:
        raise BundleError(
            f"the picture was made with another version of bundle {recipe.bundle} (manifest sha256 "
            f"{recipe.bundle_digest[:12]}..., here {opened.digest[:12]}...); name that one with --bundle"
        )
    # By the coarsest, since a component that does not come in it runs in fp32.
    requested = next(one for one in ("int8", "fp16", "fp32") if one in recipe.precision.values())
    generator = load(opened, provider, requested, threads)
    if generator.report.precision != recipe.precision:
        raise BundleError(
            f"the picture was made in {recipe.precision}, and provider {generator.report.actual} would draw it in "
            f"{generator.report.precision}; name another provider"
        )
    options: dict[str, Any] = recipe.options
    result = generator.generate(seeds=recipe.seeds, label=recipe.labels, **options)
    return generator, result, recipe.columns


def _write(generator: Generator, result: Result, output: Path, folder: bool, columns: int) -> list[Path]:
    if not folder:
        result.save(output, columns)
        return [output]
    try:
        reachable(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {output}: {error.strerror}") from error
    name = portable_name(generator.manifest.name)
    paths = [output / f"{name}-{seed}.png" for seed in result.settings.seeds]
    for index, (path, image) in enumerate(zip(paths, result.images)):
        save_picture(image, path, result.recipe(slice(index, index + 1), 1))
    return paths


def _summary(generator: Generator, result: Result, written: list[Path]) -> dict[str, Any]:
    timings = result.timings
    return {
        "files": [str(path) for path in written],
        "bundle": generator.manifest.name,
        "settings": {
            "seeds": result.settings.seeds,
            "labels": result.settings.labels,
            **chosen_options(result.settings),
        },
        "seconds": {name: getattr(timings, name) for name in ("network", "draw", "decoder", "host", "total")},
        "network_calls": timings.calls,
        "provider": generator.report.to_dict(),
    }
