"""The runtime's verbs: generate, encode, decode, bench."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from smalti import __version__
from smalti.bench import measure
from smalti.bundle import embedded_bundles
from smalti.cli import LAZY
from smalti.errors import BundleError, OutputError, UsageError
from smalti.generator import Generator, Result, load
from smalti.images import (
    Recipe,
    check_folder,
    check_writable,
    contact_sheet,
    open_image,
    read_recipe,
    save_png,
    write_whole,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Vector-quantised image models, run without torch.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 bad bundle, 4 no such provider, 6 parity failed, 130 interrupted.",
)

BundleOption = Annotated[str | None, typer.Option(help="Path or name of a bundle; the embedded one by default.")]
ProviderOption = Annotated[str, typer.Option(envvar="SMALTI_PROVIDER", help="auto or cpu.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Cores to use; all by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]

StepsOption = Annotated[int | None, typer.Option(help="Diffusion steps, 1 or more.")]
TemperatureOption = Annotated[float | None, typer.Option(help="0.01 to 100; lower is tamer.")]
GuidanceOption = Annotated[float | None, typer.Option(help="0 to 100, pull towards the label; 1: none.")]
ScheduleOption = Annotated[str | None, typer.Option(help="Tokens per step: exact (even), cosine or binomial.")]
OrderOption = Annotated[str | None, typer.Option(help="Which tokens first: random or halton.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"smalti {__version__}")
        raise typer.Exit


@app.command()
def generate(
    output: Annotated[str, typer.Option("--output", "-o", help="A .png (several images become a sheet) or a FOLDER/.")],
    count: Annotated[int | None, typer.Option(help="Images to draw. [default: 1]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of image 0; image i has seed + i. [default: 0]")] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label; give several to take turns. [default: drawn by the seed]")
    ] = None,
    steps: StepsOption = None,
    temperature: TemperatureOption = None,
    guidance: GuidanceOption = None,
    schedule: ScheduleOption = None,
    order: OrderOption = None,
    columns: Annotated[int | None, typer.Option(help="Images per row of a sheet. [default: 4]")] = None,
    replay: Annotated[Path | None, typer.Option(help="A PNG made by smalti: make the same picture again.")] = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: Annotated[str | None, typer.Option(help="auto, fp32, fp16 or int8. [default: auto]")] = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw images and write them as PNG. What is not given is the bundle's own default."""
    target = Path(output)
    folder = target.is_dir() or output.endswith(("/", "\\"))
    if not folder and target.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png, or a folder (with a slash at its end)")
    if columns is not None and columns < 1:
        raise UsageError(f"columns {columns}: at least 1 is needed")
    (check_folder if folder else check_writable)(target)
    if replay is not None:
        drawing = {"count": count, "seed": seed, "label": label or None, "steps": steps, "temperature": temperature}
        others = {
            "guidance": guidance,
            "schedule": schedule,
            "order": order,
            "columns": columns,
            "precision": precision,
        }
        if given := [f"--{name}" for name, value in {**drawing, **others}.items() if value is not None]:
            raise UsageError(f"--replay takes everything from the file; leave out {', '.join(given)}")
        generator, result, columns = _replay(read_recipe(replay), bundle, provider, threads)
    else:
        generator = load(bundle, provider, precision or "auto", threads)
        count = 1 if count is None else count
        labels = None if not label else [label[i % len(label)] for i in range(count)]
        result = generator.generate(
            count,
            seed or 0,
            label=labels,
            steps=steps,
            temperature=temperature,
            guidance=guidance,
            schedule=schedule,  # pyright: ignore[reportArgumentType] - checked by generate, with a kind message
            order=order,  # pyright: ignore[reportArgumentType] - likewise
        )
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
    generator = load(bundle or recipe.bundle, provider, recipe.precision.get("denoiser", "auto"), threads)
    if generator.bundle.digest != recipe.bundle_digest:
        raise BundleError(
            f"the picture was made with another version of bundle {recipe.bundle} (manifest sha256 "
            f"{recipe.bundle_digest[:12]}..., here {generator.bundle.digest[:12]}...); name that one with --bundle"
        )
    result = generator.generate(
        seeds=recipe.seeds,
        label=recipe.labels,
        steps=recipe.steps,
        temperature=recipe.temperature,
        guidance=recipe.guidance,
        schedule=recipe.schedule,  # pyright: ignore[reportArgumentType] - checked by generate
        order=recipe.order,  # pyright: ignore[reportArgumentType] - checked by generate
    )
    return generator, result, recipe.columns


def _write(generator: Generator, result: Result, output: Path, folder: bool, columns: int) -> list[Path]:
    if not folder:
        result.save(output, columns)
        return [output]
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {output}: {error.strerror}") from error
    paths = [output / f"{generator.manifest.name}-{seed}.png" for seed in result.settings.seeds]
    for index, (path, image) in enumerate(zip(paths, result.images)):
        save_png(image, path, result.recipe(slice(index, index + 1), 1))
    return paths


