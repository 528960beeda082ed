"""Options that several verbs of the command line share, and readers of their texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeVar, get_args

import msgspec
import typer

from smalti.bundle.manifest import Manifest
from smalti.cli.completion import complete_bundle, complete_label, complete_precision, complete_provider
from smalti.codec.fit import FITS
from smalti.errors import UsageError
from smalti.families.settings import DECLARED

Command = TypeVar("Command", bound=Callable[..., Any])

BundleArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE",
        help="Path or name of a bundle. [default: the embedded one]",
        autocompletion=complete_bundle,
    ),
]
BundleOption = Annotated[
    str | None,
    typer.Option(
        metavar="BUNDLE",
        help="Path or name of a bundle; the embedded one by default.",
        autocompletion=complete_bundle,
    ),
]
ProviderOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        envvar="SMALTI_PROVIDER",
        help="auto, cpu, cuda, rtx, trt or webgpu.",
        autocompletion=complete_provider,
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(metavar="NAME", help="auto, fp32, fp16 or int8.", autocompletion=complete_precision)
]
ThreadsOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Cores to use; all by default.")]
ResolutionOption = Annotated[
    int | None,
    typer.Option(metavar="PIXELS", help="Pixels per side of the bundle's own grid; its first size by default."),
]
FitOption = Annotated[
    str | None,
    typer.Option(
        metavar="WAY",
        help="pad, crop or stretch images to a size that fits. [default: none, refuse them]",
        autocompletion=lambda: list(FITS),
    ),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="LABEL",
        help="Label, by name or index; give several to take turns. [default: none, the image says what it is]",
        autocompletion=complete_label,
    ),
]
DrawnLabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="LABEL",
        help="Label, by name or index; give several to take turns. [default: drawn by the seed]",
        autocompletion=complete_label,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]

METAVARS: Final[Mapping[str, str]] = {
    "resolution": "PIXELS",
    "size": "WIDTHxHEIGHT",
    "schedule": "NAME",
    "order": "NAME",
    "remask": "NUMBER|mlm",
    "proportion": "NUMBER[:NUMBER]",
}
"""What is typed for an option of a draw that is no plain number."""


def sampling_flags() -> dict[str, Any]:
    """Return the annotation of a flag for every option of a draw. Types and help are what the families declare."""
    flags: dict[str, Any] = {}
    for name, declared in DECLARED.items():
        kind, *notes = get_args(declared)
        text = next(note.description for note in notes if isinstance(note, msgspec.Meta))
        typed = next((number for number in (int, float) if kind in (number, number | None)), str)
        flags[name] = Annotated[typed | None, typer.Option(help=text, metavar=METAVARS.get(name, "NUMBER"))]
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


def check_labels(given: Sequence[str] | None, count: int) -> None:
    """Raise UsageError where more labels are given than there are images, since some would be drawn by none."""
    if given and len(given) > count >= 1:
        raise UsageError(
            f"label: {len(given)} labels for {count} image{'s' if count > 1 else ''}, and each image has one; draw "
            f"more with --count {len(given)}, or leave some out"
        )


def turns(given: Sequence[str] | None, count: int, manifest: Manifest) -> list[str | int] | None:
    """Return the label of each of ``count`` images, which take turns; None where no label is given.

    A whole number that is no label's name is an index; whether there is such a label is checked where it is drawn.
    """
    if not given:
        return None
    check_labels(given, count)
    read = [int(one) if one not in manifest.classes and one.isdecimal() and one.isascii() else one for one in given]
    return [read[index % len(read)] for index in range(count)]


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
