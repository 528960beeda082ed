"""``smalti import``."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from smalti.cli.options import JsonOption
from smalti.cli.plain import App
from smalti.errors import UsageError
from smalti_train.cli.names import SOURCES, UNKNOWN_LICENCE

app = App()

SEPARATED = ","


@app.command()
def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The published checkpoint.")],
    source: Annotated[str, typer.Option(metavar="NAME", help=f"What it is: {', '.join(SOURCES)}.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder of the run to write; must not exist.")
    ],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="JSON|FILE", help="JSON (or a file of it) with heads, grid, resolution, attn_resolutions."
        ),
    ] = None,
    autoencoder: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run of the autoencoder whose tokens a prior draws.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="NAMES|FILE", help="Names of a prior's classes: a,b,c or a file with one per line."),
    ] = None,
    licence: Annotated[
        str, typer.Option(metavar="LICENCE", help="Licence of the weights, for bundles.")
    ] = UNKNOWN_LICENCE,
    data: Annotated[
        str, typer.Option(metavar="NAME", help="Images to measure on: avatars, folder or fashion-mnist.")
    ] = "avatars",
    root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of these images, for data sets that need one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a published checkpoint and write it as a run, which exports and starts training like any other.

    An autoencoder becomes an autoencoder's run, a prior with --autoencoder a prior's, and taming-net2net both in one.
    """
    # Both need torch, which help does without.
    from smalti_train.data.config import DataConfig
    from smalti_train.importers.folders import import_run

    where = None if root is None else str(root.resolve())
    written = import_run(
        file,
        source,
        output,
        config=read_config(config),
        autoencoder=autoencoder,
        classes=read_labels(labels),
        licence=licence,
        data=DataConfig(name=data, root=where),
    )
    if as_json:
        typer.echo(json.dumps({"run": str(output), "source": source, "written": written}, indent=2))
    else:
        typer.echo(f"{output}: {written}")


def read_config(given: str | None) -> dict[str, Any]:
    """The JSON object in ``given``, or in the file of that name. Raises UsageError when it is neither."""
    if given is None:
        return {}
    text = given = given.removeprefix("\ufeff")
    try:
        if not given.lstrip().startswith("{"):
            text = _text(Path(given))
        found = json.loads(text)
    except OSError as error:
        raise UsageError(
            f"config {given!r:.200} is neither a JSON object nor a file that can be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise UsageError(f"config {given!r:.200} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f'config {given!r:.200} holds no JSON object, such as {{"heads": 16}}')
    return cast("dict[str, Any]", found)


def read_labels(given: str | None) -> tuple[str, ...]:
    """Names of classes, from a list or a file with one per line. Raises UsageError for an empty or repeated name."""
    if given is None:
        return ()
    try:
        is_file = Path(given).is_file()
        names = _text(Path(given)).splitlines() if is_file else given.removeprefix("\ufeff").split(SEPARATED)
    except (OSError, ValueError) as error:
        raise UsageError(f"labels {given!r:.200} cannot be read: {error}") from None
    names = tuple(name.strip() for name in names)
    if "" in names or len(set(names)) < len(names):
        odd = next(name for name in names if not name or names.count(name) > 1)
        raise UsageError(f"labels: {odd!r:.80} is empty or there twice; give every class a name of its own, in order")
    return names


def _text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, as shells and editors of Windows write both."""
    raw = path.read_bytes()
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if marked else "utf-8-sig")
