"""The gallery of the studio: a folder of pictures that say how they were made, and what they were painted on."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from smalti.drawing.result import Result
from smalti.errors import OutputError, UsageError
from smalti.saving.recipe import Recipe, read_recipe
from smalti.saving.targets import LARGEST_FILE
from smalti.system.files import check_folder, portable_name, write_whole
from smalti.system.platform import is_portable, patiently, pictures_folder, reachable
from smalti.web.failures import Refused
from smalti.web.studio.inputs import Inputs

ENDING: Final = ".png"
DELETED: Final = ".deleted"
"""The folder inside the gallery where deleted pictures lie until the studio starts again."""
PAGE: Final = 60
"""Pictures that are listed at a time."""
LONGEST_NAME: Final = 200
REMEMBERED: Final = 20_000
"""Recipes that are not read again."""


def default_folder() -> Path:
    """Return the folder ``smalti`` in the user's pictures."""
    return pictures_folder() / "smalti"


@dataclass(frozen=True)
class Shown:
    """A picture of the gallery."""

    name: str
    version: int
    """When it was written, in nanoseconds."""
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON. Whole numbers that scripts may round are texts."""
        return {"name": self.name, "version": str(self.version), "recipe": told(self.recipe)}


class Gallery:
    """A folder of PNGs with recipes. What else lies there is neither shown nor touched."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, which is made once there is something to keep.

        Raises OutputError where nothing can be written to it. What was deleted before goes away for good.
        """
        check_folder(folder)
        self.folder = reachable(folder)
        self.inputs = Inputs(self.folder / "inputs")
        self._known: dict[tuple[str, int, int], Recipe | None] = {}
        self._lock = threading.Lock()
        self._empty_deleted()

    def page(self, after: str | None = None, most: int = PAGE) -> tuple[list[Shown], bool]:
        """Return up to ``most`` pictures, the newest first, and whether there are more.

        ``after`` is the name of the last one that was listed before. Files that cannot be read, or do not say how
        they were made, are left out.
        """
        found: list[Shown] = []
        files = self._files()
        names = [name for _, name, _ in files]
        begin = names.index(after) + 1 if after in names else 0
        for version, name, size in files[begin:]:
            recipe = self._recipe(name, version, size)
            if recipe is None:
                continue
            if len(found) == most:
                return found, True
            found.append(Shown(name, version, recipe))
        return found, False

    def path(self, name: str) -> Path:
        """Return the path of a picture. Raises Refused (404) where there is none, or the name is another file's."""
        path = self.folder / _checked(name)
        try:
            kind = path.lstat().st_mode
        except OSError:
            kind = 0
        if not stat.S_ISREG(kind):  # a link may lead out of the folder
            raise Refused(404, "not_found", f"the gallery has no picture {name[:80]}")
        return path

    def keep(self, result: Result, which: int, content: bytes) -> str:
        """Write picture ``which`` of a result, whose file has this content, as a file of its own; return its name.

        The very same file is not written twice. Raises OutputError when it cannot be written.
        """
        seed, label = result.settings.seeds[which], result.settings.labels[which]
        parts = (result.bundle.manifest.name, label, str(seed))
        stem = portable_name("-".join(part for part in parts if part))
        names = itertools.chain((f"{stem}{ENDING}",), (f"{stem}-{number}{ENDING}" for number in itertools.count(2)))
        with self._lock:
            while not self._is_same(name := next(names), content):
                if self._claim(name):
                    self._write(name, content)
                    break
        return name

    def delete(self, name: str) -> None:
        """Put a picture away, so that :meth:`restore` finds it. Raises Refused, and OutputError when it must stay."""
        with self._lock, _writing(self.path(name)) as path:
            (self.folder / DELETED).mkdir(exist_ok=True)
            patiently(lambda: path.replace(self.folder / DELETED / name))

    def restore(self, name: str) -> None:
        """Bring back what was deleted. Raises Refused where nothing was, or the name is taken by now."""
        away = self.folder / DELETED / _checked(name)
        with self._lock, _writing(self.folder / name) as path:
            if not away.is_file():
                raise Refused(404, "not_found", f"{name[:80]} was not deleted, or the studio has started anew since")
            if path.exists():
                raise Refused(409, "taken", f"the gallery has another {name[:80]} by now")
            patiently(lambda: away.replace(path))

    def _files(self) -> list[tuple[int, str, int]]:
        """Return time, name and size of what may be pictures, the newest first."""
        found: list[tuple[int, str, int]] = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:  # the folder is made with a picture
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.name.endswith(ENDING) and _is_plain(entry.name) and entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        found.append((about.st_mtime_ns, entry.name, about.st_size))
        return sorted(found, reverse=True)

    def _recipe(self, name: str, version: int, size: int) -> Recipe | None:
        """Return what a file says of itself; None where it says nothing that can be read."""
        key = (name, version, size)
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[key] = None
            with contextlib.suppress(UsageError, OSError):
                if size:
                    self._known[key] = read_recipe(self.folder / name)
        return self._known[key]

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        try:
            write_whole(path, content)
        except BaseException:  # the name is free again
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def _is_same(self, name: str, content: bytes) -> bool:
        path = self.folder / name
        try:
            return path.stat().st_size == len(content) and path.read_bytes() == content
        except OSError:
            return False

    def _claim(self, name: str) -> bool:
        """Take a name that is free, whatever the case of its letters means here. Raises OutputError."""
        with _writing(self.folder / name) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.open("xb").close()
            except FileExistsError:
                return False
            return True

    def _empty_deleted(self) -> None:
        """Remove what was deleted before, and what it alone was painted on."""
        away = self.folder / DELETED
        recipes: list[Recipe] = []
        if not away.is_dir() or away.is_symlink():
            return
        for path in away.iterdir():
            with contextlib.suppress(UsageError, OSError):
                recipes.append(read_recipe(path))
        shutil.rmtree(away, ignore_errors=True)
        candidates = {one for recipe in recipes for one in (recipe.image, recipe.mask) if one}
        if candidates:
            kept = (self._recipe(name, version, size) for version, name, size in self._files())
            self.inputs.remove(candidates - {one for recipe in kept if recipe for one in (recipe.image, recipe.mask)})


