"""The prebuilt kernels as files: one archive per target, and a manifest of their contents.

    cubins/manifest.json    compiler versions, and for every file its hash, size, figures and launch needs
    cubins/sm_75.zip        the variants of that target, `fp16_v8192.cubin` and so on
    cubins/ptx_80.zip       the same as PTX text

The manifest hashes the files inside the archives, so the same files in another compression count as the same build.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from smalti_kernels.errors import DamagedKernel, NoMatchingKernel

FOLDER: Final = Path(__file__).parents[2] / "cubins"
"""Folder of the shipped kernels."""
MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
"""Version of the manifest's layout."""

_REMEDY: Final = "install smalti again"
# The earliest date that a zip can hold, so that archives do not depend on when they were made.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


class Entry(NamedTuple):
    """One prebuilt kernel."""

    target: str
    """Name of its target, and of the archive: ``sm_75``."""
    variant: str
    """Name of its variant: ``fp16_v8192``."""
    sha256: str
    """sha256 of the file inside the archive."""
    bytes: int
    """Size of that file."""
    kernel: str
    """Entry point."""
    num_warps: int
    """Warps per block; a launch has 32 times as many threads per block."""
    shared_bytes: int
    """Dynamic shared memory that a launch requests."""
    registers: int
    """Registers per thread; 0 for PTX, whose registers the driver assigns."""
    stack_bytes: int
    """Local memory per thread; 0 means that nothing was spilled."""
    scratch_bytes: int
    """Scratch memory that a launch must provide; always 0, because the launcher provides none."""
    cuda: tuple[int, int]
    """CUDA version of the assembler, or of the PTX language's first toolkit."""

    @property
    def member(self) -> str:
        """Name of the file inside the archive."""
        return self.variant + (".ptx" if self.target.startswith("ptx") else ".cubin")


class PrebuiltList(NamedTuple):
    """The compiler and the kernels that it built."""

    compiler: Mapping[str, str]
    """Versions of Triton and of the assemblers in its wheel."""
    entries: Mapping[tuple[str, str], Entry]
    """Every kernel by (target, variant)."""


def write_kernels(folder: Path, compiler: Mapping[str, str], kernels: Iterable[tuple[Entry, bytes]]) -> None:
    """Write the archives and the manifest; equal input gives equal bytes.

    Args:
        folder: created if missing; its archives are replaced, and those of other targets removed.
        compiler: versions, by name.
        kernels: every entry with its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(kernels)
    targets = {entry.target for entry, _ in files}
    for stale in folder.glob("*.zip"):
        if stale.stem not in targets:
            stale.unlink()
    for target in sorted(targets):
        with zipfile.ZipFile(folder / f"{target}.zip", "w") as archive:
            for entry, image in files:
                if entry.target == target:
                    info = zipfile.ZipInfo(entry.member, _DATE)
                    info.compress_type = zipfile.ZIP_LZMA
                    info.create_system = 3
                    archive.writestr(info, image)
    lines = ",\n".join("  " + json.dumps(entry._asdict()) for entry, _ in files)
    head = f'"schema": {SCHEMA},\n "compiler": {json.dumps(dict(compiler))}'
    (folder / MANIFEST).write_text(f'{{{head},\n "kernels": [\n{lines}\n ]}}\n', encoding="utf-8", newline="\n")
    read_manifest.cache_clear()


@cache
def read_manifest(folder: Path = FOLDER) -> PrebuiltList:
    """Read the manifest, once per process and folder.

    Raises DamagedKernel when it is missing or is not a manifest of this version.
    """
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise DamagedKernel(f"{path} has schema {content['schema']!r}; this smalti reads {SCHEMA}", _REMEDY)
        entries = [Entry(**(fields | {"cuda": tuple(fields["cuda"])})) for fields in content["kernels"]]
        return PrebuiltList(dict(content["compiler"]), {(entry.target, entry.variant): entry for entry in entries})
    except OSError as error:
        raise DamagedKernel(f"the prebuilt kernels are missing: {error}", _REMEDY) from None
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedKernel(f"{path} is not a manifest of prebuilt kernels: {error!r}", _REMEDY) from None


def find_entry(target: str, variant: str, folder: Path = FOLDER) -> Entry:
    """Find a kernel in the manifest.

    Raises NoMatchingKernel when it was not built, DamagedKernel as `read_manifest` does.
    """
    entry = read_manifest(folder).entries.get((target, variant))
    if entry is None:
        raise NoMatchingKernel(f"the kernel {variant} was not built for {target}", _REMEDY)
    return entry


def read_image(entry: Entry, folder: Path = FOLDER) -> bytes:
    """Read a kernel's file and check its hash.

    Raises DamagedKernel when the archive is missing or damaged, or the file is not the one that was built.
    """
    path = folder / f"{entry.target}.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            image = archive.read(entry.member)
    # A damaged archive raises any error of its decompressor: LZMAError, EOFError, NotImplementedError and others.
    except Exception as error:
        raise DamagedKernel(f"{path} does not yield {entry.member}: {error!r}", _REMEDY) from error
    found = hashlib.sha256(image).hexdigest()
    if found != entry.sha256:
        raise DamagedKernel(
            f"{entry.member} in {path} is damaged: sha256 {found[:12]} instead of {entry.sha256[:12]}", _REMEDY
        )
    return image
