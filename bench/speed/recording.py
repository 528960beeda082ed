"""Which calls a draw makes of its graphs, and the operations that those calls ask for by the model's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import onnx
from counting import count, operations
from numpy.typing import NDArray

from smalti.backends.base import Arrays, Session
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.manifest import PRIOR_ROLES, Precision, Role
from smalti.bundle.reader import Bundle


@dataclass(frozen=True)
class Call:
    """One call of a component."""

    role: Role
    shapes: Mapping[str, tuple[int, ...]]
    """Of its inputs."""


class Recorder(OnnxRuntimeCpu):
    """ONNX Runtime's CPU provider, which notes what it is asked."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.calls: list[Call] = []

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        return Recorded(super().open(bundle, role, precision), role, self.calls)


class Recorded:
    """A session whose calls are noted."""

    def __init__(self, session: Session, role: Role, calls: list[Call]) -> None:
        self._session, self._role, self._calls = session, role, calls
        self.inputs, self.outputs = session.inputs, session.outputs

    def __call__(self, inputs: Arrays) -> list[NDArray[Any]]:
        self._calls.append(Call(self._role, {name: value.shape for name, value in inputs.items()}))
        return self._session(inputs)


class Arithmetic:
    """Counts what calls of a bundle's graphs ask for, from their fp32 graphs."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._one = lru_cache(maxsize=None)(self._counted)

    def operations(self, call: Call) -> int:
        """Return the operations of one call.

        Every graph does the same for each of its ``n`` samples, and the same for each of its ``r`` positions besides,
        so a denoiser is counted at two sizes only.
        """
        declared = self.bundle.manifest.components[call.role].inputs
        sizes = {
            side: length
            for one in declared
            if one.name in call.shapes
            for side, length in zip(one.shape, call.shapes[one.name])
            if isinstance(side, str)
        }
        samples = sizes.pop("n", 1)
        if "r" not in sizes:
            return samples * self._one(call.role, tuple(sorted(sizes.items())))
        rows = sizes.pop("r")
        one, two = (self._one(call.role, (*sorted(sizes.items()), ("r", r))) for r in (1, 2))
        return samples * (one + (rows - 1) * (two - one))

    def _counted(self, role: Role, sizes: tuple[tuple[str, int], ...]) -> int:
        model = onnx.load_from_string(self.bundle.read(self.bundle.variant(role, "fp32").graph.file))
        return operations(count(model, {"n": 1, **dict(sizes)}))

    def work(self, calls: Sequence[Call], pixels: int) -> dict[str, float]:
        """Return what each stage of a draw is to do.

        Network and decoder: operations. Draw: logits that the network answered with, those of windows that overlap too,
        since they are mixed before one is drawn. Host: pixels of the pictures.
        """
        manifest = self.bundle.manifest
        prior = PRIOR_ROLES[manifest.family]
        asked = [call for call in calls if call.role == prior]
        logits = sum(_positions(call) for call in asked) * manifest.latent.codes
        return {
            "network": float(sum(map(self.operations, asked))),
            "draw": float(logits),
            "decoder": float(sum(self.operations(call) for call in calls if call.role != prior)),
            "host": float(pixels),
        }


def _positions(call: Call) -> int:
    shape = call.shapes.get("rows", call.shapes.get("tokens", (0,)))
    found = 1
    for side in shape:
        found *= side
    return found
