"""Random draws to compare, and how many results of two draws differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.checks import Draw, Request, as_request

WIDTH, LENGTH = 8, 64
FORBIDDEN_SHARE = 0.02
"""How many logits are -inf."""


def bits_of(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper half of float32: bfloat16, rounded towards zero."""
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


class Cases:
    """Draws whose logits (sd 3, some -inf) are cut out of one pool, since making as many anew takes longer."""

    def __init__(self, size: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        values = self._rng.standard_normal(size, np.float32) * np.float32(3)
        cut = values.copy()
        cut[self._rng.random(size, np.float32) < FORBIDDEN_SHARE] = -np.inf
        self._pools = {
            "fp32": (cut, values),
            "fp16": (cut.astype(np.float16), values.astype(np.float16)),
            "bf16": (bits_of(cut), bits_of(values)),
        }

    def logits(self, kind: str, rows: int, vocabulary: int, *, all_finite: bool = False) -> NDArray[Any]:
        """Rows [rows, vocabulary] from random places of the pool; the first token of each is never forbidden."""
        cut, finite = self._pools[kind]
        pool = finite if all_finite else cut
        starts = self._rng.integers(0, pool.size - vocabulary + 1, rows)
        logits = np.lib.stride_tricks.sliding_window_view(pool, vocabulary)[starts]
        logits[:, 0] = finite[starts]
        return logits

    def request(
        self,
        kind: str,
        rows: int,
        vocabulary: int,
        *,
        guided: bool = False,
        top_k: int = 0,
        top_p: float = 1.0,
        logprob: bool = False,
    ) -> Request:
        """A draw at `rows` of the positions of a few grids, in scrambled order; temperatures differ."""
        rng = self._rng
        count = -(-rows // LENGTH) + 1
        place = rng.permutation(count * LENGTH)[:rows]
        logits = self.logits(kind, rows, vocabulary)
        uncond = self.logits(kind, rows, vocabulary, all_finite=True) if guided else None
        # NumPy has no bfloat16: the request is checked with a stand-in, and given the bits.
        checked = np.broadcast_to(np.float32(0), logits.shape)
        request = as_request(
            checked,
            rng.integers(0, vocabulary, (count, LENGTH)).astype(np.int32),
            sample=place // LENGTH,
            position=place % LENGTH,
            seeds=rng.integers(0, 2**63, count),
            step=rng.integers(0, 2**32, rows),
            width=WIDTH,
            temperature=rng.choice([0.05, 0.7, 1.0, 2.0], count),
            uncond=checked if guided else None,
            guidance=2.5 if guided else 1.0,
            top_k=top_k,
            top_p=top_p,
            logprob=logprob,
            threads=None,
        )
        return request._replace(logits=logits, uncond=uncond, kind=kind)


def differing(drawn: Draw, expected: Draw) -> int:
    """How many tokens, flags and log-probabilities differ."""
    count = int((drawn.tokens != expected.tokens).sum()) + int((drawn.changed != expected.changed).sum())
    if expected.logprob is None or drawn.logprob is None:
        return count + int((expected.logprob is None) != (drawn.logprob is None))
    return count + int((drawn.logprob != expected.logprob).sum())
