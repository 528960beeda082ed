"""A folder of drawn pictures: each is written as soon as it is ready, and those that are there are not drawn again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from smalti.backends.base import ProviderReport
from smalti.bundle.manifest import Manifest
from smalti.bundle.reader import Bundle
from smalti.drawing.result import Result, Timings, recipe_of
from smalti.drawing.watch import Watch
from smalti.errors import OutOfMemory, OutputError, UsageError
from smalti.families.base import Settings
from smalti.families.checks import shown
from smalti.families.limits import Limits
from smalti.saving.formats import SUFFIXES, Format, check_format, is_whole
from smalti.saving.recipe import Recipe, read_recipe
from smalti.saving.targets import as_path
from smalti.system.files import check_folder, portable_name, remove_stale, told_kind
from smalti.system.platform import reachable

OnPicture: TypeAlias = Callable[[int, int, Path], object]
Drawn: TypeAlias = Callable[[Settings], Result]
AT_ONCE: Final = 4
"""Images drawn together on a CPU: few, since an interrupt loses those that are not ready."""
AT_ONCE_ON_DEVICE: Final = 16
"""On a device, which draws many in about the time of one."""
SHOWN: Final = 3


class Model(Protocol):
    """A loaded bundle, as :class:`smalti.Generator` is one."""

    bundle: Bundle
    manifest: Manifest
    report: ProviderReport
    limits: Limits


@dataclass(frozen=True)
class Written:
    """What :meth:`Generator.generate_into` left in a folder."""

    paths: tuple[Path, ...]
    """Of all images, in the order of their seeds."""
    drawn: int
    """How many were drawn and written, those among them whose files were there and damaged."""
    skipped: int
    """How many were there, whole."""
    timings: Timings
    """Seconds of all that was drawn."""


def draw_into(
    model: Model,
    settings: Settings,
    drawn: Drawn,
    folder: str | bytes | os.PathLike[str],
    watch: Watch,
    *,
    format: Format,
    quality: int | None,
    overwrite: bool,
    on_picture: OnPicture | None,
) -> Written:
    """Draw what ``settings`` say into a folder; ``drawn`` draws a part of them.

    :meth:`smalti.Generator.generate_into` says what the arguments are, and what is raised. ``watch`` says whether the
    call was cancelled.
    """
    place = as_path("folder", folder, "a path of a folder")
    format, quality = check_format(format, quality)
    if not isinstance(overwrite, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"overwrite {shown(overwrite)}: True or False is needed")
    if on_picture is not None and not callable(on_picture):
        raise UsageError(f"on_picture {shown(on_picture)}: a function is needed that takes done, total and a path")
    watch.check()
    together = _together(model, settings)
    paths = _paths(place, model.manifest.name, settings.seeds, format)
    check_folder(place)
    _check_files(paths)
    there = frozenset[int]() if overwrite else _there(model, settings, paths)
    try:
        reachable(place).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make folder {place}: {error.strerror or error}") from error
    remove_stale(place, f"{portable_name(model.manifest.name)}-")
    done, timings = 0, Timings()

    def tell(index: int) -> None:
        nonlocal done
        done += 1
        if on_picture is not None:
            on_picture(done, len(paths), paths[index])

    for index in sorted(there):
        tell(index)
    missing = [index for index in range(len(paths)) if index not in there]
    for start in range(0, len(missing), together):
        part = missing[start : start + together]
        result = drawn(_part(settings, part))
        _add(timings, result.timings)
        for own, index in enumerate(part):
            result.save(paths[index], which=own, format=format, quality=quality)
            tell(index)
    return Written(paths, len(missing), len(there), timings)


def same_picture(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes give the same pixels; the version, the provider and the sheet do not decide them."""
    return _deciding(one) == _deciding(other)


def _deciding(recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, version="", bundle="", provider="", columns=1)


def _paths(folder: Path, bundle: str, seeds: Sequence[int], format: Format) -> tuple[Path, ...]:
    """Return the file of each image. Raises UsageError where two would be one."""
    if twice := [seed for seed, times in Counter(seeds).items() if times > 1]:
        raise UsageError(f"seeds: {twice[0]} is there twice, and a file is named after its seed; give each seed once")
    name, ending = portable_name(bundle), next(end for end, kind in SUFFIXES.items() if kind == format)
    return tuple(folder / f"{name}-{seed}{ending}" for seed in seeds)


def _check_files(paths: Sequence[Path]) -> None:
    """Raise OutputError where something of a picture's name is no file. To read or write a pipe could take for ever."""
    for path in paths:
        if told := told_kind(path):
            raise OutputError(f"cannot write {path}: it is {told}, not a file; move it, or take another folder")


def _there(model: Model, settings: Settings, paths: Sequence[Path]) -> frozenset[int]:
    """Return which images are there, whole. Raises UsageError for files that are others, or no images of smalti's.

    One that is cut off or damaged, and says that it is the same image, is not there: it is drawn again.
    """
    found: list[int] = []
    others: list[str] = []
    for index, path in enumerate(paths):
        if not reachable(path).exists():  # nor is what a link leads to
            continue
        try:
            own = same_picture(read_recipe(path), recipe_of(model.bundle, model.report, _part(settings, [index])))
            reason = "it was drawn otherwise"
        except UsageError as error:
            own, reason = False, str(error)
        if own and is_whole(path):
            found.append(index)
        elif not own:
            others.append(reason if str(path) in reason else f"{path}: {reason}")
    if others:
        raise UsageError(
            f"{len(others)} files of these names are there and are not what would be drawn ("
            + "; ".join(others[:SHOWN])
            + ("; ..." if len(others) > SHOWN else "")
            + "); take another folder or other seeds, or say overwrite"
        )
    return frozenset(found)


def _together(model: Model, settings: Settings) -> int:
    """Return how many images are drawn at once: fewer where the limit of memory says so.

    Raises OutOfMemory where it does not allow one.
    """
    most = AT_ONCE if model.report.actual == "cpu" else AT_ONCE_ON_DEVICE
    while True:
        part = _part(settings, range(min(most, len(settings.seeds))))
        try:
            model.limits.check_draw(model.manifest, part)
            return most
        except OutOfMemory:
            if most == 1:
                raise
            most //= 2


def _part(settings: Settings, indices: Sequence[int]) -> Settings:
    """Return the settings of some images of a draw."""
    seeds, labels = settings.seeds, settings.labels
    return replace(settings, seeds=tuple(seeds[i] for i in indices), labels=tuple(labels[i] for i in indices))


def _add(timings: Timings, more: Timings) -> None:
    for one in fields(Timings):
        value: Any = getattr(timings, one.name) + getattr(more, one.name)
        setattr(timings, one.name, value)
