"""``smalti export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli_options import remask_value
from smalti.errors import ParityError
from smalti.manifest import SamplerDefaults
from smalti.schedule import check
from smalti_export.export import export_bundle

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a prior's run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle. [default: the preset's]")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Default diffusion steps.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.01, max=100, help="Default temperature.")] = 1.0,
    guidance: Annotated[float, typer.Option(min=0, max=100, help="Default guidance; 1 is none.")] = 1.0,
    schedule: Annotated[str, typer.Option(help="Default tokens per step: exact, cosine or binomial.")] = "cosine",
    order: Annotated[str, typer.Option(help="Default order: random, halton or confidence.")] = "halton",
    choice_temperature: Annotated[
        float, typer.Option(min=0, max=1e6, help="Default chance in order confidence.")
    ] = 4.5,
    remask: Annotated[str, typer.Option(help="Default of how much is drawn again: 0 to 1, or mlm.")] = "0",
    top_k: Annotated[int, typer.Option(min=0, help="Default number of likeliest tokens to draw from; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Default share of the probability to draw from.")] = 1.0,
    decoder_from: Annotated[Path | None, typer.Option(help="Run that trained the decoder further.")] = None,
) -> None:
    """Write a run as a bundle, each variant measured against the model it was made from.

    Exits with 6 when a variant misses its tolerance; that variant is left out of the bundle.
    """
    again = remask_value(remask)
    check(steps, schedule, order, again)  # pyright: ignore[reportArgumentType] - a text is mlm
    defaults = SamplerDefaults(
        steps=steps,
        temperature=temperature,
        guidance=guidance,
        schedule=schedule,  # pyright: ignore[reportArgumentType] - checked above
        order=order,  # pyright: ignore[reportArgumentType] - checked above
        choice_temperature=choice_temperature,
        remask=again,  # pyright: ignore[reportArgumentType] - checked above
        top_k=top_k,
        top_p=top_p,
    )
    failures = export_bundle(
        run,
        output,
        name=name,
        defaults=defaults,
        decoder_from=decoder_from,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if failures:
        raise ParityError(f"{output} was written without these variants: {' | '.join(failures)}")
    typer.echo(f"{output}: {sum(file.stat().st_size for file in output.iterdir()) / 1e6:.1f} MB")
