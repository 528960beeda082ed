"""Launches of the small kernels with random arrays, and what NumPy says that they write."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.impl.abi import ALIGNMENT, FLAG_GUIDED, FLAG_TRUNCATED
from smalti_kernels.impl.forms import MIX, MIXTURE, MOVE, NOTE, WIDEN, Form, posterior_for
from smalti_kernels.spec import mixtures
from smalti_kernels.spec.guidance import guided
from smalti_kernels.spec.tables import packed_tables

Arrays = dict[str, NDArray[Any]]
GARBAGE = 0x5A5A5A5A
"""What memory holds that the kernel has to write."""
NAN = np.float32(np.nan)
SORTS = 14
"""Sorts of rows that `odd_logits` makes."""


class Case(NamedTuple):
    """One launch."""

    form: Form
    grid: int
    arrays: Arrays
    """Every array as it is before the launch, by the argument's name."""
    numbers: dict[str, int | float]
    """All other arguments."""
    expected: Arrays
    """Those that are written, as they are afterwards."""

    def differing(self, found: Arrays) -> dict[str, int]:
        """The number of elements, by array, that are not as expected; one NaN is as good as another."""
        counts: dict[str, int] = {}
        for name, array in self.expected.items():
            assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
            wrong = found[name].view(f"u{array.itemsize}") != array.view(f"u{array.itemsize}")
            counts[name] = int((wrong & ~(np.isnan(found[name]) & np.isnan(array))).sum())
        return {name: count for name, count in counts.items() if count}


