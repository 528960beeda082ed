"""CUDA graphs are trusted once they were seen to give what runs without them give."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

from smalti.backends.device.arena import Device
from smalti.backends.device.tensors import DeviceSession, Tensor
from smalti.errors import ProviderUnavailable, UsageError

COMPARED = 2
"""Runs of each graph that are compared: the one that is captured, and one that replays it on other inputs. A graph that
has kept its first inputs is right once, and never again."""
Key: TypeAlias = tuple[tuple[str, Tensor], ...]
"""Shapes and addresses: a graph is captured for each."""


class ComparedGraphs:
    """A session that captures its runs; the first ones are also run without capture, and compared."""

    def __init__(self, device: Device, captured: DeviceSession, plain: DeviceSession, name: str) -> None:
        """``name`` is the component's, for messages."""
        self.inputs, self.outputs = captured.inputs, captured.outputs
        self._device, self._captured, self._plain, self._name = device, captured, plain, name
        self._runs: Counter[Key] = Counter()
        self._thread: int | None = None

    def queue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Queue the graph, as :class:`DeviceSession` has it.

        A replay may wait for the stream. Raises ProviderUnavailable when a run that is compared differs from the one
        without capture, UsageError in another thread than the first: a capture records what any thread queues.
        """
        self._thread = self._thread or threading.get_ident()
        if self._thread != threading.get_ident():
            raise UsageError(
                "CUDA graphs serve one thread, the first that draws: load the bundle without graphs to share it"
            )
        shapes: Key = (*sorted(inputs.items()), *sorted(outputs.items()))
        if self._runs[shapes] >= COMPARED:
            self._captured.queue(inputs, outputs)
            return
        self._plain.queue(inputs, outputs)
        expected = self._answers(outputs)
        self._captured.queue(inputs, outputs)
        if self._answers(outputs) != expected:
            raise ProviderUnavailable(
                f"a CUDA graph of the {self._name} gives other results than a run without one (run "
                f"{self._runs[shapes] + 1} of one graph); load the bundle without graphs"
            )
        self._runs[shapes] += 1

    def _answers(self, outputs: Mapping[str, Tensor]) -> list[bytes]:
        arrays = [self._device.download(tensor) for tensor in outputs.values()]
        self._device.wait()
        return [array.tobytes() for array in arrays]
