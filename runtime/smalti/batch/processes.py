"""Workers that are processes of this machine: spawned, and ended with the first one, however that ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from smalti.batch.formats.format import remove_any
from smalti.batch.shards import Task
from smalti.batch.workers import Lost, Ready, Told, Trouble
from smalti_kernels.platform import VISIBLE


class Processes:
    """Workers in processes. As a context it ends them all."""

    def __init__(self, folder: Path, gpus: Sequence[str] = ()) -> None:
        """Begin without workers; ``folder`` is where they write, and where what they left unfinished is removed.

        Each worker sees one of ``gpus``, which are named as in ``CUDA_VISIBLE_DEVICES``; without any, what there is.
        """
        self._spawn = multiprocessing.get_context("spawn")  # a fork has no threads of an inference library
        self._folder, self._gpus = folder, gpus
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._on: dict[int, str] = {}
        self._started = 0

    def __enter__(self) -> Processes:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers, and remove what they left unfinished."""
        for process, _pipe in self._workers.values():
            process.kill()
        for process, pipe in self._workers.values():
            process.join()
            pipe.close()
            self._remove_partial(process.pid)
        self._workers.clear()

    def start(self, task: Task) -> int:
        """Start a process."""
        here, there = self._spawn.Pipe()
        gpu = self._least_used()
        process = self._spawn.Process(target=_work, args=(there, task, gpu), daemon=True)
        handler = _without_interrupts()  # inherited, so that Ctrl+C ends the first process, and that one the others
        try:
            process.start()
        finally:
            handler()
        there.close()
        self._started += 1
        self._workers[self._started] = process, here
        self._on[self._started] = gpu
        return self._started

    def give(self, worker: int, shard: int) -> None:
        """Send a shard's number. Where the process is gone, :meth:`wait` tells."""
        with contextlib.suppress(OSError):
            self._workers[worker][1].send(shard)

    def wait(self, seconds: float) -> list[tuple[int, Told]]:
        """Return what processes sent, and which are gone."""
        by_pipe = {pipe: worker for worker, (_, pipe) in self._workers.items()}
        found: list[tuple[int, Told]] = []
        ready = cast("list[Connection]", wait(list(by_pipe), seconds))
        for pipe in ready:
            worker = by_pipe[pipe]
            try:
                found.append((worker, pipe.recv()))
            except (EOFError, OSError):
                process, _ = self._workers.pop(worker)
                process.join()
                pipe.close()
                self._remove_partial(process.pid)
                found.append((worker, Lost(f"exit code {process.exitcode}")))
        return found

    def _least_used(self) -> str:
        """Return the GPU that the fewest workers see; empty where they all see what there is."""
        used = [self._on[worker] for worker in self._workers]
        return min(self._gpus, key=used.count, default="")

    def _remove_partial(self, pid: int | None) -> None:
        for path in self._folder.glob(f".part-*.{pid}-*.partial"):
            remove_any(path)


def _work(pipe: Connection, task: Task, gpu: str) -> None:
    """Do shards until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if gpu:  # nothing has loaded the driver yet, which reads it once
        os.environ[VISIBLE] = gpu
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        do = task.opened()
        pipe.send(Ready())
        while True:
            pipe.send(do(pipe.recv()))
    except EOFError:
        return
    except BaseException as error:
        with contextlib.suppress(OSError):
            pipe.send(Trouble.of(error))


def _end_with_parent() -> None:
    """End this process when the first one is gone; else it would go on with its shard."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _without_interrupts() -> Any:
    """Ignore Ctrl+C in processes that are started from now on; return what undoes it."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # in another thread than the main one
        return lambda: None
    return lambda: signal.signal(signal.SIGINT, before)
