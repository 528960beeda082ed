"""Remove engines from the cache that are of no use, and no others. A bundle's own engines are never touched."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from smalti.backends.tensorrt.compiled import SUFFIX, compiled_folder
from smalti.bundle.engine_folder import (
    KeptEngine,
    cached_folders,
    changing,
    read_or_forget,
    strays,
    write_folder,
)
from smalti.bundle.engines import ENGINES, SCHEMA_VERSION, Engines
from smalti.errors import BundleError, UsageError
from smalti.system.files import remove_folder
from smalti.system.platform import cache_folder, patiently
from smalti.verification.engines.listing import Installed, judge
from smalti.verification.engines.scratch import left_behind
from smalti.verification.engines.worn import Here, gpus_here, worn

TRIALS = "trials"
"""Folder of the cache with the verdicts of ``auto``."""
DAY = 86400.0
"""Seconds."""
USELESS = ("damaged", "other version")
"""States of engines that nothing here can use. Where a runtime is not installed, its engines may be used later."""


@dataclass(frozen=True)
class Rule:
    """What is removed beside engines that are of no use; at most one of these."""

    everything: bool = False
    older_than: float | None = None
    """Age in days from which on engines and compiled kernels go."""
    keep_bytes: int | None = None
    """Bytes that may stay; the oldest engines go first."""

    def __post_init__(self) -> None:
        """Raise UsageError when there are several, or one is below zero."""
        given = [self.everything, self.older_than is not None, self.keep_bytes is not None]
        if sum(given) > 1:
            raise UsageError("--all, --older-than and --keep-mb exclude each other; give one of them")
        if not (0 <= (self.older_than or 0) < math.inf) or (self.keep_bytes or 0) < 0:
            raise UsageError("--older-than and --keep-mb take numbers from 0 on")


@dataclass(frozen=True)
class Removed:
    """A file that was removed, or would be."""

    path: str
    bytes: int
    why: str


@dataclass
class Pruned:
    """What came of it."""

    removed: list[Removed] = field(default_factory=list[Removed])
    kept: int = 0
    """Bytes of the engines that stay."""
    problems: list[str] = field(default_factory=list[str])
    """What could not be read or removed."""


@dataclass(frozen=True)
class _File:
    """A file of a folder, and why it goes; empty where it stays."""

    path: Path
    bytes: int
    age: float
    """Days since it was written."""
    why: str


@dataclass(frozen=True)
class _Folder:
    """A folder of engines, and what of it goes."""

    path: Path
    listed: Engines | None
    engines: list[_File]
    """Those that the list names, in its order."""
    others: list[_File]
    """All other files, the list among them."""


def prune(
    installed: Installed,
    rule: Rule,
    *,
    dry: bool = False,
    say: Callable[[str], object] = lambda line: None,
    here: Here | None = None,
) -> Pruned:
    """Remove engines of other versions than the installed ones, damaged ones, strays, and what ``rule`` says.

    Strays are files that no list names, as a killed process leaves them. What TensorRT-RTX compiled in another version,
    or for another driver of the GPUs ``here`` (by default those of this machine), goes too.

    Each folder changes under its lock: first its list, then its files. A list of a later smalti stays, with its
    engines, unless everything goes. ``dry`` removes nothing. ``say`` is called where another process has the lock.

    Raises OutputError when the cache cannot be read or a list cannot be written, MissingExtra without filelock.
    """
    pruned = Pruned()
    too_many = _too_many(installed, rule.keep_bytes) if rule.keep_bytes is not None else set[Path]()
    for folder in cached_folders():
        with contextlib.ExitStack() as stack:
            if not dry:
                wait = partial(say, f"waiting for another process that builds into {folder}")
                stack.enter_context(changing(folder, wait))
            try:
                found = _look(folder, installed, rule, too_many)
            except FileNotFoundError:  # another process has removed it
                continue
            except (BundleError, OSError) as error:  # a list of a later smalti, or a folder that cannot be read
                pruned.problems.append(f"what is in {folder} stays: {error}")
                continue
            pruned.kept += sum(file.bytes for file in found.engines if not file.why)
            failed = {} if dry else _remove(found)
            for file in (*found.engines, *found.others):
                if reason := failed.get(file.path):
                    pruned.problems.append(f"cannot remove {file.path}: {reason}")
                elif file.why:
                    pruned.removed.append(Removed(str(file.path), file.bytes, file.why))
    left_behind(partial(_leave, pruned, dry))
    here = gpus_here() if here is None else here
    for path in _files_in(compiled_folder()):
        _drop(pruned, path, lambda age, path=path: _why_compiled(path, installed, rule, here, age), dry=dry)
    for path in _files_in(cache_folder() / TRIALS) if rule.everything else ():
        _drop(pruned, path, lambda age: "everything goes", dry=dry)
    return pruned


def _leave(pruned: Pruned, dry: bool, folder: Path) -> None:
    """Remove a folder that a killed build worked in."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not dry:
        remove_folder(folder)
    if not dry and folder.exists():
        pruned.problems.append(f"cannot remove {folder}")
    else:
        pruned.removed.append(Removed(str(folder), size, "a build that was killed left it"))


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:  # none, or no folder
        return []


