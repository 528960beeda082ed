"""Tables of the positions that a network is asked for. They are cut into parts, which bounds the answers' memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smalti.errors import UsageError
from smalti.families.absorbing.sampler import Logits

Int32 = NDArray[np.int32]
Integers = NDArray[np.intp]
Bools = NDArray[np.bool_]

ROWS = 2**12
"""Most positions asked for at once. It bounds the memory of their logits: 128 MiB with 8192 codes."""


def movable_places(tokens: Int32, labels: Int32, free: Bools | None) -> Bools:
    """Return ``free``, or all positions where it is None (bool [N, L]). Raises UsageError when shapes do not fit."""
    if tokens.ndim != 2 or labels.shape[:1] != tokens.shape[:1]:
        raise UsageError(
            f"tokens must be int32 [N, L] with one label each; got {list(tokens.shape)} and labels {list(labels.shape)}"
        )
    if free is None:
        return np.ones(tokens.shape, np.bool_)
    if free.shape != tokens.shape or free.dtype != np.bool_:
        raise UsageError(
            f"free must be bool {list(tokens.shape)}, a value for each token; got {free.dtype} {list(free.shape)}"
        )
    return free


def portions(owner: Integers) -> Iterator[slice]:
    """Cut rows into parts of up to ROWS rows, padding included. ``owner`` [R], ascending, is the sample of each row.

    A part holds whole samples. When a sample has more than ROWS rows, each sample is cut by itself.
    """
    begins = np.flatnonzero(np.diff(owner, prepend=-1))
    ends = np.append(begins[1:], len(owner))
    most = int((ends - begins).max(initial=1))
    cuts: list[int] = begins[:: max(1, ROWS // most)].tolist()
    if most > ROWS:
        cuts = [cut for begin, end in zip(begins, ends) for cut in range(begin, end, ROWS)]
    return (slice(*span) for span in zip(cuts, [*cuts[1:], len(owner)]))


def side_by_side(owner: Integers, position: Integers) -> tuple[Integers, Integers, Integers, Int32]:
    """Arrange positions [R] of the samples ``owner`` [R], ascending, as a table with one line per sample.

    Return the samples [n], the line [R] and the column [R] of each position, and the table int32 [n, most]. The table
    is filled up with 0 where a sample has fewer positions than the others.
    """
    who, first, size = np.unique(owner, return_index=True, return_counts=True)
    line, column = np.repeat(np.arange(len(who)), size), np.arange(len(owner)) - np.repeat(first, size)
    rows = np.zeros((len(who), int(size.max())), np.int32)
    rows[line, column] = position
    return who, line, column, rows


def of_rows(answer: Logits, line: Integers, column: Integers) -> Logits:
    """Return the logits [R, K] at lines and columns [R] of ``answer`` [n, most, K]; all of them are not copied."""
    if len(line) == answer.shape[0] * answer.shape[1]:
        return answer.reshape(len(line), -1)
    return answer[line, column]
