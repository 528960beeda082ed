"""``smalti export``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.cli.options import JsonOption, sampling_options, takes_sampling
from smalti.cli.plain import App
from smalti.errors import ParityError, UsageError

app = App()


@app.command()
@takes_sampling("resolution", "size", "stride", before="decoder_from")
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the bundle to write.")],
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="Folder of a prior's run.")] = None,
    again: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Export the weights of this bundle again, in place of a run's."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the bundle. [default: the preset's]")
    ] = None,
    decoder_from: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run that trained the decoder further.")
    ] = None,
    preview_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run of a preview decoder (smalti train preview), to be added."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Write fp16 or int8 besides fp32; may be given twice. fp32: no other. [default: all]"
        ),
    ] = None,
    as_json: JsonOption = False,
    **sampling: Any,
) -> None:
    """Write a run as a bundle, each variant measured against the model it was made from.

    Sampler options become the bundle's defaults; what is not given is its family's own.

    Exits with 6 when a variant misses its tolerance; that variant is left out of the bundle.
    """
    # Both need torch and onnx, which help does without.
    from smalti_export.builder import PRECISIONS
    from smalti_export.export import export_again, export_bundle

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    asked, precisions = sampling_options(sampling), precision or PRECISIONS
    if (run is None) == (again is None):
        raise UsageError("name the folder of a run, or --again and a bundle")
    if run is None:
        if name or decoder_from or preview_from:
            raise UsageError("--again takes name, decoder and preview from the bundle; leave their options out")
        failures = export_again(again, output, defaults=asked, precisions=precisions, say=say)
    else:
        failures = export_bundle(
            run,
            output,
            name=name,
            defaults=asked,
            decoder_from=decoder_from,
            preview_from=preview_from,
            precisions=precisions,
            say=say,
        )
    size = sum(file.stat().st_size for file in output.iterdir())
    if as_json:
        typer.echo(json.dumps({"path": str(output), "bytes": size, "left_out": list(failures)}, indent=2))
    if failures:
        raise ParityError(f"{output} was written without these variants: {' | '.join(failures)}")
    if not as_json:
        typer.echo(f"{output}: {size / 1e6:.1f} MB")