def _why_compiled(path: Path, installed: Installed, rule: Rule, here: Here, age: float) -> str:
    """Return why a file of compiled kernels goes, which are made again where they are missing; empty if it stays."""
    if rule.everything:
        return "everything goes"
    if path.suffix != SUFFIX:  # a lock or a mark, which another process may hold
        return ""
    if why := worn(path, installed.get("rtx", ""), here):
        return why
    return f"it is {age:.1f} days old" if rule.older_than is not None and age >= rule.older_than else ""


def _drop(pruned: Pruned, path: Path, why: Callable[[float], str], *, dry: bool) -> None:
    """Remove a file beside engines, if it goes."""
    file = _file(path, why)
    if not file.why:
        return
    if reason := ({} if dry else _unlink(path)).get(path):
        pruned.problems.append(f"cannot remove {path}: {reason}")
    else:
        pruned.removed.append(Removed(str(path), file.bytes, file.why))


def _look(folder: Path, installed: Installed, rule: Rule, too_many: set[Path]) -> _Folder:
    """Look at a folder. Raises BundleError when a later smalti wrote the list, unless everything goes."""
    try:
        listed, wrong = read_or_forget(folder)
    except BundleError as error:
        if not rule.everything:
            raise
        listed, wrong = None, str(error)
    engines = [
        _file(folder / record.engine.file, partial(_why, KeptEngine(record, folder, ""), installed, rule, too_many))
        for record in (listed.engines if listed else ())
    ]
    wrong = wrong.removeprefix(f"{folder}: ")
    others = [_file(path, lambda age: wrong or "no list names it") for path in strays(folder, listed)]
    if (folder / ENGINES).exists() and all(file.why for file in engines):
        others.append(_file(folder / ENGINES, lambda age: wrong or "it lists no engine that stays"))
    return _Folder(folder, listed, engines, others)


def _file(path: Path, why: Callable[[float], str]) -> _File:
    try:
        found = path.stat()
    except OSError:  # a list may name a file that is missing
        return _File(path, 0, 0.0, why(0.0))
    age = (time.time() - found.st_mtime) / DAY
    return _File(path, found.st_size, age, why(age))


def _why(one: KeptEngine, installed: Installed, rule: Rule, too_many: set[Path], age: float) -> str:
    """Return why an engine goes; empty where it stays."""
    if rule.everything:
        return "all engines go"
    state, note = judge(one, None, installed.get(one.record.runtime, ""))
    if state in USELESS:
        # The remedy is left out, and so is the path, which stands beside.
        return note.removeprefix(f"{one.root}: {one.record.engine.file} ").partition("; ")[0]
    if rule.older_than is not None and age >= rule.older_than:
        return f"it is {age:.1f} days old"
    return "it is among the oldest of too many" if one.root / one.record.engine.file in too_many else ""


def _too_many(installed: Installed, most: int) -> set[Path]:
    """Return the oldest engines that go, so that at most ``most`` bytes stay of those that are of use."""
    files: list[_File] = []
    for folder in cached_folders():
        with contextlib.suppress(BundleError, OSError):
            files += [file for file in _look(folder, installed, Rule(), set()).engines if not file.why]
    total = 0
    going = set[Path]()
    for file in sorted(files, key=lambda file: file.age):
        total += file.bytes
        if total > most:
            going.add(file.path)
    return going


def _remove(found: _Folder) -> dict[Path, str]:
    """Remove what goes; return what failed, and why. The list is first, so that it names only files that are there."""
    folder, listed, failed = found.path, found.listed, dict[Path, str]()
    stay = [file.path.name for file in found.engines if not file.why]
    if not stay:
        failed |= _unlink(folder / ENGINES)
        if failed:  # a list that stays must name files that are there
            return failed | {file.path: "its list cannot be removed" for file in found.engines}
    elif listed is not None and len(stay) < len(listed.engines):
        records = tuple(record for record in listed.engines if record.engine.file in stay)
        new = msgspec.structs.replace(listed, schema_version=SCHEMA_VERSION, engines=records)
        write_folder(folder, new, {})
    for file in (*found.engines, *found.others):
        if file.why and file.path.name not in stay:  # two records may name one file
            failed |= _unlink(file.path)
    if not stay:
        with contextlib.suppress(OSError):  # something else lies in it
            folder.rmdir()
    return failed


def _unlink(path: Path) -> dict[Path, str]:
    try:
        patiently(lambda: path.unlink(missing_ok=True))
    except OSError as error:
        return {path: error.strerror or str(error)}
    return {}
