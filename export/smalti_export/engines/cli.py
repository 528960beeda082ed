"""``smalti engine``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from smalti.bundle.manifest import Precision
from smalti.bundle.reader import open_bundle
from smalti.cli.options import JsonOption
from smalti.errors import UsageError
from smalti_export.engines.build import build_engines
from smalti_export.engines.toolkit import PORTABLE, open_toolkit

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Engines of a bundle for GPUs.",
)


@app.callback()
def _group() -> None:
    """Keep ``build`` a word of its own, although it is the only one."""


@app.command()
def build(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the engines; BUNDLE/engines ships them.")],
    bundle: Annotated[str | None, typer.Argument(help="Path or name of a bundle; the embedded one by default.")] = None,
    runtime: Annotated[
        str, typer.Option(help="rtx (TensorRT-RTX, no GPU needed) or trt (TensorRT, this GPU).")
    ] = "rtx",
    target: Annotated[
        list[str] | None, typer.Option(help=f"GPU generation; give several for one engine. [default: {PORTABLE}]")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    component: Annotated[list[str] | None, typer.Option(help="Component; give several. [default: all]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build engines, strongly typed and with the sizes that the runtime asks for, and list them in engines.json.

    Exits with 5 when the builder refuses a graph. Until all engines are built, the folder stays as it is.
    """
    opened = open_bundle(bundle)
    roles = [_one_of("component", name, tuple(opened.manifest.components)) for name in component or ()]
    chosen = cast(Precision, _one_of("precision", precision, get_args(Precision)))
    toolkit = open_toolkit(runtime, target or ())
    engines = build_engines(
        opened,
        toolkit,
        output,
        precision=chosen,
        components=roles or None,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if as_json:
        content: Any = msgspec.to_builtins(engines)
        typer.echo(json.dumps(content, indent=2))
        return
    for record in engines.engines:
        typer.echo(
            f"{output / record.engine.file}: {record.component} {record.precision}, "
            f"{record.engine.bytes / 1e6:.1f} MB, {record.runtime} {record.version}, {', '.join(record.targets)}"
        )


def _one_of(what: str, name: str, allowed: tuple[str, ...]) -> str:
    if name not in allowed:
        raise UsageError(f"{what} {name!r}: allowed are {', '.join(allowed)}")
    return name
