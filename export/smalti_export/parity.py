"""The parity certificate: every variant, run by the runtime, against the torch model in fp32.

Tolerances are data and stand here, in one place. A variant that misses one is not written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smalti import absorbing
from smalti.manifest import Precision, Role
from smalti_kernels import sample

Run = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]
"""One component: named inputs to its only output."""

TOLERANCES: dict[Role, dict[Precision, dict[str, float]]] = {
    "denoiser": {
        "fp32": {"logit_error": 1e-2, "draw_agreement": 0.995},
        "fp16": {"logit_error": 1e-1, "draw_agreement": 0.99},
        "int8": {"draw_agreement": 0.95},
    },
    "decoder": {
        "fp32": {"psnr": 50.0},
        "fp16": {"psnr": 48.0},
        "int8": {"psnr": 38.0},
    },
    "encoder": {
        "fp32": {"token_agreement": 0.995},
        "fp16": {"token_agreement": 0.99},
        "int8": {"token_agreement": 0.97},
    },
}
"""Bounds of the gated figures: upper for ``*_error``, lower for the others. Errors of logits are in their spread."""


def missed(figures: dict[str, float], tolerances: dict[str, float]) -> list[str]:
    """List the figures out of tolerance, as text; a figure that is not a number always is."""
    lines: list[str] = []
    for name, bound in tolerances.items():
        value = figures[name]
        good = value <= bound if name.endswith("_error") else value >= bound
        if not good:
            lines.append(
                f"{name} is {value:.4g}, allowed is {'at most' if name.endswith('_error') else 'at least'} {bound:g}"
            )
    return lines


def torch_run(graph: torch.nn.Module) -> Run:
    """Run a wrapped torch model as if it were a graph; inputs in the order given."""

    @torch.no_grad()
    def run(inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        return graph(*(torch.from_numpy(np.array(value)) for value in inputs.values())).numpy()

    return run


def compare_denoisers(
    reference: Run,
    variant: Run,
    feeds: list[dict[str, NDArray[Any]]],
    *,
    grid: tuple[int, int],
    codes: int,
    classes: int,
    steps: int,
    temperature: float,
    grids: int = 16,
) -> dict[str, float]:
    """Measure a denoiser on real, partly masked grids and on whole runs.

    ``logit_error``: greatest difference over the standard deviation of the reference's logits; ``draw_agreement``: of
    one draw per masked position, at equal noise; ``grid_agreement``: of the tokens of ``grids`` whole runs, where one
    different draw changes all that follow.
    """
    error, spread, same, drawn = 0.0, 0.0, 0, 0
    for index, feed in enumerate(feeds):
        expected, found = reference(feed), variant(feed)
        error = max(error, float(np.abs(expected - found).max()))
        spread = max(spread, float(expected.std()))
        which, positions = np.nonzero(feed["tokens"] == codes)
        draws = [
            sample(
                logits[which, positions],
                feed["tokens"],
                sample=which,
                position=positions,
                seeds=np.arange(len(feed["tokens"])) + 1000 * index,
                step=0,
                width=grid[1],
                temperature=temperature,
            )[which, positions]
            for logits in (expected, found)
        ]
        same += int((draws[0] == draws[1]).sum())
        drawn += len(which)
    runs = [_whole_runs(run, grid, codes, classes, steps, temperature, grids) for run in (reference, variant)]
    return {
        "logit_error": error / spread,
        "draw_agreement": same / drawn,
        "draws": float(drawn),
        "grid_agreement": float((runs[0] == runs[1]).mean()),
        "grids": float(grids),
    }


def _whole_runs(
    run: Run, grid: tuple[int, int], codes: int, classes: int, steps: int, temperature: float, count: int
) -> NDArray[np.int32]:
    labels = (np.arange(count) % max(1, classes)).astype(np.int32)
    *_, tokens = absorbing.run(
        lambda tokens, labels, rows: run({"tokens": tokens, "labels": labels, "rows": rows}),
        np.full((count, grid[0] * grid[1]), codes, np.int32),
        absorbing.random_schedule(range(count), grid, steps),
        seeds=range(count),
        labels=labels,
        width=grid[1],
        temperature=temperature,
    )
    return tokens


def compare_decoders(reference: Run, variant: Run, feeds: list[dict[str, NDArray[Any]]]) -> dict[str, float]:
    """Measure a decoder: PSNR in dB between its pixels and the reference's, and the greatest difference (of 255)."""
    squares, greatest = 0.0, 0
    for feed in feeds:
        difference = np.abs(reference(feed).astype(np.int16) - variant(feed))
        squares += float(np.square(difference.astype(np.float64)).mean()) / len(feeds)
        greatest = max(greatest, int(difference.max()))
    return {"psnr": float(10 * np.log10(255.0**2 / max(squares, 1e-6))), "greatest_difference": float(greatest)}


def compare_encoders(reference: Run, variant: Run, feeds: list[dict[str, NDArray[Any]]]) -> dict[str, float]:
    """Measure an encoder: the fraction of tokens that are the reference's."""
    return {"token_agreement": float(np.mean([(reference(feed) == variant(feed)).mean() for feed in feeds]))}
