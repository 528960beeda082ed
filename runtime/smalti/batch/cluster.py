"""Workers that are actors of Ray, on this machine or on the nodes of a cluster.

Actors and not Ray Data: a shard is written where it is made, and what comes back is a receipt. Ray Data's executor
would add seconds to the start, and choose by itself what is done again; here it is the same loop as for processes.
"""

from __future__ import annotations

import contextlib
import logging
import re
import signal
import threading
from dataclasses import dataclass
from typing import Any, Final

from smalti.backends.registry import ON_NVIDIA
from smalti.batch.libraries import ray
from smalti.batch.loading import Loading
from smalti.batch.shards import Receipt, Task
from smalti.batch.workers import Lost, Ready, Told, Trouble
from smalti.errors import ProviderUnavailable, UsageError

LOCAL, AUTO = "local", "auto"
ADDRESS: Final = re.compile(r"(\[[0-9a-fA-F:]+\]|[\w.-]+):\d{1,5}")
STORE: Final = 80 * 2**20
"""Bytes of Ray's object store where it is started here; only receipts go through it."""


def check_address(address: str) -> None:
    """Raise UsageError for what is no address of a cluster."""
    if address not in (LOCAL, AUTO) and not ADDRESS.fullmatch(address):
        raise UsageError(f"address {address!r}: local, auto, or HOST:PORT of a cluster's first node is needed")


@dataclass(frozen=True)
class Needs:
    """What Ray keeps free for a worker."""

    num_cpus: int = 1
    num_gpus: int = 0


class Cluster:
    """Workers on Ray. As a context it ends them, and its connection; a cluster that was there stays."""

    def __init__(self, address: str, loading: Loading, actors: int | None, cores: int) -> None:
        """Connect, or start Ray here for ``local``, with ``actors`` of ``loading.threads`` cores each.

        Raises MissingExtra without Ray, UsageError for another address, ProviderUnavailable where nothing answers.
        """
        check_address(address)
        self._ray = ray()
        threads = loading.threads or 1
        own: dict[str, Any] = {"address": AUTO if address == AUTO else address}
        if address == LOCAL:
            # Ray starts an idle worker for each CPU: no more than are asked for.
            own |= {"num_cpus": (actors or max(cores // threads, 1)) * threads, "include_dashboard": False}
            own |= {"object_store_memory": STORE, "_node_ip_address": "127.0.0.1"}
        with _kept_signals():
            try:
                self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ProviderUnavailable(
                    f"address {address}: no cluster of Ray takes us there ({' '.join(str(error).split())[:300]}); "
                    "start one with 'ray start --head', and show its token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
                ) from None
        self.needs = _needs(loading, self._ray.cluster_resources())
        self.actors = actors or self._room()
        self._workers: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._started = 0

    def __enter__(self) -> Cluster:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all workers, and the connection."""
        for actor in self._workers.values():
            with contextlib.suppress(Exception):  # of Ray's; a lost actor cannot be killed
                self._ray.kill(actor)
        self._workers.clear()
        self._ray.shutdown()

    def start(self, task: Task) -> int:
        """Ask for an actor, which begins once a node has room for it."""
        # The loop above begins lost actors anew, so that each is counted.
        options = {"num_cpus": self.needs.num_cpus, "num_gpus": self.needs.num_gpus, "max_restarts": 0}
        actor: Any = self._ray.remote(Actor).options(**options).remote(task)
        self._started += 1
        self._workers[self._started] = actor
        self._asked[actor.opened.remote()] = self._started
        return self._started

    def give(self, worker: int, shard: int) -> None:
        """Send a shard's number."""
        self._asked[self._workers[worker].do.remote(shard)] = worker

    def wait(self, seconds: float) -> list[tuple[int, Told]]:
        """Return what actors answered, and which are gone."""
        ready, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        done = [(self._asked.pop(answer), answer) for answer in ready]
        return [(worker, self._answer(worker, answer)) for worker, answer in done]

    def _answer(self, worker: int, answer: Any) -> Told:
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayActorError as error:
            with contextlib.suppress(Exception):
                self._ray.kill(self._workers[worker])  # one that only cannot be reached would go on
            self._workers.pop(worker)
            return Lost(" ".join(str(error).split())[:300])
        except self._ray.exceptions.RayError as error:
            return Trouble.of(error)

    def _room(self) -> int:
        there = self._ray.cluster_resources()
        if self.needs.num_gpus:
            return max(1, int(there.get("GPU", 0)))
        return max(1, int(there.get("CPU", 1)) // self.needs.num_cpus)


class Actor:
    """A worker. Ray makes an actor of it, in a process of its own."""

    def __init__(self, task: Task) -> None:
        """Take a task."""
        self._task = task

    def opened(self) -> Ready | Trouble:
        """Open what the task needs."""
        try:
            self._do = self._task.opened()
            return Ready()
        except Exception as error:
            return Trouble.of(error)

    def do(self, shard: int) -> Receipt | Trouble:
        """Do a shard."""
        try:
            return self._do(shard)
        except Exception as error:
            return Trouble.of(error)


def _needs(loading: Loading, there: dict[str, float]) -> Needs:
    """Return a GPU for each worker where the provider takes one; provider auto takes GPUs where the cluster has any."""
    threads = loading.threads or 1
    if loading.backend is None and (
        loading.provider in ON_NVIDIA or (loading.provider == "auto" and there.get("GPU", 0) >= 1)
    ):
        return Needs(threads, 1)
    return Needs(threads, 0)


@contextlib.contextmanager
def _kept_signals() -> Any:
    """Keep our own answer to SIGTERM, which Ray replaces when it is started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
