"""Options shared by the verbs of ``smalti train``, and how they change a preset."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, get_args

import typer

from smalti.errors import UsageError
from smalti_train.data.config import DataConfig
from smalti_train.runs.config import AnyRun, Precision

PresetOption = Annotated[str, typer.Option(help="Named configuration.")]
RunOption = Annotated[Path, typer.Option(help="Folder of the run; made if it does not exist.")]
StepsOption = Annotated[int | None, typer.Option(help="Steps in all.")]
BatchOption = Annotated[int | None, typer.Option(help="Images per step, over all processes.")]
LrOption = Annotated[float | None, typer.Option(help="Peak learning rate.")]
PrecisionOption = Annotated[str | None, typer.Option(help="bf16, fp16 (GPU only) or fp32.")]
CompileOption = Annotated[bool | None, typer.Option("--compile/--no-compile", help="Compile the model first.")]
SeedOption = Annotated[int | None, typer.Option(help="Seed of weights, order and noise.")]
DataOption = Annotated[str | None, typer.Option(help="Data set: avatars, folder or fashion-mnist.")]
RootOption = Annotated[Path | None, typer.Option(help="Folder of the images, for data sets that need one.")]
InitOption = Annotated[str | None, typer.Option(help="Run or bundle whose weights a new run starts from.")]


def resolve(
    config: AnyRun,
    steps: int | None,
    batch: int | None,
    lr: float | None,
    precision: str | None,
    compile: bool | None,
    seed: int | None,
    data: str | None,
    root: Path | None,
) -> AnyRun:
    """Change single fields of a preset. Raises UsageError for values that are not allowed."""
    check_numbers(lr, steps=steps, batch=batch)
    if precision is not None and precision not in get_args(Precision):
        raise UsageError(f"precision {precision!r}: allowed are {', '.join(get_args(Precision))}")

    def changed(**fields: object) -> dict[str, object]:
        return {name: value for name, value in fields.items() if value is not None}

    loop = dataclasses.replace(
        config.loop, **changed(steps=steps, batch=batch, precision=precision, compile=compile, seed=seed)
    )
    optimizer = dataclasses.replace(config.optimizer, **changed(lr=lr))
    return dataclasses.replace(config, loop=loop, optimizer=optimizer, data=with_images(config.data, data, root))


def check_numbers(lr: float | None, **counts: int | None) -> None:
    """Raise UsageError for counts below 1 and for a rate outside 0 .. 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: at least 1 is needed")
    if lr is not None and not 0 < lr < 1:
        raise UsageError(f"lr {lr}: must lie between 0 and 1")


def with_images(config: DataConfig, data: str | None, root: Path | None) -> DataConfig:
    """The configuration with another data set or root, if given."""
    config = config if data is None else dataclasses.replace(config, name=data)
    return config if root is None else dataclasses.replace(config, root=str(root.resolve()))