def _summary(generator: Generator, result: Result, written: list[Path]) -> dict[str, Any]:
    timings = result.timings
    return {
        "files": [str(path) for path in written],
        "bundle": generator.manifest.name,
        "settings": {name: getattr(result.settings, name) for name in result.settings.__dataclass_fields__},
        "seconds": {name: getattr(timings, name) for name in ("network", "draw", "decoder", "host", "total")},
        "network_calls": timings.calls,
        "provider": generator.report.to_dict(),
    }


@app.command()
def inpaint(
    image: Annotated[Path, typer.Argument(help="Image of the bundle's own size.")],
    mask: Annotated[Path, typer.Argument(help="Image of the same size; white is repainted.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png; several images become a sheet.")],
    count: Annotated[int, typer.Option(help="Variants to draw.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of variant 0; variant i has seed + i.")] = 0,
    label: Annotated[str | None, typer.Option(help="Label. [default: none, the image says what it is]")] = None,
    steps: StepsOption = None,
    temperature: TemperatureOption = None,
    guidance: GuidanceOption = None,
    schedule: ScheduleOption = None,
    order: OrderOption = None,
    columns: Annotated[int, typer.Option(min=1, help="Images per row of a sheet.")] = 4,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Repaint a part of an image; the other pixels stay as they are."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png")
    check_writable(output)
    pixels, white = open_image(image), open_image(mask)
    result = load(bundle, provider, precision, threads).inpaint(
        pixels,
        white,
        count,
        seed,
        label=label,
        steps=steps,
        temperature=temperature,
        guidance=guidance,
        schedule=schedule,  # pyright: ignore[reportArgumentType] - checked by inpaint, with a kind message
        order=order,  # pyright: ignore[reportArgumentType] - likewise
    )
    save_png(contact_sheet(np.stack([np.asarray(drawn) for drawn in result.images]), columns), output)
    typer.echo(f"{output}: {len(result.images)} image(s), {result.timings.total:.2f} s")


@app.command()
def encode(
    images: Annotated[list[Path], typer.Argument(help="Image files, all of one size.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .npy for the tokens (int32 [N, h, w]).")],
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Turn images into tokens."""
    if output.suffix != ".npy":
        raise UsageError(f"output {output}: name a file that ends in .npy")
    check_writable(output)
    generator = load(bundle, provider, precision, threads)
    tokens = generator.encode([open_image(path) for path in images])
    buffer = io.BytesIO()
    np.save(buffer, tokens, allow_pickle=False)
    write_whole(output, buffer.getvalue())
    typer.echo(f"{output}: tokens {list(tokens.shape)}")


@app.command()
def decode(
    tokens: Annotated[Path, typer.Argument(help="A .npy of tokens (integers [N, h, w] or [h, w]).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .png; several images become a sheet.")],
    columns: Annotated[int, typer.Option(min=1, help="Images per row of a sheet.")] = 4,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Turn tokens into images, of any size."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png")
    check_writable(output)
    try:
        grids = np.load(tokens, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{tokens} does not exist; name a .npy that 'smalti encode' made") from None
    except (OSError, ValueError, EOFError):
        raise UsageError(f"{tokens} is not a .npy of integers, such as 'smalti encode' makes") from None
    images = load(bundle, provider, precision, threads).decode(grids)
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
    as_json: JsonOption = False,
) -> None:
    """Measure seconds per megapixel, split into network, draw, decoder and host."""
    report = measure(load(bundle, provider, precision, threads), count=count, steps=steps, repeats=repeats)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    typer.echo(
        f"{report['bundle']}: {report['count']} x {report['width']}x{report['height']}, {report['steps']} steps "
        f"({report['network_calls']} network calls), {report['provider']['runtime']}, "
        f"{report['provider']['precision']['denoiser']}, {report['provider']['threads']} threads"
    )
    typer.echo(f"{'stage':<10}{'seconds':>10}{'s/megapixel':>14}{'share':>9}")
    for stage, seconds in report["seconds"].items():
        share = seconds / report["seconds"]["total"]
        typer.echo(f"{stage:<10}{seconds:>10.4f}{report['seconds_per_megapixel'][stage]:>14.3f}{share:>9.1%}")


def _placeholder(verb: str, help_line: str) -> None:
    """List a lazily loaded verb in the help; calls to it never come this far (see smalti.cli)."""

    @app.command(verb, help=help_line, add_help_option=False)
    def _(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:  # pyright: ignore[reportUnusedFunction]
        del arguments


for _verb, (_, _help) in LAZY.items():
    _placeholder(_verb, _help)