def stride_for(vocabulary: int, more: int = 0) -> int:
    """A stride of rows of logits."""
    return (-(-vocabulary // ALIGNMENT) + more) * ALIGNMENT


def unwritten(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of garbage."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize // 4
    return np.full(count, GARBAGE, np.int32).view(dtype).reshape(shape)


def filled(logits: NDArray[Any], stride: int, value: Any) -> NDArray[np.float32]:
    """Rows of logits with `value` up to the stride."""
    wide = np.full((len(logits), stride), value, np.float32)
    wide[:, : logits.shape[1]] = logits
    return wide


def odd_logits(rng: np.random.Generator, rows: int, vocabulary: int) -> NDArray[np.float32]:
    """Rows of all sorts in random order: the usual ones, with -inf, with ties, at the limits, and no distributions."""
    logits = rng.standard_normal((rows, vocabulary), np.float32) * rng.choice([0.01, 1, 3, 40], (rows, 1))
    logits = logits.astype(np.float32)
    where = int(rng.integers(vocabulary))
    sorts = rng.permutation(SORTS)
    for row in range(rows):
        at = rng.integers(vocabulary, size=max(1, vocabulary // 8))
        match sorts[row % SORTS]:
            case 1:
                logits[row, at] = -np.inf
            case 2:
                logits[row] = 0
            case 3:
                logits[row, at] = np.nan
            case 4:
                logits[row, where] = np.inf
            case 5:
                logits[row] = -np.inf
            case 6:
                logits[row, where] = 20000
            case 7:
                logits[row] = -20000
            case 8:
                logits[row, where] = 16384
            case 9:
                logits[row] += np.float32(16000)
            case 10:
                logits[row, at] = -3e38
            case 11:
                logits[row] = -np.inf
                logits[row, where] = rng.standard_normal()
            case 12:
                logits[row] = -np.inf
                logits[row, where] = np.nan
            case 13:
                logits[row, where] = 3e38
            case _:
                pass
    return logits


def moved(rng: np.random.Generator, count: int, filler: int = 99) -> Case:
    """Elements of a short array at places of another; some are filled in, and some are put nowhere."""
    source = rng.integers(-(2**31), 2**31, 70).astype(np.int32)
    target = unwritten((count + 9,), np.int32)
    take = rng.integers(-1, len(source), count).astype(np.int32)
    put = rng.permutation(len(target))[:count].astype(np.int32)
    put[rng.random(count) < 0.2] = -1
    expected = target.copy()
    for origin, place in zip(take.tolist(), put.tolist()):
        if place >= 0:
            expected[place] = source[origin] if origin >= 0 else filler
    arrays = {"source": source, "target": target, "take": take, "put": put}
    grid = -(-count // MOVE.constants["BLOCK"])
    return Case(MOVE, grid, arrays, {"count": count, "filler": filler}, {"target": expected})


def widened(rng: np.random.Generator, rows: int, vocabulary: int, more: int = 0) -> Case:
    stride = stride_for(vocabulary, more)
    logits = odd_logits(rng, rows, vocabulary)
    arrays = {"logits": logits, "wide": unwritten((rows, stride), np.float32)}
    numbers = {"stride": stride, "vocabulary": vocabulary}
    return Case(WIDEN, rows, arrays, numbers, {"wide": filled(logits, stride, -np.inf)})


def noted(errors: NDArray[np.int32], before: tuple[int, int, int], call: int) -> Case:
    found = np.flatnonzero(errors)
    after = before if before[0] or not found.size else (call, int(found[0]), int(errors[found[0]]))
    arrays = {"errors": errors, "noted": np.array(before, np.int32)}
    return Case(NOTE, 1, arrays, {"rows": len(errors), "call": call}, {"noted": np.array(after, np.int32)})


def mixed(rng: np.random.Generator, rows: int, vocabulary: int, *, fresh: bool, more: int = 0, most: int = 4) -> Case:
    """Rows of a canvas with up to `most` windows each, some without any; padding of rows is NaN."""
    stride = stride_for(vocabulary, more)
    count = rng.integers(0, most + 1, rows)
    count[0] = most
    begin = np.concatenate([[0], np.cumsum(count)]).astype(np.int32)
    logits = odd_logits(rng, max(SORTS, rows * 2), vocabulary)
    entry = rng.integers(0, len(logits), int(begin[-1])).astype(np.int32)
    importance = rng.choice([1, 7, mixtures.IMPORTANCE_ONE], len(entry)).astype(np.int64)
    total = rng.integers(0, 2**60, (rows, vocabulary)).astype(np.int64)
    broken = rng.integers(0, 2, rows).astype(np.int32)
    shares = mixtures.shares(logits)
    sums = np.zeros_like(total, np.uint64) if fresh else total.view(np.uint64).copy()
    bad = np.zeros_like(broken) if fresh else broken.copy()
    for row in range(rows):
        for at in range(begin[row], begin[row + 1]):
            share = shares[entry[at]]
            if share[0] == mixtures.NEVER:
                bad[row] = 1
            else:
                sums[row] += share * np.uint64(importance[at])
    arrays = {
        "logits": filled(logits, stride, NAN),
        "begin": begin,
        "entry": entry,
        "importance": importance,
        "tables": packed_tables(),
        "total": total,
        "broken": broken,
    }
    numbers = {"stride": stride, "vocabulary": vocabulary, "fresh": int(fresh)}
    return Case(MIX, rows, arrays, numbers, {"total": sums.view(np.int64), "broken": bad})


def mixture_of(rng: np.random.Generator, rows: int, vocabulary: int, more: int = 0) -> Case:
    """Sums of all sizes; one row has none at all, one has a single one, and every fourth is broken."""
    stride = stride_for(vocabulary, more)
    sums = rng.integers(0, 2**62 // vocabulary, (rows, vocabulary), np.uint64) >> rng.integers(0, 62, (rows, 1), "u8")
    sums[rng.random(sums.shape) < 0.2] = 0
    sums[:2] = 0
    sums[1, -1] = 8191 << 51
    sums[2 % rows, 0] = 1
    broken = (np.arange(rows) % 4 == 3).astype(np.int32)
    arrays = {
        "total": sums.view(np.int64),
        "broken": broken,
        "tables": packed_tables(),
        "logits": unwritten((rows, stride), np.float32),
    }
    expected = filled(mixtures.mixture(sums, broken.astype(np.bool_)), stride, -np.inf)
    return Case(MIXTURE, rows, arrays, {"stride": stride, "vocabulary": vocabulary}, {"logits": expected})


class Options(NamedTuple):
    """How a posterior is computed."""

    temperature: float = 1.0
    guidance: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    signal: int = 1 << 30
    noise: int = 1 << 40
    favour: int = 3 << 16

    @property
    def flags(self) -> int:
        truncated = self.top_k or self.top_p < 1
        return (FLAG_TRUNCATED if truncated else 0) | (FLAG_GUIDED if self.guidance is not None else 0)


WHOLE = 1 << 2 * mixtures.SHARE_BITS
OPTIONS = {
    "plain": Options(),
    "hot": Options(temperature=3.7, favour=-70000),
    "cold": Options(temperature=0.05, favour=0),
    "guided": Options(guidance=2.5, temperature=0.8),
    "guided backwards": Options(guidance=-1.0),
    "top-k": Options(top_k=5),
    "one": Options(top_k=1, noise=0),
    "top-p": Options(top_p=0.8, temperature=1.3),
    "least top-p": Options(top_p=1e-9),
    "all": Options(0.7, 3.0, 40, 0.9, 1 << 29, 1 << 52, 9 << 16),
    "signal alone": Options(signal=1 << 31, noise=0),
    "noise alone": Options(signal=0, noise=WHOLE),
    "nothing": Options(signal=0, noise=0),
    "both whole": Options(signal=1 << 31, noise=WHOLE, favour=(1 << 25) + 1),
    "least noise": Options(signal=1, noise=1),
}


def posterior_of(rng: np.random.Generator, rows: int, vocabulary: int, options: Options, more: int = 0) -> Case:
    """A posterior of rows of all sorts, in scattered cells of three grids; padding of rows is NaN."""
    stride = stride_for(vocabulary, more)
    logits = odd_logits(rng, rows, vocabulary)
    uncond = odd_logits(rng, rows, vocabulary)
    tokens = rng.integers(0, vocabulary, (3, 8)).astype(np.int32)
    tokens.flat[:2] = 0, vocabulary - 1
    place = rng.integers(0, tokens.size, rows)
    place[-1] = tokens.size - 1
    sample, position = (place // 8).astype(np.int32), (place % 8).astype(np.int32)
    found = logits if options.guidance is None else guided(logits, uncond, options.guidance)
    with np.errstate(all="ignore"):
        clean = mixtures.shares(found, options.temperature, options.top_k, options.top_p)
    expected = mixtures.posterior(clean, tokens[sample, position], options.signal, options.noise, options.favour)
    form = posterior_for(vocabulary, options.flags)
    arrays = {
        "logits": filled(logits, stride, NAN),
        "tokens": tokens,
        "sample": sample,
        "position": position,
        "tables": packed_tables(),
        "out": unwritten((rows, stride), np.float32),
    }
    if options.guidance is not None:
        arrays["uncond"] = filled(uncond, stride, NAN)
    numbers = {
        "guidance": 1.0 if options.guidance is None else options.guidance,
        "scale": float(np.float32(65536) / np.float32(options.temperature)),
        "signal": options.signal,
        "noise": options.noise,
        "favour": options.favour,
        "top_k": options.top_k,
        "top_p": max(1, round(options.top_p * 65536)),
        "stride": stride,
        "vocabulary": vocabulary,
        "length": 8,
        "flags": options.flags,
    }
    return Case(form, rows, arrays, numbers, {"out": filled(expected, stride, -np.inf)})
