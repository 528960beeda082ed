"""The example batch.py: several processes draw what one draws, and a job that was ended goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import smalti


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


def children(parent: int) -> list[int]:
    """Processes that draw: those that were spawned, without the one that watches what is shared."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            own, line = status.read_text("utf-8").rpartition(")")[2].split(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(own[1]) == parent and b"spawn_main" in line:
            found.append(int(status.parent.name))
    return found


def wait_for(true: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def same_as_generate(folder: Path, gen: smalti.Generator, count: int) -> None:
    """Check that all pictures are there, those that one process draws, with their recipes."""
    assert len(files(folder)) == count
    for path in files(folder):
        (seed,) = smalti.read_recipe(path).seeds
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(gen.generate(seed=seed).images[0]))
    assert not [path for path in folder.iterdir() if path.suffix != ".png"]


@pytest.fixture
def arguments(tiny_bundle: Path, tmp_path: Path) -> tuple[object, ...]:
    return (tmp_path / "out", "--bundle", tiny_bundle, "--seed", 3)


def test_two_processes_draw_what_one_draws_and_a_second_run_draws_nothing(example, arguments, gen):
    code, out, err = example("batch.py", *arguments, "--count", 21)
    assert (code, out) == (0, "21 drawn, 0 were there\n"), err
    assert "21 of 21" in err
    same_as_generate(arguments[0], gen, 21)
    times = {path: path.stat().st_mtime_ns for path in files(arguments[0])}
    assert example("batch.py", *arguments, "--count", 24)[:2] == (0, "3 drawn, 21 were there\n")
    same_as_generate(arguments[0], gen, 24)
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_wrong_label_ends_it_with_what_is_allowed(example, arguments, gen):
    code, _, err = example("batch.py", *arguments, "--label", "nobody")
    assert code == 1
    assert gen.labels[0] in err
    assert "Traceback" not in err


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its processes in /proc")


@needs_proc
@pytest.mark.parametrize("whom", ["a worker", "the first process", "Ctrl+C"])
def test_a_job_that_was_ended_leaves_no_process_and_goes_on(whom, start, example, arguments, gen):
    process = start("batch.py", *arguments, "--count", 4000)
    wait_for(lambda: len(children(process.pid)) == 2 and len(files(arguments[0])) > 4)
    workers = children(process.pid)
    if whom == "Ctrl+C":  # which a terminal sends to all of them
        for one in (process.pid, *workers):
            os.kill(one, signal.SIGINT)
    else:
        os.kill(workers[0] if whom == "a worker" else process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == {"a worker": 1, "the first process": -signal.SIGKILL, "Ctrl+C": 130}[whom]
    assert "Traceback" not in err
    assert ("run this again" in err) == (whom != "the first process")
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    there = len(files(arguments[0]))
    assert 4 < there < 4000
    count = 3 + there  # a few more than there are, wherever they lie
    code, out, err = example("batch.py", *arguments, "--count", count)
    assert code == 0, err
    drawn = int(out.split()[0])
    assert drawn + int(out.split()[2]) == count
    assert 3 <= drawn < count
    seeds = {smalti.read_recipe(path).seeds[0] for path in files(arguments[0])}
    assert seeds >= set(range(3, 3 + count))
