"""``smalti export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.options import (
    FinalTemperatureOption,
    MinStepsOption,
    ProportionOption,
    sampling_options,
)
from smalti.errors import ParityError
from smalti_export.builder import PRECISIONS
from smalti_export.export import export_bundle

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a prior's run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle. [default: the preset's]")] = None,
    steps: Annotated[int | None, typer.Option(help="Default steps. [default: 16; SUNDAE, multinomial: 50]")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.01, max=100, help="Default temperature. [default: 1]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, max=100, help="Default guidance; 1 is none. [default: 1]")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="Default tokens per step: exact, cosine or binomial. [default: cosine]")
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="Default order: random, halton or confidence. [default: halton]")
    ] = None,
    choice_temperature: Annotated[
        float | None, typer.Option(min=0, max=1e6, help="Default chance in order confidence. [default: 4.5]")
    ] = None,
    remask: Annotated[
        str | None, typer.Option(help="Default of how much is drawn again: 0 to 1, or mlm. [default: 0]")
    ] = None,
    final_temperature: FinalTemperatureOption = None,
    proportion: ProportionOption = None,
    min_steps: MinStepsOption = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Default number of likeliest tokens to draw from; 0 is all. [default: 0]")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Default share of the probability to draw from. [default: 1]"),
    ] = None,
    decoder_from: Annotated[Path | None, typer.Option(help="Run that trained the decoder further.")] = None,
    preview_from: Annotated[
        Path | None, typer.Option(help="Run of a preview decoder (smalti train preview), to be added.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Write fp16 or int8 besides fp32; may be given twice. fp32: no other. [default: all]"),
    ] = None,
) -> None:
    """Write a run as a bundle, each variant measured against the model it was made from.

    Exits with 6 when a variant misses its tolerance; that variant is left out of the bundle.
    """
    asked = sampling_options(
        steps=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        guidance=guidance,
        schedule=schedule,
        order=order,
        choice_temperature=choice_temperature,
        remask=remask,
        stride=None,
        final_temperature=final_temperature,
        proportion=proportion,
        min_steps=min_steps,
    )
    failures = export_bundle(
        run,
        output,
        name=name,
        defaults=asked,
        decoder_from=decoder_from,
        preview_from=preview_from,
        precisions=precision or PRECISIONS,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if failures:
        raise ParityError(f"{output} was written without these variants: {' | '.join(failures)}")
    typer.echo(f"{output}: {sum(file.stat().st_size for file in output.iterdir()) / 1e6:.1f} MB")
