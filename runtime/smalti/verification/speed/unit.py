"""The fixed product that draws are compared with, and the score of a draw: how many such products it takes.

Seconds tell as much of the machine and of what else it does as of a change of smalti. A product of two matrices takes
its share of both, so a draw between two products, in the same process and on as many threads, has a score that hardly
depends on either. It does on the kind of processor: a score compares with others of the same machine.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final

import msgspec
import numpy as np

from smalti.backends.onnxruntime_options import CPU, onnxruntime, session_options

GRAPH: Final = base64.b64decode(
    "CAgSADpeChEKAWEKAWISAWMiBk1hdE11bBIEdW5pdFoVCgFhEhAKDggBEgoKAxIBbgoDEgFuWhUKAWISEAoOCAESCgoDEgFu"
    "CgMSAW5iFQoBYxIQCg4IARIKCgMSAW4KAxIBbkIECgAQEQ=="
)
"""An ONNX model of opset 17: c = MatMul(a, b), all float32 [n, n]. Made with onnx.helper.make_model."""
SIDE: Final = 1024
"""n. The three matrices have 12 MB, about what a small network's weights and activations have."""
SHARE: Final = 0.5
"""Seconds of products between two draws, in those of a draw. Fewer would miss much of what a draw meets meanwhile."""
FEWEST: Final = 2
"""Products between two draws at least."""


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a draw in those of one product: the median of all runs, and two percentiles."""

    median: float
    low: float
    """The 20th percentile."""
    high: float
    """The 80th percentile."""
    runs: Annotated[int, msgspec.Meta(ge=1)]
    """Number of draws."""
    product: float
    """Median seconds of a product, which say how fast the machine was."""

    @property
    def spread(self) -> float:
        """How far such a median may be from that of many more runs: two of its standard errors, if runs are normal.

        Half of what lies between the percentiles is then 0.84 standard deviations of a run.
        """
        return 2 * math.sqrt(math.pi / 2 / self.runs) * (self.high - self.low) / 2 / 0.84


@dataclass(frozen=True)
class Unit:
    """The product, ready to run ``number`` times."""

    run: Callable[[], object]
    number: int = 1

    def __call__(self) -> float:
        """Run the products; return the mean of their seconds."""
        started = time.perf_counter()
        for _ in range(self.number):
            self.run()
        return (time.perf_counter() - started) / self.number


def open_unit(threads: int, draw: float) -> Unit:
    """Return the product on a number of threads, run as often as suits a draw of ``draw`` seconds.

    Raises ProviderUnavailable where ONNX Runtime is not installed.
    """
    ort = onnxruntime()
    session = ort.InferenceSession(GRAPH, session_options(threads), providers=[CPU], enable_fallback=0)
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal((SIDE, SIDE), dtype=np.float32) for name in ("a", "b")}
    one = Unit(lambda: session.run(None, inputs), FEWEST)
    one()  # the first run allocates
    return Unit(one.run, max(FEWEST, round(SHARE * draw / one())))


def score_of(draws: Sequence[float], units: Sequence[float]) -> Score:
    """Return the score of draws: seconds of each, by the mean seconds of the products before and after it.

    ``units`` are one more than ``draws``.
    """
    around = [(before + after) / 2 for before, after in pairwise(units)]
    ratios = np.array(draws) / np.array(around)
    low, median, high = (float(value) for value in np.percentile(ratios, (20, 50, 80)))
    return Score(median=median, low=low, high=high, runs=len(draws), product=float(np.median(units)))
