"""Options that the verbs of ``smalti train`` share. Nothing here imports torch, so that help always prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

PresetOption = Annotated[str, typer.Option(metavar="PRESET", help="Named configuration.")]
OwnPresetOption = Annotated[
    str | None,
    typer.Option(metavar="PRESET", help="Named configuration. [default: the run's own, if there is one, or avatars]"),
]
RunOption = Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the run; made if it does not exist.")]
StepsOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Steps in all.")]
BatchOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Images per step, over all processes.")]
LrOption = Annotated[float | None, typer.Option(metavar="NUMBER", help="Peak learning rate.")]
PrecisionOption = Annotated[str | None, typer.Option(metavar="NAME", help="bf16, fp16 (GPU only) or fp32.")]
CompileOption = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the model first.")]
SeedOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Seed of weights, order and noise.")]
DataOption = Annotated[str | None, typer.Option(metavar="NAME", help="Data set: avatars, folder or fashion-mnist.")]
RootOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Folder of the images, for data sets that need one.")
]
InitOption = Annotated[
    str | None, typer.Option(metavar="RUN|BUNDLE", help="Run or bundle whose weights a new run starts from.")
]


@dataclass(frozen=True)
class Changes:
    """What a command line changes of a preset; None leaves a field as it is."""

    steps: int | None = None
    batch: int | None = None
    lr: float | None = None
    precision: str | None = None
    compile: bool | None = None
    seed: int | None = None
    data: str | None = None
    root: Path | None = None
