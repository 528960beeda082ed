"""Batches over processes: whatever is killed, and whenever, what is resumed ends as if nothing had happened."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from helpers.batches import ONE, children, ended, files, kill, small_disk, wait_for
from smalti.batch import job
from smalti.batch.asking import Asked, plan_draw
from smalti.batch.progress import Follow

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds its processes in /proc")
SLOW = 0.08
"""Seconds of each call of a graph: a file takes about a third of a second."""


def test_two_processes_write_what_one_writes(alone: Path, planned, loading, tmp_path: Path) -> None:
    report = job.run(planned(tmp_path / "batch"), loading, job.Running(actors=2))
    assert files(tmp_path / "batch") == files(alone)
    assert (report.rows, report.made, report.there, report.files, report.actors) == (60, 60, 0, 9, 2)


def test_a_second_run_does_nothing_and_a_lost_file_is_made_again(planned, loading, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch")
    first = job.run(folder, loading, ONE)
    before = files(folder)
    assert (job.run(folder, loading, ONE).made, files(folder)) == (0, before)
    (folder / "part-000003.parquet").unlink()
    (folder / "part-000004.parquet").write_bytes(before["part-000004.parquet"][:500])
    said: list[str] = []
    again = job.run(folder, loading, ONE, tell=said.append)
    assert (again.made, again.there, again.digest, files(folder)) == (14, 46, first.digest, before)
    assert [line.split()[0] for line in said] == ["part-000004.parquet"]


@needs_proc
def test_a_killed_worker_is_replaced(alone: Path, planned, driver, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch")
    process = driver(folder, SLOW)
    wait_for(lambda: len(files(folder)) >= 2)
    kill(children(process.pid, b"spawn_main")[0])
    code, said = ended(process)
    assert code == 0, said
    assert files(folder) == files(alone)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_driver_that_was_ended_is_resumed(number, code, alone: Path, planned, driver, loading, tmp_path) -> None:
    folder = planned(tmp_path / "batch")
    process = driver(folder, SLOW)
    wait_for(lambda: len(files(folder)) >= 2)
    workers = children(process.pid, b"spawn_main")
    assert len(workers) == 2
    process.send_signal(number)
    found, said = ended(process)
    assert found in (code, -number), said
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 20)
    state = json.loads((folder / "progress.json").read_text("utf-8"))["state"]
    assert state == ("running" if number == signal.SIGKILL else "stopped")
    there = files(folder)
    assert 2 <= len(there) < 9
    assert there.items() <= files(alone).items()  # whole ones only
    report = job.run(folder, loading, job.Running(actors=2))
    assert (report.there, report.rows) == (7 * len(there), 60)
    assert files(folder) == files(alone)
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_full_disk_ends_it_and_room_lets_it_go_on(alone: Path, planned, driver, loading, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**16) as mounted:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        folder = planned(tmp_path / "disk/batch")
        if not mounted:  # files of more than 4 kB cannot be written instead
            resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, before[1]))
        try:
            process = driver(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        code, said = ended(process)
        assert code == 1
        assert "OutputError: cannot write" in said
        assert "Traceback" not in said
        assert files(folder).items() < files(alone).items()
        if mounted:
            subprocess.run(["mount", "-o", "remount,size=16m", str(tmp_path / "disk")], check=True)
        job.run(folder, loading, ONE)
        assert files(folder) == files(alone)


def test_a_worker_that_is_always_lost_ends_it(planned, driver, tmp_path: Path) -> None:
    folder = planned(tmp_path / "batch")
    process = driver(folder, 30, actors=1)
    for _ in range(3):
        wait_for(lambda: children(process.pid, b"spawn_main"))
        kill(pid := children(process.pid, b"spawn_main")[0])
        wait_for(lambda pid=pid: pid not in children(process.pid, b"spawn_main"))
    code, said = ended(process)
    assert code == 1
    assert "3 times" in said
    assert "--resume" in said


def test_an_error_of_a_worker_keeps_its_class(planned, fake: Path, loading, tmp_path: Path) -> None:
    from dataclasses import replace

    import smalti
    from helpers.fake_bundle import write_fake_bundle

    other = write_fake_bundle(tmp_path / "other")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text("utf-8").replace('"fake"', '"other"'), "utf-8")
    with pytest.raises(smalti.BundleError, match="another bundle"):
        job.run(planned(tmp_path / "batch"), replace(loading, bundle=str(other)), ONE)
    assert json.loads((tmp_path / "batch/progress.json").read_text("utf-8"))["state"] == "failed"


def test_progress_tells_pictures_per_second_and_the_time_left(tmp_path: Path) -> None:
    import io

    said = io.StringIO()
    follow = Follow(tmp_path, 100, there=20, stream=said)
    follow.add(30, 2)
    follow.tell()
    told = json.loads((tmp_path / "progress.json").read_text("utf-8"))
    assert (told["state"], told["rows"], told["done"], told["there"], told["failed"]) == ("running", 100, 50, 20, 2)
    assert told["per_second"] == pytest.approx(30 / told["seconds"])
    assert told["seconds_left"] == pytest.approx(50 / told["per_second"])
    assert said.getvalue().startswith("50 of 100 pictures, 2 failed, ")
    assert said.getvalue().endswith(" left\n")


def test_pictures_are_those_of_real_graphs_too(tiny_bundle: Path, run, tmp_path: Path) -> None:
    import smalti
    from smalti.batch.formats.parquet import Parquet

    folder = tmp_path / "batch"
    line = ("batch", "generate", "--count", 9, "--rows-per-file", 4, "--actors", 1, "--label", "planets", "-o", folder)
    code, out, err = run(*line, "--provider", "cpu", "--bundle", tiny_bundle, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["rows"], report["files"], report["bundle"]) == (9, 3, "tiny")
    expected = smalti.load(tiny_bundle, "cpu", threads=1).generate(9, label="planets")
    rows = [row for path in sorted(folder.glob("part-*")) for row in Parquet().rows(path)]
    assert all((row["tokens"] == tokens).all() for row, tokens in zip(rows, expected.tokens))
    code, out, err = run("batch", "verify", folder, "--actors", 1, "--json")
    assert (code, json.loads(out)["equal"], json.loads(out)["problems"]) == (0, 8, []), err
    assert plan_draw(Asked(folder, resume=True)).plan.labels == ("planets",)
