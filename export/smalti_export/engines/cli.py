"""``smalti engine build``; the other commands of ``smalti engine`` are the runtime's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.engines import Engines
from smalti.bundle.manifest import Precision
from smalti.bundle.reader import ENGINES_FOLDER, Bundle, open_bundle
from smalti.cli.escape import printable
from smalti.cli.options import JsonOption
from smalti.errors import UsageError
from smalti_export.engines.build import build_engines
from smalti_export.engines.progress import KINDS, Shown, libraries_silent
from smalti_export.engines.shipping import SUFFIX, build_zip
from smalti_export.engines.toolkit import PORTABLE, open_toolkit

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def build(
    bundle: Annotated[
        str | None, typer.Argument(metavar="[BUNDLE]", help="Path or name of a bundle; the embedded one by default.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .zip for the bundle with its engines, or a folder for engines alone; BUNDLE/engines ships them. "
            "[default: the user's cache, where the runtime finds them]",
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="rtx (TensorRT-RTX, no GPU needed) or trt (TensorRT, this GPU).")
    ] = "rtx",
    target: Annotated[
        list[str] | None, typer.Option(help=f"GPU generation; give several for one engine. [default: {PORTABLE}]")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    component: Annotated[list[str] | None, typer.Option(help="Component; give several. [default: all]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Build engines again that are there already.")] = False,
    progress: Annotated[
        str,
        typer.Option(help="On stderr: auto (a line on a terminal, else text), json (an object per line), or off."),
    ] = KINDS[0],
    as_json: JsonOption = False,
) -> None:
    """Build engines, strongly typed and with the sizes that the runtime asks for, and list them in engines.json.

    Each engine is kept as soon as it is built, and one that is there is not built again. Two processes never build the
    same: the second waits. Exits with 5 when the builder refuses a graph; the other engines are then kept.
    """
    shown = Shown(progress)
    opened = open_bundle(bundle)
    roles = [_one_of("component", name, tuple(opened.manifest.components)) for name in component or ()]
    chosen = cast(Precision, _one_of("precision", precision, get_args(Precision)))
    toolkit = open_toolkit(runtime, target or ())
    zipped = output is not None and output.suffix.lower() == SUFFIX
    folder = output or engine_cache(opened)
    make = build_zip if zipped else build_engines
    try:
        with libraries_silent():
            engines = make(
                opened,
                toolkit,
                folder,
                precision=chosen,
                components=roles or None,
                force=force,
                say=shown.say,
                progress=shown.progress,
            )
    finally:
        shown.end()
    if as_json:
        content: dict[str, Any] = msgspec.to_builtins(engines)
        size = {"bytes": folder.stat().st_size} if zipped else {}
        typer.echo(json.dumps({"path": str(folder), **size, **content}, indent=2))
    else:
        typer.echo("\n".join(map(printable, _lines(opened, engines, folder, zipped))))


def _lines(bundle: Bundle, engines: Engines, path: Path, zipped: bool) -> list[str]:
    folder = path / ENGINES_FOLDER if zipped else path
    lines = [
        f"{folder / record.engine.file}: {record.component} {record.precision}, "
        f"{record.engine.bytes / 1e6:.1f} MB, {record.runtime} {record.version}, {', '.join(record.targets)}"
        for record in engines.engines
    ]
    if zipped:
        of_bundle = sum(file.bytes for file in bundle.manifest.files())
        of_engines = sum(record.engine.bytes for record in engines.engines)
        lines.append(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB: bundle {bundle.manifest.name} ({of_bundle / 1e6:.1f} MB) and "
            f"{len(engines.engines)} engines ({of_engines / 1e6:.1f} MB)"
        )
    return lines


def _one_of(what: str, name: str, allowed: tuple[str, ...]) -> str:
    if name not in allowed:
        raise UsageError(f"{what} {name!r}: allowed are {', '.join(allowed)}")
    return name
