"""Make a plan of what was asked for, write it, or compare it with the one that is to be resumed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from smalti.batch.formats.registry import format_of
from smalti.batch.inputs import INPUTS, SUFFIXES, Listed, list_pictures, write_inputs
from smalti.batch.loading import Loading
from smalti.batch.plan import KEPT, MOST_ROWS, PLAN, Places, Plan, PlanFile, Work, check_same, read_plan, write_plan
from smalti.bundle.reader import Bundle, open_bundle
from smalti.codec.fit import check_fit
from smalti.errors import OutputError, UsageError
from smalti.families.checks import whole
from smalti.families.settings import MAX_SEED, chosen_options, resolve
from smalti.loading.load import check_load
from smalti.system.files import check_folder
from smalti.system.platform import reachable
from smalti.version import __version__

ROWS_PER_FILE: Final = 256
DEFAULTS: Final[Mapping[str, Any]] = {
    "rows_per_file": ROWS_PER_FILE,
    "format": "parquet",
    "provider": "auto",
    "precision": "auto",
}


@dataclass(frozen=True)
class Asked:
    """What was asked for. None is the usual, or where a batch is resumed, what its plan says."""

    folder: Path
    resume: bool = False
    bundle: str | None = None
    fields: Mapping[str, Any] | None = None
    """Fields of :class:`Plan`, by name: rows, seed, rows_per_file, format, keep, provider, precision."""
    labels: Sequence[str] | None = None
    options: Mapping[str, Any] | None = None
    """Of a draw, as :meth:`smalti.Generator.generate` takes them; of ``encode``, the resolution and the fit."""
    source: Path | None = None
    """A folder of pictures to describe, or a file with their paths."""

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were given."""
        return {name: value for name, value in (self.fields or {}).items() if value is not None}


def plan_draw(asked: Asked) -> PlanFile:
    """Make, and write or compare, the plan of pictures that are drawn.

    Raises UsageError for values out of range, for a folder that holds something else and for other work than what is
    resumed; BundleError; OutputError.
    """
    before = _before(asked, "generate")
    bundle, fields = _common(asked, before)
    if "rows" not in fields:
        raise UsageError("count: how many pictures? Give --count")
    manifest = bundle.manifest
    if asked.labels:
        named = [int(one) if one not in manifest.classes and one.isdecimal() else one for one in asked.labels]
        fields["labels"] = resolve(manifest, len(named), 0, {"label": named}).labels
    options: dict[str, Any] = {name: value for name, value in (asked.options or {}).items() if value is not None}
    first = fields["seed"] = whole("seed", fields.get("seed", 0))
    settings = resolve(manifest, 1, first, {**options})  # pyright: ignore[reportArgumentType]
    if options or before is None:
        fields["options"] = _plain(chosen_options(settings))
    if first + fields["rows"] - 1 > MAX_SEED:
        raise UsageError(f"seed {first}: allowed are 0 .. {MAX_SEED}, for the last of {fields['rows']} pictures too")
    return _settled(asked, before, Plan(work="generate", **fields), _places(asked, before, bundle))


def plan_description(asked: Asked, work: Work) -> PlanFile:
    """Make, and write or compare, the plan of pictures that are described: ``embed`` or ``encode``.

    Raises as :func:`plan_draw` does.
    """
    before = _before(asked, work)
    bundle, fields = _common(asked, before)
    if fields["format"] != "parquet":
        raise UsageError(f"format {fields['format']}: {work} writes parquet; leave --format out")
    options = {name: value for name, value in (asked.options or {}).items() if value is not None}
    if work == "encode" and (options or before is None):
        size = bundle.manifest.resolution(options.get("resolution")).pixels
        fields["options"] = {"resolution": size, "fit": check_fit(options.get("fit"))}
    places, paths, listed = _places(asked, before, bundle), iter(()), Listed()
    if asked.source is not None:
        root, paths = list_pictures(asked.source)
        places = msgspec.structs.replace(places, inputs=root)
    elif before is None:
        raise UsageError("which pictures? Name a folder of them, or a text file with a path in each line")
    if asked.source is not None and before is None:
        _make_folder(asked.folder)
        write_inputs(asked.folder, listed.through(paths), fields["rows_per_file"])
    else:
        _exhaust(listed.through(paths))
    if asked.source is not None:
        if not listed.count:
            raise UsageError(f"{asked.source}: there are no pictures in it; names end in {', '.join(sorted(SUFFIXES))}")
        fields |= {"rows": listed.count, "inputs": listed.digest}
    return _settled(asked, before, Plan(work=work, **fields), places)


