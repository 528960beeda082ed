"""Batches on a machine with several GPUs: each process sees one of them, as Ray has it for actors."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.batches import wait_for
from helpers.seen_gpus import Seen
from helpers.stub_driver import Stub
from smalti.batch import job
from smalti.batch.loading import Loading
from smalti.batch.processes import Processes
from smalti.batch.shards import Receipt
from smalti.batch.workers import Lost
from smalti.loading import machine
from smalti.verification.doctor import safe_driver
from smalti_kernels.impl.cuda.driver import Device


def seen(folder: Path, gpus: list[str], workers: int) -> list[str]:
    """What each of some workers sees."""
    told: list[str] = []
    with Processes(folder, gpus) as processes:
        for _ in range(workers):
            processes.start(Seen())
        waiting = workers
        while len(told) < workers:
            for worker, said in processes.wait(20):
                if isinstance(said, Receipt):
                    told += said.kinds
                else:
                    processes.give(worker, waiting := waiting + 1)
    return sorted(told)


@pytest.mark.parametrize(
    ("gpus", "workers", "each"),
    [(["0", "1"], 2, ["0", "1"]), (["GPU-a", "3"], 3, ["3", "GPU-a", "GPU-a"]), ([], 2, ["7", "7"])],
)
def test_each_worker_sees_one_gpu(gpus, workers, each, tmp_path, monkeypatch):
    monkeypatch.setenv(machine.VISIBLE, "7")
    assert seen(tmp_path, gpus, workers) == each


def test_the_worker_in_place_of_a_lost_one_sees_its_gpu(tmp_path):
    with Processes(tmp_path, ["0", "1"]) as processes:
        first, _ = processes.start(Seen(dies=True)), processes.start(Seen())
        processes.give(first, 0)
        wait_for(lambda: any(isinstance(said, Lost) for _, said in processes.wait(1)))
        assert processes._on[processes.start(Seen())] == "0"


def test_only_gpus_that_are_alike_share_a_batch(monkeypatch):
    """What runs on the first may not run on another, or may compute otherwise."""

    class Driver:
        device_count = 4

        def device(self, ordinal: int) -> Device:
            return Device(
                ordinal, *(("RTX 4090", 89), ("GTX 1080", 61), ("RTX 4090", 89), ("RTX 4080", 89))[ordinal], 80
            )

    monkeypatch.setattr(machine, "safe_driver", lambda: (Driver(), ""))
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    assert machine.nvidia_gpus() == ["0", "2"]
    monkeypatch.setenv(machine.VISIBLE, "a, b,c,d")
    assert machine.nvidia_gpus() == ["a", "c"]


@pytest.mark.parametrize(
    ("shown", "there", "found"),
    [
        (None, 1, ["0"]),
        ("3, GPU-5", 2, ["3"]),  # the stub's two are not alike
        ("1,nonsense,2", 1, ["1"]),  # CUDA shows those before the first that it does not know
    ],
)
def test_gpus_are_named_as_cuda_names_them(shown, there, found, stub: Stub, monkeypatch):
    stub.machine(devices=there)
    given = stub.driver()
    monkeypatch.setattr(safe_driver, "driver", lambda: given)
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    if shown is not None:
        monkeypatch.setenv(machine.VISIBLE, shown)
    assert machine.nvidia_gpus() == found


def test_there_are_as_many_processes_as_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "nvidia_gpus", lambda: ["0", "1", "2"])
    assert [job._hands(tmp_path, Loading(None, name), job.Running(), 9)[1] for name in ("cuda", "webgpu")] == [3, 1]
    assert job._hands(tmp_path, Loading(None, "cuda"), job.Running(actors=4), 9)[1] == 4
    assert job._hands(tmp_path, Loading(None, "cpu", threads=10**6), job.Running(), 9)[1] == 1
    monkeypatch.setattr(job, "nvidia_gpus", list)  # loading the provider then says why there is none
    assert job._hands(tmp_path, Loading(None, "cuda"), job.Running(), 9)[1] == 1
