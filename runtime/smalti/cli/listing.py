"""The verbs that list, without loading anything: labels of a bundle, and bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from smalti.bundle.reader import MANIFEST, embedded_bundles, open_bundle
from smalti.cli.card import size_told
from smalti.cli.completion import complete_bundle
from smalti.cli.escape import printable
from smalti.cli.options import BundleArgument, JsonOption
from smalti.errors import BundleError, UsageError
from smalti.system.platform import reachable

NamedOption = Annotated[
    str | None,
    typer.Option("--bundle", metavar="BUNDLE", help="The same, as for other verbs.", autocompletion=complete_bundle),
]


def labels(bundle: BundleArgument = None, named: NamedOption = None, as_json: JsonOption = False) -> None:
    """List the labels of a bundle, a line each: the index and the name. --label takes both."""
    if bundle is not None and named is not None:
        raise UsageError(f"bundle {bundle} and --bundle {named}: which one is meant? Leave one of them out")
    opened = open_bundle(bundle if named is None else named)
    names = opened.manifest.classes
    if as_json:
        report = {"bundle": opened.manifest.name, "path": str(opened.path), "labels": list(names)}
        typer.echo(json.dumps(report, indent=2))
        return
    if not names:
        typer.echo(printable(f"bundle {opened.manifest.name} has no labels"), err=True)
    for index, name in enumerate(names):
        typer.echo(printable(f"{index:<5}{name}"))


def bundles(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders whose bundles are listed too.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the bundles inside smalti, and those in folders that are named: name, family, size and path.

    A bundle's name is what --bundle takes for one inside smalti; for others it takes the path.
    """
    paths = {path: True for path in embedded_bundles().values()}
    for folder in folders or ():
        inside = list(_inside(folder))
        if not inside:
            typer.echo(printable(f"folder {folder}: there are no bundles in it"), err=True)
        paths |= {path: False for path in inside if path not in paths}
    found = [_described(path, embedded) for path, embedded in paths.items()]
    if as_json:
        typer.echo(json.dumps({"bundles": found}, indent=2))
    else:
        typer.echo("\n".join(map(printable, _lines(found))))


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the bundles right inside a folder, or the folder itself. Raises UsageError for what is no folder."""
    place = reachable(folder)
    if not place.is_dir():
        raise UsageError(f"folder {folder}: there is no such folder; name one that has bundles in it")
    if (place / MANIFEST).is_file():
        yield folder
        return
    for path in sorted(place.iterdir()):
        if (path / MANIFEST).is_file() or path.suffix.lower() == ".zip":
            yield folder / path.name


def _described(path: Path, embedded: bool) -> dict[str, Any]:
    try:
        manifest = open_bundle(path).manifest
    except BundleError as error:
        return {"path": str(path), "embedded": embedded, "problem": str(error)}
    return {
        "name": manifest.name,
        "family": manifest.family,
        "labels": len(manifest.classes),
        "resolutions": [one.pixels for one in manifest.all_resolutions],
        "bytes": sum(file.bytes for file in manifest.files()),
        "path": str(path),
        "embedded": embedded,
    }


def _lines(found: list[dict[str, Any]]) -> Iterator[str]:
    if not found:
        yield "no bundles"
    wide = max((len(one["name"]) for one in found if "name" in one), default=0) + 2
    for one in found:
        if "problem" in one:
            yield f"! {one['problem']}"
            continue
        place = f"inside smalti: {one['path']}" if one["embedded"] else one["path"]
        yield f"{one['name']:<{wide}}{one['family']:<16}{size_told(one['bytes']):>9}  {place}"
