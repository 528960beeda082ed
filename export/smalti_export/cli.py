"""``smalti export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli.options import sampling_options, takes_sampling
from smalti.errors import ParityError
from smalti_export.builder import PRECISIONS
from smalti_export.export import export_bundle

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
@takes_sampling("resolution", "size", "stride", before="decoder_from")
def export(
    run: Annotated[Path, typer.Argument(help="Folder of a prior's run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bundle to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the bundle. [default: the preset's]")] = None,
    decoder_from: Annotated[Path | None, typer.Option(help="Run that trained the decoder further.")] = None,
    preview_from: Annotated[
        Path | None, typer.Option(help="Run of a preview decoder (smalti train preview), to be added.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Write fp16 or int8 besides fp32; may be given twice. fp32: no other. [default: all]"),
    ] = None,
    **sampling: Any,
) -> None:
    """Write a run as a bundle, each variant measured against the model it was made from.

    Sampler options become the bundle's defaults; what is not given is its family's own.

    Exits with 6 when a variant misses its tolerance; that variant is left out of the bundle.
    """
    asked = sampling_options(sampling)
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
