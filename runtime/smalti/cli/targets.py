"""Where pictures and arrays of a command go, ``-o``: a file, a folder with one file for each, or stdout."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from smalti.cli.streams import Closed
from smalti.codec.opening import open_image, reading
from smalti.drawing.result import Result
from smalti.errors import OutputError, UsageError
from smalti.saving.formats import FORMATS, SUFFIXES, Format, check_format, contact_sheet, encoded
from smalti.saving.targets import LARGEST_FILE, write
from smalti.system.files import check_folder, check_writable, write_whole
from smalti.system.platform import reachable

PIPE: Final = "-"
"""What stands for stdin and stdout."""
PICTURES: Final = "A .png, .jpg or .webp (several images become a sheet), a FOLDER/ for a file each, or - for stdout."
OutputOption = Annotated[str, typer.Option("--output", "-o", metavar="FILE|FOLDER/|-", help=PICTURES)]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="png, jpeg or webp, in a FOLDER/ or on stdout. [default: png]",
        autocompletion=lambda: list(FORMATS),
    ),
]
QualityOption = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="1 to 100, of JPEG (95) and of WebP. [default: WebP keeps all]")
]
ColumnsOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Images per row of a sheet. [default: 4]")]


@dataclass(frozen=True)
class Target:
    """Where pictures are written."""

    path: Path | None
    """A file or a folder; None for stdout."""
    folder: bool
    """Whether each picture becomes a file of its own."""
    format: Format
    quality: int | None
    columns: int | None
    """Images per row of a sheet, at least 1; None for the usual number."""

    @property
    def piped(self) -> bool:
        """Whether the pictures go to stdout, and all text to stderr."""
        return self.path is None


def picture_target(output: str, format: str | None, quality: int | None, columns: int | None) -> Target:
    """Read ``-o`` and what belongs to it, and check before the work that it can be written.

    Raises UsageError for what is no picture's place, OutputError where nothing can be written.
    """
    if columns is not None and columns < 1:
        raise UsageError(f"columns {columns}: at least 1 is needed")
    if output == PIPE:
        _check_no_terminal("a picture", "a .png")
        return Target(None, False, *check_format(format or "png", quality), columns)
    path = Path(output)
    if os.path.isdir(reachable(path)) or output.endswith(("/", "\\")):  # False for a name that is too long
        if columns is not None:
            raise UsageError(f"columns {columns}: a sheet has them, and in a folder each image has its own file")
        checked = check_format(format or "png", quality)
        check_folder(path)
        return Target(path, True, *checked, columns)
    ending = SUFFIXES.get(path.suffix.lower())
    if ending is None:
        raise UsageError(
            f"output {output}: name a file that ends in .png, .jpg, .jpeg or .webp, or a folder (with a slash at its "
            "end), or - for stdout"
        )
    checked = check_format(format or ending, quality)
    if checked[0] != ending:
        raise UsageError(f"format {format}: output {output} ends as {ending} does; leave --format out, or rename it")
    check_writable(path)
    return Target(path, False, *checked, columns)


def write_result(result: Result, target: Target, name: str) -> list[str]:
    """Write a result's pictures with their recipes; return the names of the files, ``-`` for stdout.

    In a folder, files are called ``name`` and the image's seed.
    """
    if target.path is None:
        result.save(_stdout(), target.columns, format=target.format, quality=target.quality)
        return [PIPE]
    if not target.folder:
        result.save(target.path, target.columns, quality=target.quality)
        return [str(target.path)]
    paths = [_member(target, f"{name}-{seed}") for seed in result.settings.seeds]
    for index, path in enumerate(paths):
        result.save(path, which=index, format=target.format, quality=target.quality)
    return list(map(str, paths))


def write_images(images: Sequence[Image.Image], target: Target, name: str) -> list[str]:
    """Write pictures without recipes as :func:`write_result` does; in a folder, by ``name`` and their index."""
    if target.path is not None and target.folder:
        paths = [_member(target, f"{name}-{index}") for index in range(len(images))]
        for path, image in zip(paths, images):
            write_whole(path, encoded(image, target.format, target.quality))
        return list(map(str, paths))
    sheet = contact_sheet(np.stack([np.asarray(image) for image in images]), target.columns or 4)
    content = encoded(sheet, target.format, target.quality)
    write(_stdout() if target.path is None else target.path, content)
    return [PIPE if target.path is None else str(target.path)]


def check_array_target(output: str) -> None:
    """Check before the work that ``output`` is a .npy that can be written, or stdout.

    Raises UsageError or OutputError where it is not.
    """
    if output == PIPE:
        _check_no_terminal("an array", "a .npy")
        return
    if Path(output).suffix != ".npy":
        raise UsageError(f"output {output}: name a file that ends in .npy, or - for stdout")
    check_writable(Path(output))


def write_array(array: NDArray[Any], output: str) -> None:
    """Write an array as a .npy. Raises OutputError."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write(_stdout() if output == PIPE else Path(output), buffer.getvalue())


def read_images(names: Sequence[Path]) -> list[Image.Image]:
    """Open images completely; ``-`` is stdin, which can be read once. Raises UsageError."""
    check_one_stdin(names)
    return [_read_stdin() if str(name) == PIPE else open_image(name) for name in names]


def check_one_stdin(names: Sequence[Path]) -> None:
    """Raise UsageError where more than one file is to be read from stdin."""
    if [str(name) for name in names].count(PIPE) > 1:
        raise UsageError("image -: stdin holds one file; name the others")


def stdin_bytes() -> bytes:
    """Return all of stdin. Raises UsageError where it is a terminal, or too large."""
    stream: Any = sys.stdin
    if stream is None or not hasattr(stream, "buffer"):
        raise UsageError("-: there is no stdin to read; name a file")
    if stream.isatty():
        raise UsageError("-: stdin is a terminal; name a file, or send one with <")
    content = cast(bytes, stream.buffer.read(LARGEST_FILE + 1))
    if not content:
        raise UsageError("-: stdin is empty; name a file, or send one with <")
    if len(content) > LARGEST_FILE:
        raise UsageError(f"-: at most {LARGEST_FILE} bytes are read from stdin; name a file")
    return content


def stem(name: Path) -> str:
    """Return the beginning of the names of files that are made from an image."""
    return "picture" if str(name) == PIPE else name.stem


def say(target_is_piped: bool, text: str) -> None:
    """Print a report: on stdout, or on stderr where stdout holds the picture."""
    typer.echo(text, err=target_is_piped)


def _read_stdin() -> Image.Image:
    content = io.BytesIO(stdin_bytes())
    with reading("stdin"):
        image = Image.open(content)
        image.load()
    return image


def _member(target: Target, name: str) -> Path:
    folder = cast(Path, target.path)
    try:
        reachable(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {folder}: {error.strerror}") from error
    return folder / f"{name}{next(end for end, kind in SUFFIXES.items() if kind == target.format)}"


def _check_no_terminal(what: str, file: str) -> None:
    if sys.stdout is None or isinstance(sys.stdout, Closed):  # pyright: ignore[reportUnnecessaryComparison]
        raise UsageError(f"output -: stdout is closed; leave it open, or name {file}")
    if sys.stdout.isatty():
        raise UsageError(f"output -: {what} is no text for a terminal; send it on with > or |, or name {file}")


def _stdout() -> Any:
    """Return stdout as a file of bytes, after what was printed."""
    sys.stdout.flush()
    return getattr(sys.stdout, "buffer", sys.stdout)
