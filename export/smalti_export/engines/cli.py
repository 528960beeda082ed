"""``smalti engine build``; the other commands of ``smalti engine`` are the runtime's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from smalti.bundle.engine_folder import engine_cache
from smalti.bundle.engines import Engines, Runtime
from smalti.bundle.manifest import Precision
from smalti.bundle.reader import ENGINES_FOLDER, Bundle, open_bundle
from smalti.cli.escape import printable
from smalti.cli.options import JsonOption
from smalti.cli.plain import App
from smalti.errors import MissingExtra, UsageError
from smalti.system.platform import install_hint
from smalti.verification.engines.listing import installs
from smalti_export.engines.progress import KINDS, Shown, libraries_silent
from smalti_export.engines.toolkit import EXTRA, PORTABLE, open_toolkit

SUFFIX = ".zip"
ARCHIVES = (".tar", ".gz", ".tgz", ".xz", ".zst", ".7z", ".rar", ".whl")
"""Ends of names that people give to archives of other kinds."""

app = App()


@app.command()
def build(
    bundle: Annotated[
        str | None, typer.Argument(metavar="BUNDLE", help="Path or name of a bundle; the embedded one by default.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.zip|FOLDER",
            help="A .zip for the bundle with its engines, or a folder for engines alone; BUNDLE/engines ships them. "
            "[default: the user's cache, where the runtime finds them]",
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(metavar="NAME", help="rtx (TensorRT-RTX, no GPU needed) or trt (TensorRT, this GPU)."),
    ] = "rtx",
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GPU",
            help='GPU, such as sm_86, 8.6 or "RTX 3060"; for one engine that serves several: --target sm_86 --target '
            "sm_89. [default: " + ", ".join(PORTABLE) + "; in fp32 without sm_75]",
        ),
    ] = None,
    precision: Annotated[str, typer.Option(metavar="NAME", help="fp16 or fp32.")] = "fp16",
    component: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Component; give several. [default: all]")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Build engines again that are there already, and replace a FILE.zip that is no bundle."
        ),
    ] = False,
    progress: Annotated[
        str,
        typer.Option(
            metavar="WAY", help="On stderr: auto (a line on a terminal, else text), json (an object per line), or off."
        ),
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
    chosen = cast(Precision, _one_of("precision", precision.lower(), get_args(Precision)))
    toolkit = open_toolkit(runtime, target or (), chosen)
    build_engines, build_zip = _builders(toolkit.runtime)
    zipped, folder = _place(output, opened)
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
        typer.echo("\n".join(map(printable, _lines(opened, engines, folder, zipped, roles))))


def _place(output: str | None, bundle: Bundle) -> tuple[bool, Path]:
    """Return whether a zip is wanted, and where to write. Raises UsageError for what is neither zip nor folder."""
    if output is None:
        return False, engine_cache(bundle)
    if output == "-" or output.lower().endswith(ARCHIVES):
        raise UsageError(f"output {output!r}: a {SUFFIX} or a folder is needed, such as engines{SUFFIX} or engines/")
    return output.lower().endswith(SUFFIX), Path(output)


def _lines(bundle: Bundle, engines: Engines, path: Path, zipped: bool, roles: Collection[str]) -> list[str]:
    folder = path / ENGINES_FOLDER if zipped else path
    lines = [
        f"{folder / record.engine.file}: {record.component} {record.precision}, "
        f"{record.engine.bytes / 1e6:.1f} MB, {record.runtime} {record.version}, {', '.join(record.targets)}"
        for record in engines.engines
        if zipped or not roles or record.component in roles
    ]
    if zipped:
        of_bundle = sum(file.bytes for file in bundle.manifest.files())
        of_engines = sum(record.engine.bytes for record in engines.engines)
        lines.append(
            f"{path}: {path.stat().st_size / 1e6:.1f} MB: bundle {bundle.manifest.name} ({of_bundle / 1e6:.1f} MB) and "
            f"{len(engines.engines)} engine{'s' if len(engines.engines) != 1 else ''} ({of_engines / 1e6:.1f} MB)"
        )
        lines += [f"who gets it needs: {line}" for line in installs(engines.engines)]
    return lines


def _builders(runtime: Runtime) -> tuple[Callable[..., Engines], Callable[..., Engines]]:
    """Import what reads graphs when it is needed. Raises MissingExtra, with the runtime's own extra."""
    try:
        from smalti_export.engines.build import build_engines
        from smalti_export.engines.shipping import build_zip
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise MissingExtra(f"smalti engine build needs onnx; {install_hint(EXTRA[runtime])}") from error
    return build_engines, build_zip


def _one_of(what: str, name: str, allowed: tuple[str, ...]) -> str:
    if name not in allowed:
        raise UsageError(f"{what} {name!r}: allowed are {', '.join(allowed)}")
    return name