def told(recipe: Recipe) -> dict[str, Any]:
    """Return what the page shows of a recipe, for JSON. Seeds are texts, since scripts round large numbers."""
    return {
        "call": recipe.call,
        "bundle": recipe.bundle,
        "seeds": [str(seed) for seed in recipe.seeds],
        "labels": list(recipe.labels),
        "options": {name: value for name, value in recipe.options.items() if value is not None},
        "image": recipe.image,
        "mask": recipe.mask,
        "feather": recipe.feather,
        "fit": recipe.fit,
        "margins": None if recipe.margins is None else list(recipe.margins),
        "strength": recipe.strength,
        "step": recipe.step,
        "provider": recipe.provider,
        "precision": recipe.precision,
    }


def read_whole(path: Path) -> bytes:
    """Return the bytes of a file of the gallery. Raises Refused where it cannot be read, or is no such file."""
    try:
        with reachable(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Refused(404, "not_found", f"{path.name} cannot be read: {error.strerror or error}") from None
    if len(content) > LARGEST_FILE:
        raise Refused(413, "too_large", f"{path.name}: at most {LARGEST_FILE} bytes are read")
    return content


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file right in the gallery which every system takes."""
    fits = 0 < len(name) <= LONGEST_NAME and name.isprintable() and not name.startswith(".")
    return fits and not set(name) & set("/\\:") and is_portable(name)


def _checked(name: str) -> str:
    if not _is_plain(name) or not name.endswith(ENDING):
        raise Refused(404, "not_found", f"the gallery has no picture {name[:80]!r}")
    return name


@contextlib.contextmanager
def _writing(path: Path) -> Generator[Path]:
    """Tell of a file that cannot be written. Raises OutputError."""
    try:
        yield path
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
