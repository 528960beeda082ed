"""The verbs between pictures and arrays: encode, embed and decode."""

from __future__ import annotations

import io
import math
import time
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import numpy as np
import typer
from numpy.typing import NDArray

from smalti.cli.loading import loaded
from smalti.cli.options import (
    BundleOption,
    FitOption,
    JsonOption,
    PrecisionOption,
    ProviderOption,
    ResolutionOption,
    ThreadsOption,
)
from smalti.cli.reports import work_report
from smalti.cli.targets import (
    PIPE,
    ColumnsOption,
    FormatOption,
    OutputOption,
    QualityOption,
    check_array_target,
    picture_target,
    read_images,
    say,
    stdin_bytes,
    write_array,
    write_images,
)
from smalti.codec.fit import check_fit
from smalti.drawing.generator import Generator
from smalti.errors import UsageError
from smalti.families.limits import memory_told
from smalti.system.platform import command_line, reachable

ImagesArgument = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", help="Image files, or - for stdin; to be encoded, all of one size.")
]


def encode(
    images: ImagesArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|-", help="A .npy for the tokens (int32 [N, h, w]), or - for stdout."
        ),
    ],
    resolution: ResolutionOption = None,
    fit: FitOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn images into tokens."""
    check_array_target(output)
    opened, way = read_images(images), check_fit(fit)
    generator = loaded(bundle, provider, precision, threads)
    started = time.perf_counter()
    tokens = generator.encode(opened, resolution, fit=way)
    settings = {"resolution": generator.manifest.resolution(resolution).pixels, "fit": way}
    _write(generator, tokens, "tokens", output, settings, started, as_json)


def embed(
    images: ImagesArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE|-", help="A .npy for the features (float32 [N, D]), or - for stdout."
        ),
    ],
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn images into vectors of length 1, whose products say how alike the images are."""
    check_array_target(output)
    opened = read_images(images)
    generator = loaded(bundle, provider, precision, threads)
    started = time.perf_counter()
    features = generator.embed(opened)
    _write(generator, features, "features", output, {}, started, as_json)


def decode(
    tokens: Annotated[
        Path,
        typer.Argument(metavar="TOKENS", help="A .npy of tokens (integers [N, h, w] or [h, w]), or - for stdin."),
    ],
    output: OutputOption,
    columns: ColumnsOption = None,
    format: FormatOption = None,
    quality: QualityOption = None,
    resolution: ResolutionOption = None,
    bundle: BundleOption = None,
    provider: ProviderOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn tokens into images, of any size."""
    target = picture_target(output, format, quality, columns)
    grids = _load_npy(tokens)
    generator = loaded(bundle, provider, precision, threads)
    started = time.perf_counter()
    images = generator.decode(grids, resolution)
    seconds = time.perf_counter() - started
    files = write_images(images, target, "tokens" if str(tokens) == PIPE else tokens.stem)
    size = images[0].size
    if as_json:
        settings = {"resolution": generator.manifest.resolution(resolution).pixels, "size": list(size)}
        say(target.piped, work_report(generator, files, settings, seconds, images=len(images)))
    else:
        named = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
        say(target.piped, f"{named}: {len(images)} image(s) of {size[0]}x{size[1]}")


def _write(
    generator: Generator,
    array: NDArray[Any],
    what: str,
    output: str,
    settings: dict[str, Any],
    started: float,
    as_json: bool,
) -> None:
    """Write an array, and report it."""
    seconds = time.perf_counter() - started
    write_array(array, output)
    if as_json:
        shape = {"shape": list(array.shape), "dtype": str(array.dtype)}
        say(output == PIPE, work_report(generator, [output], settings, seconds, **{what: shape}))
    else:
        say(output == PIPE, f"{output}: {what} {list(array.shape)}")


def _load_npy(tokens: Path) -> NDArray[Any]:
    """Read an array of a file or of stdin. Raises UsageError for anything else."""
    named = "stdin" if str(tokens) == PIPE else str(tokens)
    try:
        if named == "stdin":
            content = stdin_bytes()
            return _read_npy(io.BytesIO(content), len(content), named)
        file = reachable(tokens)
        if not file.is_file():  # a pipe could block for ever
            raise FileNotFoundError
        with file.open("rb") as handle:
            return _read_npy(handle, file.stat().st_size, named)
    except FileNotFoundError:
        raise UsageError(f"{tokens} does not exist; name a .npy that '{command_line()} encode' made") from None
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError):
        raise UsageError(f"{named} is not a .npy of integers, such as '{command_line()} encode' makes") from None


@memory_told()
def _read_npy(handle: BinaryIO, size: int, named: str) -> NDArray[Any]:
    """Read an array. What it says of its size is compared with the file's first, since NumPy would take that memory."""
    old = np.lib.format.read_magic(handle) == (1, 0)
    read_header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(handle)
    needed, there = math.prod(shape) * kind.itemsize, size - handle.tell()
    if needed > there:
        raise UsageError(
            f"{named} is cut off or damaged: its header tells of {needed} bytes, and {there} follow; make it anew with "
            f"'{command_line()} encode'"
        )
    handle.seek(0)
    return np.load(handle, allow_pickle=False)
