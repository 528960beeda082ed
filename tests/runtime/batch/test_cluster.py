"""Batches on a real cluster of two nodes: an actor, a node or the driver killed, and the files of one process."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.batches import ended, files, kill, small_disk, wait_for
from helpers.house import HOUSE
from smalti.batch.asking import Asked, plan_description

SCRIPT = HOUSE / "bench/cluster/two_nodes.py"
SLOW = 0.1
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed"),
    pytest.mark.skipif(
        not Path("/proc/self/stat").exists(), reason="two addresses of loopback, and /proc, are Linux's"
    ),
]


def two_nodes() -> Any:
    spec = importlib.util.spec_from_file_location("two_nodes", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU each, which import what tests import."""
    with two_nodes().TwoNodes(1, PYTHONPATH=str(HOUSE / "tests")) as cluster:
        yield cluster


def actors(cluster: Any, node: int) -> list[int]:
    """Processes of actors on a node."""
    found: list[int] = []
    for pid in two_nodes().processes_of(cluster.nodes[node].pid):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::Actor"):
                found.append(pid)
        except OSError:
            continue
    return found


def test_one_corrupt_picture_among_200_is_named_and_the_files_are_those_of_a_process(
    cluster, driver, embedded, pictures, fake, tmp_path
) -> None:
    folder, report = embedded
    asked = Asked(tmp_path / "batch", bundle=str(fake), fields={"rows_per_file": 30}, source=pictures)
    plan_description(asked, "embed")
    process = driver(asked.folder, 0.0, cluster.address, 2, cluster.environment)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert (json.loads(out)["digest"], json.loads(out)["failed"]) == (report.digest, 1)
    assert files(asked.folder) == files(folder)
    assert (asked.folder / "failed.jsonl").read_bytes() == (folder / "failed.jsonl").read_bytes()


def test_a_killed_actor_is_replaced(cluster, driver, alone, planned, tmp_path) -> None:
    folder = planned(tmp_path / "batch")
    process = driver(folder, SLOW, cluster.address, 2, cluster.environment)
    wait_for(lambda: len(files(folder)) >= 2 and actors(cluster, 0) and actors(cluster, 1))
    kill(actors(cluster, 0)[0])
    code, said = ended(process)
    assert code == 0, said
    assert files(folder) == files(alone)


@pytest.mark.parametrize("whom", ["driver", pytest.param("driver, gently", marks=pytest.mark.slow)])
def test_a_driver_that_was_ended_is_resumed(whom, cluster, driver, alone, planned, tmp_path) -> None:
    folder = planned(tmp_path / "batch")
    process = driver(folder, SLOW, cluster.address, 2, cluster.environment)
    wait_for(lambda: len(files(folder)) >= 2)
    process.kill() if whom == "driver" else process.terminate()
    code, said = ended(process)
    assert code == (-9 if whom == "driver" else 143), said
    there = files(folder)
    assert 2 <= len(there) < 9
    assert there.items() <= files(alone).items()
    wait_for(lambda: not actors(cluster, 0) and not actors(cluster, 1))
    code, said = ended(driver(folder, 0.0, cluster.address, 2, cluster.environment))
    assert code == 0, said
    assert files(folder) == files(alone)


def test_a_full_disk_ends_it_and_room_lets_it_go_on(cluster, driver, alone, planned, tmp_path) -> None:
    with small_disk(tmp_path / "disk", 2**16) as mounted:
        folder = planned(tmp_path / "disk/batch")
        blocked = folder / "part-000004.parquet/x"
        if not mounted:  # a folder that no file can replace
            blocked.parent.mkdir()
            blocked.touch()
        code, said = ended(driver(folder, 0.0, cluster.address, 2, cluster.environment))
        assert code == 1
        assert "OutputError: cannot write" in said
        if mounted:
            assert files(folder).items() < files(alone).items()
            subprocess.run(["mount", "-o", "remount,size=16m", str(tmp_path / "disk")], check=True)
        else:
            blocked.unlink()
            blocked.parent.rmdir()
        code, said = ended(driver(folder, 0.0, cluster.address, 2, cluster.environment))
        assert code == 0, said
        assert files(folder) == files(alone)


def test_nobody_without_the_token_is_let_in(cluster, driver, planned, tmp_path) -> None:
    (tmp_path / "token").write_text("f" * 64, "utf-8")
    more = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_NUM_REDIS_GET_RETRIES": "2"}
    process = driver(planned(tmp_path / "batch"), 0.0, cluster.address, 1, more)
    code, said = ended(process)
    assert code == 1
    assert "ProviderUnavailable: address" in said
    assert not files(tmp_path / "batch")
    assert os.stat(cluster.environment["RAY_AUTH_TOKEN_PATH"]).st_mode & 0o077 == 0


def test_a_lost_node_leaves_its_work_to_the_other(cluster, driver, alone, planned, tmp_path) -> None:
    """The last one, since the node stays lost."""
    folder = planned(tmp_path / "batch")
    process = driver(folder, SLOW, cluster.address, 2, cluster.environment)
    wait_for(lambda: len(files(folder)) >= 2 and actors(cluster, 1))
    cluster.kill(1)
    code, said = ended(process)
    assert code == 0, said
    assert files(folder) == files(alone)
