"""Options that several verbs of the command line share, and what their texts mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.errors import UsageError
from smalti.images import check_writable

BundleOption = Annotated[str | None, typer.Option(help="Path or name of a bundle; the embedded one by default.")]
ProviderOption = Annotated[str, typer.Option(envvar="SMALTI_PROVIDER", help="auto or cpu.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, fp16 or int8.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Cores to use; all by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Report as JSON on stdout.")]

StepsOption = Annotated[int | None, typer.Option(help="Steps, 1 or more.")]
TemperatureOption = Annotated[float | None, typer.Option(help="0.01 to 100; lower is tamer.")]
FinalTemperatureOption = Annotated[
    float | None, typer.Option(help="SUNDAE: temperature of the last step, to which it goes from --temperature.")
]
ProportionOption = Annotated[
    str | None, typer.Option(help="SUNDAE: share drawn anew per step, such as 0.5, or 0.8:0.3 from first to last.")
]
MinStepsOption = Annotated[int | None, typer.Option(help="SUNDAE: steps before unchanged images are frozen.")]
TopKOption = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens; 0: from all.")]
TopPOption = Annotated[float | None, typer.Option(help="Draw from the likeliest tokens of this share; 1: from all.")]
GuidanceOption = Annotated[float | None, typer.Option(help="0 to 100, pull towards the label; 1: none.")]
ScheduleOption = Annotated[str | None, typer.Option(help="Tokens per step: exact (even), cosine or binomial.")]
OrderOption = Annotated[str | None, typer.Option(help="Which tokens first: random, halton or confidence.")]
ChoiceOption = Annotated[float | None, typer.Option(help="Chance in order confidence, 0 to 1e6.")]
RemaskOption = Annotated[str | None, typer.Option(help="How much is drawn again: 0 to 1, or mlm.")]
SizeOption = Annotated[str | None, typer.Option(help="Pixels, such as 512x256; the bundle's own by default.")]
StrideOption = Annotated[
    int | None, typer.Option(help="Tokens between windows where the size is not the bundle's own.")
]


def check_png(output: Path) -> None:
    """Raise UsageError or OutputError unless ``output`` is a PNG that can be written, before any work for it."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"output {output}: name a file that ends in .png")
    check_writable(output)


def sampling_options(
    *,
    steps: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    guidance: float | None,
    schedule: str | None,
    order: str | None,
    choice_temperature: float | None,
    remask: str | None,
    stride: int | None,
    final_temperature: float | None,
    proportion: str | None,
    min_steps: int | None,
    size: str | None = None,
) -> dict[str, Any]:
    """Those of the options that were given, as :class:`smalti.families.settings.Options` has them.

    Only texts are read here; values are checked where they are used. Raises UsageError for a text that says nothing.
    """
    given = {**locals(), "remask": remask_value(remask), "proportion": _proportion(proportion), "size": _size(size)}
    return {name: value for name, value in given.items() if value is not None}


def remask_value(text: str | None) -> float | str | None:
    """Read what ``--remask`` says: a number, or mlm. Raises UsageError for anything else."""
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
