"""Options that several verbs of the command line share, and readers of their texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import msgspec
import typer

from smalti.errors import UsageError
from smalti.families.settings import DECLARED
from smalti.files import check_writable

Command = TypeVar("Command", bound=Callable[..., Any])

BundleOption = Annotated[str | None, typer.Option(help="Path or name of a bundle; the embedded one by default.")]
ProviderOption = Annotated[str, typer.Option(envvar="SMALTI_PROVIDER", help="auto, cpu, cuda, rtx, trt or webgpu.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Cores to use; all by default.")]
ResolutionOption = Annotated[
    int | None, typer.Option(help="Pixels per side of the bundle's own grid; its first size by default.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]


def check_png(output: Path) -> None:
    """Check before the work that ``output`` is a PNG that can be written. Raises UsageError or OutputError."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png")
    check_writable(output)


def sampling_flags() -> dict[str, Any]:
    """Return the annotation of a flag for every option of a draw. Types and help are what the families declare."""
    flags: dict[str, Any] = {}
    for name, declared in DECLARED.items():
        kind, *notes = get_args(declared)
        text = next(note.description for note in notes if isinstance(note, msgspec.Meta))
        typed = next((number for number in (int, float) if kind in (number, number | None)), str)
        flags[name] = Annotated[typed | None, typer.Option(help=text)]
    return flags


def takes_sampling(*without: str, before: str = "columns") -> Callable[[Command], Command]:
    """Return a decorator that gives a command a flag for every option of a draw, but for those in ``without``.

    The command takes the options as keywords. Help lists them before the parameter ``before``.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        flags = {name: kind for name, kind in sampling_flags().items() if name not in without}
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in flags.items()
        ]
        own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        place = next((index for index, one in enumerate(own) if one.name == before), len(own))
        own[place:place] = added
        command.__signature__ = signature.replace(parameters=own)  # pyright: ignore[reportFunctionMemberAccess]
        command.__annotations__ = {one.name: one.annotation for one in own}
        return command

    return decorate


def sampling_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given as :class:`smalti.families.settings.Options`.

    This reads texts only; values are checked where they are used. Raises UsageError for a text that cannot be read.
    """
    readers = {"remask": remask_value, "proportion": _proportion, "size": _size}
    read = {name: readers[name](value) if name in readers else value for name, value in given.items()}
    return {name: value for name, value in read.items() if value is not None}


def remask_value(text: str | None) -> float | str | None:
    """Read the text of ``--remask``: a number, or mlm. Raises UsageError for anything else."""
    if text is None or text == "mlm":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"remask {text!r}: allowed are 0 .. 1 and mlm") from None


def _proportion(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    first, colon, last = text.partition(":")
    try:
        return float(first), float(last if colon else first)
    except ValueError:
        raise UsageError(
            f"proportion {text!r}: a number above 0 and at most 1 is needed, or two such as 0.8:0.3"
        ) from None


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise UsageError(f"size {text!r}: width x height in pixels are needed, such as 512x256") from None
