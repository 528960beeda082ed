"""A dataset's pixels, made once and kept as plain bytes.

A finished cache is a directory named by its key. It is complete, or does not exist:

    <key>/images.u8      uint8 [count, H, W, 3], C order
    <key>/labels.i32     int32 [count], little-endian
    <key>/meta.json      count, shape, skipped items, and what the caller wants to keep

It is built in ``<key>.partial/`` and then renamed. ``journal.i32`` gets the label of each item after its pixels are
written (-1: the item gave no image), so a killed build continues after the last whole image. Pixels are written by
ordinary writes: a full disk then raises an error, while a writable memory map would end the process with SIGBUS.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from smalti.errors import OutputError, UsageError
from smalti.system.files import move_folder
from smalti.system.platform import cache_folder
from smalti_train.data.progress import image_progress

FORMAT = 1
Item = tuple[np.ndarray, int] | None
"""(uint8 image of the cache's shape, label >= 0), or None for an item that has no image."""


@dataclass(frozen=True, eq=False)
class Cache:
    """An open cache."""

    images: np.memmap
    """uint8 [N, *shape], read-only."""
    labels: np.ndarray
    """int32 [N], read-only."""
    skipped: tuple[int, ...]
    """Indices of the items that gave no image; the images of the other items are in order."""
    meta: dict[str, Any]
    """The ``meta`` given to ``build_cache``, read back from JSON."""


def default_directory() -> Path:
    """Return the caches' folder: ``$SMALTI_CACHE_DIR/datasets``, or ``datasets`` in the user's own cache directory."""
    return cache_folder() / "datasets"


def thread_count() -> int:
    """Return the number of threads that make images: cores + 1, at most 4 (measured to be fastest)."""
    return min(4, (os.cpu_count() or 1) + 1)


def cache_key(name: str, recipe: dict[str, Any]) -> str:
    """Return ``name`` and a digest of ``recipe`` (JSON values), which must hold everything that decides the pixels."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:16]}"


def build_cache(
    directory: Path,
    key: str,
    count: int,
    shape: tuple[int, ...],
    item: Callable[[int], Item],
    meta: dict[str, Any] | Callable[[], dict[str, Any]],
    progress: bool = True,
    *,
    title: str = "",
    workers: int = 1,
) -> Cache:
    """Open the cache ``key`` in ``directory``, building its missing part first.

    ``item(i)`` for 0 <= i < ``count`` must depend on i alone, so that an interrupted build can continue. With
    ``workers`` > 1 it is called from that many threads; the order on disk is that of i. ``meta`` is kept with the
    pixels: JSON values, or a function that is called before the first item if there is something to build. ``title``
    names the progress.

    If two processes build the same key, the second waits for the first.

    Raises OutputError when the cache cannot be written (the next call continues from what is there), UsageError when no
    item gives an image, and ValueError for an image of another shape. Errors raised by ``item`` pass through.
    """
    final, partial = directory / key, directory / f"{key}.partial"
    found = open_cache(final, shape)
    if found is not None:
        return found
    with _output(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory / f"{key}.lock", title or key, progress):
        os.listdir(directory)  # a network file system may remember for a while that another machine's was missing
        found = open_cache(final, shape)
        if found is not None:
            return found
        with _output(partial):
            if final.exists():  # damaged: open_cache refused it
                shutil.rmtree(final)
            partial.mkdir(exist_ok=True)
        described = meta() if callable(meta) else meta
        _fill(partial, count, shape, item, progress, title or key, workers)
        _finish(partial, final, shape, described)
    found = open_cache(final, shape)
    if found is None:
        raise OutputError(f"{final} changed while it was built; run again")
    return found


def open_cache(path: Path, shape: tuple[int, ...]) -> Cache | None:
    """Open the finished cache at ``path``; None if there is none, or if its files do not fit its meta."""
    try:
        described = json.loads((path / "meta.json").read_text(encoding="utf-8"))
        count = int(described["count"])
        fits = (
            described["format"] == FORMAT
            and tuple(described["shape"]) == tuple(shape)
            and count > 0
            and (path / "images.u8").stat().st_size == count * math.prod(shape)
            and (path / "labels.i32").stat().st_size == count * 4
        )
        if not fits:
            return None
        labels = np.fromfile(path / "labels.i32", dtype="<i4").astype(np.int32, copy=False)
        labels.flags.writeable = False
        images = np.memmap(path / "images.u8", dtype=np.uint8, mode="r", shape=(count, *shape))
        return Cache(images, labels, tuple(described["skipped"]), described["meta"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fill(
    partial: Path,
    count: int,
    shape: tuple[int, ...],
    item: Callable[[int], Item],
    progress: bool,
    title: str,
    workers: int,
) -> None:
    """Append the missing items to ``partial``."""
    with _output(partial):
        images = FileIO(partial / "images.u8", "a+")
    with closing(images):
        with _output(partial):
            journal = FileIO(partial / "journal.i32", "a+")
        with closing(journal):
            with _output(partial):
                done = _resume(images, journal, count, math.prod(shape))
            with (
                image_progress(title, count, done, progress) as tick,
                closing(_ordered(item, done, count, workers)) as made,
            ):
                for index, entry in enumerate(made, start=done):
                    if entry is not None and (entry[0].shape != tuple(shape) or entry[0].dtype != np.uint8):
                        raise ValueError(f"item {index} is {entry[0].dtype} {entry[0].shape}, not uint8 {tuple(shape)}")
                    with _output(partial):
                        if entry is not None:
                            _write(images, np.ascontiguousarray(entry[0]).data.cast("B"))
                        _write(journal, memoryview(np.array(-1 if entry is None else entry[1], "<i4").tobytes()))
                    tick()
            with _output(partial):
                os.fsync(images.fileno())
                os.fsync(journal.fileno())


def _resume(images: FileIO, journal: FileIO, count: int, bytes_per_image: int) -> int:
    """Truncate both files to the items that are whole in both; return the number of those items."""
    journal.seek(0)
    labels = np.frombuffer(journal.readall(), dtype=np.uint8)
    labels = labels[: len(labels) // 4 * 4].view("<i4")[:count]
    whole = images.seek(0, os.SEEK_END) // bytes_per_image
    images_before = np.concatenate([[0], np.cumsum(labels >= 0)])
    done = int(np.searchsorted(images_before, whole, side="right")) - 1
    images.truncate(int(images_before[done]) * bytes_per_image)
    journal.truncate(done * 4)
    return done


def _ordered(item: Callable[[int], Item], start: int, stop: int, workers: int) -> Generator[Item, None, None]:
    """Yield ``item(start) .. item(stop - 1)`` in order; threads compute a bounded number ahead."""
    if workers <= 1:
        yield from map(item, range(start, stop))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="smalti-data")
    try:
        indices = iter(range(start, stop))
        ahead: deque[Future[Item]] = deque(pool.submit(item, i) for i in islice(indices, workers * 8))
        while ahead:
            made = ahead.popleft().result()
            ahead.extend(pool.submit(item, i) for i in islice(indices, 1))
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(partial: Path, final: Path, shape: Sequence[int], meta: dict[str, Any]) -> None:
    """Write labels and meta, then rename the whole directory into place."""
    with _output(partial):
        journal = np.fromfile(partial / "journal.i32", dtype="<i4")
        labels = journal[journal >= 0]
        described = {
            "format": FORMAT,
            "count": len(labels),
            "shape": list(shape),
            "skipped": np.flatnonzero(journal < 0).tolist(),
            "meta": meta,
        }
        if len(labels) == 0:
            shutil.rmtree(partial)
            raise UsageError(f"{final.name}: none of the {len(journal)} items could be read")
        text = json.dumps(described, indent=1).encode()
        for name, content in (("labels.i32", labels.tobytes()), ("meta.json", text)):
            with FileIO(partial / name, "w") as file:
                _write(file, memoryview(content))
                os.fsync(file.fileno())
        move_folder(partial, final)
        (final / "journal.i32").unlink(missing_ok=True)


def _write(file: FileIO, data: memoryview) -> None:
    """Write all of ``data``: an unbuffered write may write only a part, for instance on a nearly full disk."""
    while data:
        data = data[file.write(data) :]


@contextmanager
def _locked(path: Path, title: str, progress: bool) -> Generator[None]:
    """Hold the lock file ``path``; print a line when this process has to wait for another."""
    lock = FileLock(path)
    with _output(path):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                print(f"{title}: waiting for another process that builds it", file=sys.stderr, flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _output(path: Path) -> Generator[None]:
    """Turn an OSError into an OutputError that names the place and a remedy."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write the image cache {path}: {reason}. Make room there and run again (images already made are "
            "kept), or set SMALTI_CACHE_DIR to a directory with more room"
        ) from error
