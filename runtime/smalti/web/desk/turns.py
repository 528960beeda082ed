"""A fair queue: clients take turns, and the orders of one client are served as they came."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Orders of clients who take turns. It is not safe for threads by itself."""

    def __init__(self) -> None:
        """Begin empty."""
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: Item) -> None:
        """Add an order of a client."""
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> Item | None:
        """Take the next order; its client then stands last. None where nobody waits."""
        if not self._waiting:
            return None
        client, items = next(iter(self._waiting.items()))
        found = items.popleft()
        self._settle(client)
        return found

    def take_like(self, fits: Callable[[Item], bool]) -> Item | None:
        """Take the next order that ``fits``, whoever's it is, of each client only the first; None where there is none.

        Its client keeps its turn for what else it asked.
        """
        for client, items in self._waiting.items():
            if fits(items[0]):
                found = items.popleft()
                if not items:
                    del self._waiting[client]
                return found
        return None

    def remove(self, item: Item) -> bool:
        """Take an order back; return whether it was still waiting."""
        for client, items in self._waiting.items():
            if item in items:
                items.remove(item)
                if not items:
                    del self._waiting[client]
                return True
        return False

    def _settle(self, client: str) -> None:
        if self._waiting[client]:
            self._waiting.move_to_end(client)
        else:
            del self._waiting[client]
