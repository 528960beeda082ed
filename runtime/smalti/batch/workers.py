"""Hand out shards to workers, wherever they are; a worker that is lost is replaced, and its shard is done again."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from smalti import errors
from smalti.batch.shards import Receipt, Task
from smalti.errors import SmaltiError

TRIES: Final = 3
"""How often a shard may lose its worker. What ends three of them, such as a lack of memory, would end more."""
TICK: Final = 0.5
"""Seconds after which whoever watches is told, also where nothing happened."""


@dataclass(frozen=True)
class Ready:
    """A worker opened its bundle."""


@dataclass(frozen=True)
class Lost:
    """A worker was killed, or its node."""

    reason: str


@dataclass(frozen=True)
class Trouble:
    """An error that ends the batch, as it comes from another process."""

    kind: str
    """Name of its class."""
    text: str

    @staticmethod
    def of(error: BaseException) -> Trouble:
        """Take what was raised."""
        if isinstance(error, SmaltiError):
            return Trouble(type(error).__name__, str(error))
        return Trouble(SmaltiError.__name__, f"{type(error).__name__}: {error}")

    def error(self) -> SmaltiError:
        """Return an error of the same class, or of SmaltiError where that takes more than a text."""
        kind = getattr(errors, self.kind, SmaltiError)
        try:
            return kind(self.text)
        except TypeError:
            return SmaltiError(self.text)


Told: TypeAlias = Ready | Lost | Trouble | Receipt


class Hands(Protocol):
    """Workers of one kind."""

    def start(self, task: Task) -> int:
        """Start a worker, which will be :class:`Ready`; return its number."""
        ...

    def give(self, worker: int, shard: int) -> None:
        """Let a worker that is free do a shard."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, Told]]:
        """Return what workers told, after at most so many seconds."""
        ...


def run_shards(
    hands: AbstractContextManager[Hands], task: Task, shards: Sequence[int], actors: int
) -> Generator[Receipt | None]:
    """Do shards on ``actors`` workers, each one at a time, and yield receipts as they come; None when nothing did.

    Raises the error of a worker, and SmaltiError where a shard lost its worker :data:`TRIES` times. Then, and when the
    caller stops, all workers are ended.
    """
    waiting, left = deque(shards), len(shards)
    doing: dict[int, int] = {}
    free: list[int] = []  # also while another worker is lost: it may be the only one that there is room for
    begun = set[int]()
    losses = Counter[int | None]()
    with hands as crew:
        for _ in range(min(actors, left)):
            crew.start(task)
        while left:
            events = crew.wait(TICK)
            for worker, told in events:
                shard = doing.pop(worker, None)
                if isinstance(told, Trouble):
                    raise told.error()
                if isinstance(told, Lost):
                    free = [one for one in free if one != worker]
                    if shard is not None:
                        waiting.appendleft(shard)
                    if shard is not None or worker not in begun:
                        losses[shard] += 1
                        _check_losses(losses[shard], shard, told.reason)
                    crew.start(task)
                    continue
                begun.add(worker)
                free.append(worker)
                losses[None] = 0
                if isinstance(told, Receipt):
                    left -= 1
                    yield told
            while waiting and free:
                worker = free.pop()
                doing[worker] = waiting.popleft()
                crew.give(worker, doing[worker])
            if not events:
                yield None


def _check_losses(times: int, shard: int | None, reason: str) -> None:
    """Raise SmaltiError where the same happened too often."""
    if times >= TRIES:
        what = "was lost before it began" if shard is None else f"was lost at shard {shard}"
        raise SmaltiError(
            f"a worker {what}, {TRIES} times ({reason}); is there enough memory? Files that are there are whole: go on "
            "with --resume, and fewer actors"
        )