def loading_of(planned: PlanFile, threads: int | None) -> Loading:
    """Return how workers of a planned batch load its bundle."""
    plan, places = planned.plan, planned.places
    return Loading(places.bundle or plan.bundle, plan.provider, plan.precision, threads or 1)


def _before(asked: Asked, work: Work) -> PlanFile | None:
    """Return the plan that is resumed; None where a batch begins. Raises UsageError, OutputError."""
    place = reachable(asked.folder)
    if (place / PLAN).exists():
        if not asked.resume:
            raise UsageError(f"{asked.folder} holds a batch; go on with --resume, or take another folder")
        found = read_plan(asked.folder)
        if found.plan.work != work:
            raise UsageError(f"{asked.folder} holds a batch of {found.plan.work}; resume it by that, not by {work}")
        return found
    check_folder(asked.folder)
    if place.is_dir():
        others = [name for name in os.listdir(place) if not name.removeprefix(".").startswith(INPUTS)]
        if others:
            raise UsageError(f"{asked.folder} is not empty ({others[0]}), and holds no batch; take a new folder")
    return None


def _common(asked: Asked, before: PlanFile | None) -> tuple[Bundle, dict[str, Any]]:
    """Return the bundle, and the fields of the plan that all works have."""
    fields: dict[str, Any] = dict(DEFAULTS)
    if before is not None:
        fields = {name: getattr(before.plan, name) for name in Plan.__struct_fields__ if name != "work"}
        fields["smalti"] = __version__  # another version may draw otherwise
    fields |= asked.given
    check_load(asked.bundle, fields["provider"], fields["precision"])
    for name, most in (("rows", MOST_ROWS), ("rows_per_file", 2**20)):
        if name in fields and not 1 <= whole(name, fields[name]) <= most:
            told = "count" if name == "rows" else name
            raise UsageError(f"{told} {fields[name]}: allowed are 1 .. {most}")
    if fields.get("keep", "png") not in KEPT:
        raise UsageError(f"keep {fields['keep']!r}: allowed are {', '.join(KEPT)}")
    bundle = open_bundle(asked.bundle if asked.bundle is not None or before is None else _bundle_of(before))
    fields |= {"bundle": bundle.manifest.name, "bundle_digest": bundle.digest}
    return bundle, fields


def _bundle_of(planned: PlanFile) -> str:
    return planned.places.bundle or planned.plan.bundle


def _places(asked: Asked, before: PlanFile | None, bundle: Bundle) -> Places:
    places = before.places if before is not None else Places()
    if asked.bundle is None:
        return places
    return msgspec.structs.replace(places, bundle=str(bundle.path.absolute()))


def _settled(asked: Asked, before: PlanFile | None, plan: Plan, places: Places) -> PlanFile:
    """Write a new plan, or compare it with the one that is resumed."""
    format_of(plan)
    if before is not None:
        check_same(plan, before.plan, asked.folder)
    else:
        _make_folder(asked.folder)
    if before is None or before.places != places:
        write_plan(asked.folder, plan, places)
    return PlanFile(plan=plan, places=places)


def _make_folder(folder: Path) -> None:
    try:
        reachable(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {folder}: {error.strerror or error}") from error


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON gives them back, so that plans can be compared."""
    return msgspec.json.decode(msgspec.json.encode(options))


def _exhaust(paths: Iterable[str]) -> None:
    for _ in paths:
        pass
