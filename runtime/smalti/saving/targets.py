"""Where pictures are written to and read from: a path, or a file that is open for bytes."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, cast, runtime_checkable

from smalti.errors import OutputError, UsageError
from smalti.families.checks import shown
from smalti.saving.formats import FORMATS, SUFFIXES, Format, check_format
from smalti.system.files import write_whole

LARGEST_FILE: Final = 2**28
"""Most bytes that are read from an open file."""
ENDS: Final = ", ".join(SUFFIXES)


@runtime_checkable
class Writes(Protocol):
    """A file that takes bytes."""

    def write(self, content: bytes, /) -> Any:
        """Write bytes."""
        ...


@runtime_checkable
class Reads(Protocol):
    """A file that gives bytes."""

    def read(self, size: int, /) -> bytes:
        """Read so many bytes, or all that are left."""
        ...


AnyPath: TypeAlias = str | bytes | os.PathLike[str]
Target: TypeAlias = AnyPath | Writes
Source: TypeAlias = AnyPath | Reads


def as_path(name: str, value: Any, allowed: str) -> Path:
    """Return a path from text or what gives text. Raises UsageError, which says what is ``allowed``, for others."""
    found = _text_of(value)
    if isinstance(value, str | bytes) and not value:
        raise UsageError(f"{name} is empty: {allowed} is needed")
    if not found or "\0" in found:
        raise UsageError(f"{name} {shown(value)}: {allowed} is needed, and a path is text without NUL characters")
    return Path(found)


def _text_of(value: Any) -> str | None:
    try:
        found = cast(object, os.fspath(cast("os.PathLike[str]", value)))
    except TypeError:  # no path, or one that says that it is something else
        return None
    return os.fsdecode(found) if isinstance(found, str | bytes) else None


def check_target(target: Any, format: Any, quality: Any) -> tuple[Path | Writes, Format, int | None]:
    """Return where to write, in which format, and its quality.

    The format is by default what the end of the name says. Raises UsageError for what is neither a path nor a file that
    is open to write bytes, for a name that says no format or another one, and as :func:`check_format` does.
    """
    allowed = f"a path that ends in {ENDS}, or a file that is open to write bytes,"
    if isinstance(target, str | bytes | os.PathLike) or not isinstance(target, Writes):
        where: Path | Writes = as_path("target", target, allowed)
        ending = SUFFIXES.get(where.suffix.lower())
        if format is None and ending is None:
            raise UsageError(f"target {where}: {allowed} is needed; or say format: {', '.join(FORMATS)}")
        kind, quality = check_format(ending if format is None else format, quality)
        if ending not in (None, kind):
            raise UsageError(f"format {kind}: target {where} ends as {ending} does; leave format out, or rename it")
        return where, kind, quality
    _check_open("target", target, "write", "w")
    if format is None:
        name: Any = getattr(target, "name", None)
        format = SUFFIXES.get(Path(name).suffix.lower()) if isinstance(name, str) else None
        if format is None:
            raise UsageError(f"format None: an open file whose name says none needs it: {', '.join(FORMATS)}")
    return target, *check_format(format, quality)


def write(where: Path | Writes, content: bytes) -> None:
    """Write bytes to a path, where they appear whole or not at all, or to an open file.

    Raises OutputError when they cannot be written, UsageError for an open file that takes only text.
    """
    if isinstance(where, Path):
        write_whole(where, content)
        return
    left = memoryview(content)
    try:
        while left:
            done = where.write(bytes(left))
            if done is None and isinstance(where, io.RawIOBase):
                raise OSError("it takes no more bytes now")
            if not isinstance(done, int) or not 0 < done < len(left):
                return  # all of it, as far as such an object says
            left = left[done:]
    except TypeError as error:
        raise UsageError(
            f"{told_file('target', where)}: it takes no bytes ({error}); open it with mode 'wb'"
        ) from error
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot write to {told_file('', where)}: {told}") from error


def check_source(name: str, source: Any) -> Path | io.BytesIO:
    """Return a path, or what an open file holds: all of it, as Pillow takes files, or what a pipe still gives.

    Raises UsageError for what is neither a path nor a file that is open to read bytes, or cannot be read.
    """
    if isinstance(source, str | bytes | os.PathLike) or not isinstance(source, Reads):
        return as_path(name, source, "a path, or a file that is open to read bytes,")
    _check_open(name, source, "read", "r")
    can: Any = getattr(source, "seekable", None)
    try:
        if callable(can) and can():
            cast(Any, source).seek(0)
        content: Any = source.read(LARGEST_FILE + 1)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{told_file(name, source)}: it cannot be read: {error}") from error
    if not isinstance(content, bytes | bytearray):
        raise UsageError(f"{told_file(name, source)}: it gives no bytes; open it with mode 'rb'")
    if not content:
        raise UsageError(f"{told_file(name, source)}: it is empty; a picture is needed")
    if len(content) > LARGEST_FILE:
        raise UsageError(f"{told_file(name, source)}: at most {LARGEST_FILE} bytes are read; name its path")
    return io.BytesIO(content)


def told_file(name: str, file: Any) -> str:
    """Return how messages call an open file, which is argument ``name``: stdin, stdout, or by its own name."""
    for stream, told in ((sys.stdin, "stdin"), (sys.stdout, "stdout"), (sys.stderr, "stderr")):
        if stream is not None and file in (stream, getattr(stream, "buffer", None)):  # pyright: ignore
            return told
    own: Any = getattr(file, "name", None)
    return f"{name} {own if isinstance(own, str) else 'open file'}".strip()


def _check_open(name: str, file: Any, verb: str, mode: str) -> None:
    """Raise UsageError for a file that is closed, is for text, or was opened for something else."""
    advice = f"a file that is open to {verb} bytes is needed (mode '{mode}b'), or a path"
    if getattr(file, "closed", False) is True:
        raise UsageError(f"{told_file(name, file)}: it is closed; {advice}")
    if isinstance(file, io.TextIOBase | type):
        raise UsageError(
            f"{told_file(name, file)}: it is {'a class' if isinstance(file, type) else 'for text'}; {advice}"
        )
    can = getattr(file, "writable" if verb == "write" else "readable", None)
    if callable(can) and not can():
        raise UsageError(f"{told_file(name, file)}: it was not opened to {verb}; {advice}")
