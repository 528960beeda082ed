"""The prebuilt kernels as files: one archive per target and a manifest that says what is in them.

    cubins/manifest.json    compiler versions, and for every file its hash, size, figures and launch needs
    cubins/sm_75.zip        the variants of that target, `fp16_v8192.cubin` and so on
    cubins/ptx_80.zip       the same as PTX text

The manifest's hashes are those of the files inside, so that another compression of the same files is the same build.
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
"""Where the shipped kernels lie."""
MANIFEST: Final = "manifest.json"
SCHEMA: Final = 1
"""Version of the manifest's layout."""

_REMEDY: Final = "install smalti again"
# The least date that a zip can hold: archives do not say when they were made.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


class Entry(NamedTuple):
    """One prebuilt kernel."""

    target: str
    """Name of its target, and of the archive: ``sm_75``."""
    variant: str
    """Name of its variant: ``fp16_v8192``."""
    sha256: str
    """Of the file inside the archive."""
    bytes: int
    """Size of that file."""
    kernel: str
    """Entry point."""
    num_warps: int
    """A launch has 32 times as many threads per block."""
    shared_bytes: int
    """Dynamic shared memory that a launch asks for."""
    registers: int
    """Per thread; 0 for PTX, whose registers the driver assigns."""
    stack_bytes: int
    """Local memory per thread. 0: nothing was spilled."""
    scratch_bytes: int
    """Scratch memory that a launch would have to provide; 0, for the launcher provides none."""
    cuda: tuple[int, int]
    """CUDA version of the assembler, or of the PTX language's first toolkit."""

    @property
    def member(self) -> str:
        """Name of the file inside the archive."""
        return self.variant + (".ptx" if self.target.startswith("ptx") else ".cubin")


class Manifest(NamedTuple):
    """What was built, with what."""

    compiler: Mapping[str, str]
    """Versions of Triton and of the assemblers in its wheel."""
    entries: Mapping[tuple[str, str], Entry]
    """Every kernel by (target, variant)."""


def write_kernels(folder: Path, compiler: Mapping[str, str], kernels: Iterable[tuple[Entry, bytes]]) -> None:
    """Write the archives and the manifest; equal input gives equal bytes.

    Args:
        folder: made if need be; archives there are replaced, and those of other targets removed.
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
def read_manifest(folder: Path = FOLDER) -> Manifest:
    """Read the manifest; once per process and folder.

    Raises:
        DamagedKernel: it is missing or is not a manifest of this version.
    """
    path = folder / MANIFEST
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise DamagedKernel(f"{path} has schema {content['schema']!r}; this smalti reads {SCHEMA}", _REMEDY)
        entries = [Entry(**(fields | {"cuda": tuple(fields["cuda"])})) for fields in content["kernels"]]
        return Manifest(dict(content["compiler"]), {(entry.target, entry.variant): entry for entry in entries})
    except OSError as error:
        raise DamagedKernel(f"the prebuilt kernels are missing: {error}", _REMEDY) from None
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedKernel(f"{path} is not a manifest of prebuilt kernels: {error!r}", _REMEDY) from None


def find_entry(target: str, variant: str, folder: Path = FOLDER) -> Entry:
    """Look a kernel up.

    Raises:
        NoMatchingKernel: it was not built.
        DamagedKernel: see `read_manifest`.
    """
    entry = read_manifest(folder).entries.get((target, variant))
    if entry is None:
        raise NoMatchingKernel(f"the kernel {variant} was not built for {target}", _REMEDY)
    return entry


def read_image(entry: Entry, folder: Path = FOLDER) -> bytes:
    """Read a kernel's file and check it against its hash.

    Raises:
        DamagedKernel: the archive is missing or damaged, or the file is not the one that was built.
    """
    path = folder / f"{entry.target}.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            image = archive.read(entry.member)
    # A damaged archive surfaces as whatever its decompressor raises: LZMAError, EOFError, NotImplementedError, others.
    except Exception as error:
        raise DamagedKernel(f"{path} does not yield {entry.member}: {error!r}", _REMEDY) from error
    found = hashlib.sha256(image).hexdigest()
    if found != entry.sha256:
        raise DamagedKernel(
            f"{entry.member} in {path} is damaged: sha256 {found[:12]} instead of {entry.sha256[:12]}", _REMEDY
        )
    return image
