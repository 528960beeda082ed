from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalti.errors import OutputError, UsageError
from smalti_train.data.cache import Cache, build_cache, cache_key, default_directory

SHAPE = (4, 4, 3)
BYTES = 48


def item(index: int) -> tuple[np.ndarray, int] | None:
    """Every seventh item gives no image."""
    if index % 7 == 3:
        return None
    return np.random.default_rng(index).integers(0, 256, SHAPE, dtype=np.uint8), index % 5


def expected(count: int) -> tuple[np.ndarray, list[int]]:
    kept = [entry for entry in map(item, range(count)) if entry is not None]
    return np.stack([pixels for pixels, _ in kept]), [label for _, label in kept]


def check(cache: Cache, count: int) -> None:
    images, labels = expected(count)
    np.testing.assert_array_equal(cache.images, images)
    assert cache.labels.tolist() == labels
    assert cache.labels.dtype == np.int32
    assert cache.skipped == tuple(range(3, count, 7))


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from smalti_train.data.cache import build_cache
directory, count, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
def item(index):
    time.sleep(pause)
    if index % 7 == 3:
        return None
    return np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8), index % 5
"""


def start_child(directory: Path, count: int, pause: float, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD + code, str(directory), str(count), str(pause)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


BUILD = 'build_cache(directory, "k", count, (4, 4, 3), item, {}, title="numbers")'


@pytest.mark.parametrize("workers", [1, 3])
def test_builds_in_order_and_opens_again_without_building(tmp_path: Path, workers: int) -> None:
    cache = build_cache(tmp_path, "k", 30, SHAPE, item, {"note": "é"}, False, workers=workers)
    check(cache, 30)
    assert cache.meta == {"note": "é"}
    assert not cache.images.flags.writeable
    assert not cache.labels.flags.writeable
    assert sorted(path.name for path in (tmp_path / "k").iterdir()) == ["images.u8", "labels.i32", "meta.json"]

    def never(index: int) -> None:
        raise AssertionError(f"item {index} made again")

    check(build_cache(tmp_path, "k", 30, SHAPE, never, {}, False), 30)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_build_is_continued(tmp_path: Path) -> None:
    child = start_child(tmp_path, 400, 0.005, BUILD)
    partial = tmp_path / "k.partial" / "images.u8"
    deadline = time.monotonic() + 20
    while not (partial.exists() and partial.stat().st_size >= 20 * BYTES):
        assert time.monotonic() < deadline, "the child wrote nothing"
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (tmp_path / "k").exists()

    made: list[int] = []
    cache = build_cache(
        tmp_path, "k", 400, SHAPE, lambda index: made.append(index) or item(index), {}, False, title="numbers"
    )
    assert 20 <= made[0] < 400
    assert made == list(range(made[0], 400))
    check(cache, 400)
    other = build_cache(tmp_path / "whole", "k", 400, SHAPE, item, {}, False)
    for name in ("images.u8", "labels.i32", "meta.json"):
        assert (tmp_path / "k" / name).read_bytes() == (tmp_path / "whole" / "k" / name).read_bytes()
    assert other.images.tobytes() == cache.images.tobytes()


@settings(max_examples=25, deadline=None)
@given(images=st.integers(0, 18 * BYTES), journal=st.integers(0, 84))
def test_any_cut_of_the_partial_files_is_continued(
    tmp_path_factory: pytest.TempPathFactory, images: int, journal: int
) -> None:
    directory = tmp_path_factory.mktemp("cut")

    def stop(index: int) -> tuple[np.ndarray, int] | None:
        if index == 21:
            raise RuntimeError("stop")
        return item(index)

    with pytest.raises(RuntimeError, match="stop"):
        build_cache(directory, "k", 30, SHAPE, stop, {}, False)
    assert (directory / "k.partial" / "images.u8").stat().st_size == 18 * BYTES
    os.truncate(directory / "k.partial" / "images.u8", images)
    os.truncate(directory / "k.partial" / "journal.i32", journal)
    check(build_cache(directory, "k", 30, SHAPE, item, {}, False), 30)


@pytest.mark.parametrize("name", ["images.u8", "labels.i32", "meta.json"])
def test_a_truncated_cache_is_rebuilt(tmp_path: Path, name: str) -> None:
    build_cache(tmp_path, "k", 12, SHAPE, item, {}, False)
    path = tmp_path / "k" / name
    os.truncate(path, path.stat().st_size - 1)
    check(build_cache(tmp_path, "k", 12, SHAPE, item, {}, False), 12)


def test_a_cache_of_another_shape_or_count_is_rebuilt(tmp_path: Path) -> None:
    build_cache(tmp_path, "k", 12, SHAPE, item, {}, False)
    meta = tmp_path / "k" / "meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"count": 11}))
    check(build_cache(tmp_path, "k", 12, SHAPE, item, {}, False), 12)


FULL = """
import resource
from smalti.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 48 + 5, resource.RLIM_INFINITY))
try:
    build_cache(directory, "k", count, (4, 4, 3), item, {}, False)
except OutputError as error:
    print("OutputError:", error)
"""


def test_a_full_disk_is_an_error_that_leaves_no_final_file_and_is_recovered_from(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    out, err = start_child(tmp_path, 40, 0, FULL).communicate(timeout=30)
    assert out.startswith("OutputError: cannot write the image cache"), err
    assert "SMALTI_CACHE_DIR" in out
    assert not (tmp_path / "k").exists()
    check(build_cache(tmp_path, "k", 40, SHAPE, item, {}, False), 40)


def test_a_directory_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        build_cache(tmp_path / "file" / "cache", "k", 3, SHAPE, item, {}, False)


def test_two_builders_build_once(tmp_path: Path) -> None:
    made: list[int] = []

    def slow(index: int) -> tuple[np.ndarray, int] | None:
        made.append(index)
        time.sleep(0.005)
        return item(index)

    caches: list[Cache] = []

    def build() -> None:
        caches.append(build_cache(tmp_path, "k", 20, SHAPE, slow, {}, False))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(20))
    for cache in caches:
        check(cache, 20)


def test_items_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="item 0 is uint8"):
        build_cache(tmp_path, "k", 3, SHAPE, lambda index: (np.zeros((2, 2, 3), np.uint8), 0), {}, False)
    with pytest.raises(UsageError, match="none of the 3 items"):
        build_cache(tmp_path, "n", 3, SHAPE, lambda index: None, {}, False)


def test_progress_off_a_terminal_is_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_cache(tmp_path, "k", 12, SHAPE, item, {}, True, title="numbers train")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, last = captured.err.splitlines()
    assert first == "numbers train: building 12 images"
    assert last.startswith("numbers train: 12 images in")
    assert last.endswith("images/s")


def test_default_directory_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMALTI_CACHE_DIR", str(tmp_path))
    assert default_directory() == tmp_path / "datasets"
    monkeypatch.delenv("SMALTI_CACHE_DIR")
    assert default_directory().name == "datasets"
    assert cache_key("a", {"x": 1, "y": 2}) == cache_key("a", {"y": 2, "x": 1}) != cache_key("a", {"x": 1, "y": 3})
