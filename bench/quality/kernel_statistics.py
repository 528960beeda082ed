"""What the sampling kernel promises, counted: agreement of Triton and NumPy, chi-square, truncation, half precision.

Run `python bench/quality/kernel_statistics.py` for the full counts (about half an hour of one core), `--scale 0.001`
for a trial, `--part NAME` for one part. Prints a Markdown table for each part and exits with 1 if a promise is
broken.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time

# Triton reads this when it is first imported.
os.environ["TRITON_INTERPRET"] = "1"

import numpy as np

from smalti_kernels import sample
from smalti_kernels.spec.tables import weights
from smalti_kernels.spec.truncation import P_ONE, reach_of_top_k, reach_of_top_p

TEMPERATURES = np.array([0.05, 0.7, 1.0, 2.0])
DTYPES = ("float32", "float16", "bfloat16")
DRAWS = {256: 900_000, 1000: 60_000, 1024: 60_000, 8192: 9_000, 16384: 4_500}
"""Draws compared for each vocabulary: 1.03 million in all, shared evenly by the dtypes and temperatures."""


def dtype_of(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def agreement(scale: float) -> bool:
    """Triton's interpreter against NumPy: tokens, changed flags and log-probabilities of ragged selections of rows."""
    print("| V | dtype | draws | differing tokens | differing log-probabilities | seconds |\n|---|---|---|---|---|---|")
    good = True
    for vocabulary, wanted in DRAWS.items():
        for name in DTYPES:
            rng = np.random.default_rng(vocabulary)
            draws = max(len(TEMPERATURES), round(wanted * scale / len(DTYPES)))
            per_call = min(draws, max(16, (1 << 21) // vocabulary))
            done = tokens_differ = logprobs_differ = 0
            start = time.perf_counter()
            while done < draws:
                # Each grid has its own temperature and its own, ragged, selection of positions.
                length = -(-per_call // 2)
                grids = len(TEMPERATURES)
                chosen = rng.choice(grids * length, per_call, replace=False)
                logits = rng.standard_normal((per_call, vocabulary), dtype=np.float32) * rng.choice([1, 3, 8])
                arguments = {
                    "logits": logits.astype(dtype_of(name)),
                    "tokens": rng.integers(0, vocabulary, (grids, length)).astype(np.int32),
                    "sample": chosen // length,
                    "position": chosen % length,
                    "seeds": rng.integers(0, 2**63, grids),
                    "step": rng.integers(0, 1000, per_call),
                    "width": 1,
                    "temperature": TEMPERATURES,
                    "logprob": bool(rng.random() < 0.25),
                }
                expected, found = (sample(**arguments, impl=impl) for impl in ("numpy", "triton"))
                tokens_differ += int((expected.tokens != found.tokens).sum())
                tokens_differ += int((expected.changed != found.changed).sum())
                if expected.logprob is not None and found.logprob is not None:
                    logprobs_differ += int((expected.logprob != found.logprob).sum())
                done += per_call
            seconds = time.perf_counter() - start
            print(
                f"| {vocabulary} | {name} | {done} | {tokens_differ} | {logprobs_differ} | {seconds:.0f} |", flush=True
            )
            good &= tokens_differ == logprobs_differ == 0
    return good


def chi_square_p(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value of Pearson's chi-square (Wilson and Hilferty's normal approximation); rare cells are pooled."""
    expected = probabilities * counts.sum()
    rare = expected < 20
    observed, expected = (np.append(v[~rare], v[rare].sum()) for v in (counts, expected))
    if expected[-1] == 0:
        observed, expected = observed[:-1], expected[:-1]
    freedom = expected.size - 1
    chi2 = ((observed - expected) ** 2 / expected).sum()
    z = ((chi2 / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


def kolmogorov_smirnov_p(values: np.ndarray) -> float:
    """p-value that `values` are uniform on 0 .. 1 (Stephens' approximation to Kolmogorov's distribution)."""
    count = values.size
    ordered, steps = np.sort(values), np.arange(count + 1) / count
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    x = (math.sqrt(count) + 0.12 + 0.11 / math.sqrt(count)) * distance
    return min(1.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101)))


def chi_square(scale: float) -> bool:
    """40 runs of a million draws at V = 1024, each with logits, seed and step of its own."""
    runs, draws = max(8, round(40 * min(1, scale * 10))), max(20_000, round(1_000_000 * scale))
    vocabulary, per_call = 1024, 1 << 14
    p_values = []
    for run in range(runs):
        logits = np.random.default_rng(run).standard_normal(vocabulary).astype(np.float32) * np.float32(1.5)
        exact = np.exp(logits.astype(np.float64))
        counts = np.zeros(vocabulary, np.int64)
        for call in range(-(-draws // per_call)):
            drawn = sample(
                np.broadcast_to(logits, (per_call, vocabulary)),
                np.zeros((1, per_call), np.int32),
                sample=np.zeros(per_call, int),
                position=np.arange(per_call),
                seeds=[run],
                step=call,
                width=128,
                temperature=1.0,
            ).tokens
            counts += np.bincount(drawn[0], minlength=vocabulary)
        p_values.append(chi_square_p(counts, exact / exact.sum()))
    p = kolmogorov_smirnov_p(np.array(p_values))
    print("| runs | draws each | least p | median p | greatest p | KS p |\n|---|---|---|---|---|---|")
    low, middle, high = np.quantile(p_values, [0, 0.5, 1])
    print(f"| {runs} | {-(-draws // per_call) * per_call} | {low:.4f} | {middle:.3f} | {high:.4f} | {p:.3f} |")
    return p > 0.01


def truncation(scale: float) -> bool:
    """Kept tokens against sorting in float64, with the same fixed-point weights, on a hundred thousand rows."""
    print("| V | rows | rows that differ |\n|---|---|---|")
    good = True
    for vocabulary, wanted in {64: 60_000, 256: 30_000, 1000: 8_000, 8192: 1_600, 16384: 400}.items():
        rng = np.random.default_rng(vocabulary)
        rows = differ = 0
        while rows < max(10, wanted * scale):
            count = min(wanted, max(1, (1 << 18) // vocabulary))
            logits = rng.standard_normal((count, vocabulary)) * rng.choice([0.3, 1, 3, 8], (count, 1))
            scores = np.rint(logits * 65536)
            distance = (scores.max(axis=1)[:, None] - scores).astype(np.uint32)
            top_k = rng.integers(1, vocabulary + 1, count) * (rng.random(count) < 0.7)
            top_p = np.where(rng.random(count) < 0.7, rng.integers(1, P_ONE, count), P_ONE)
            reach = reach_of_top_p(distance, weights(distance), reach_of_top_k(distance, top_k), top_p)
            order = np.sort(distance.astype(np.float64), axis=1)
            for row in range(count):
                near = order[row]
                if top_k[row]:
                    near = near[near <= near[top_k[row] - 1]]
                if top_p[row] < P_ONE:
                    masses = np.cumsum(weights(near.astype(np.uint32)).astype(np.float64))
                    near = near[: 1 + np.searchsorted(masses, np.floor(masses[-1] * top_p[row] / P_ONE))]
                differ += not np.array_equal(distance[row] <= reach[row], distance[row] <= near[-1])
            rows += count
        print(f"| {vocabulary} | {rows} | {differ} |", flush=True)
        good &= differ == 0
    return good


def halves(scale: float) -> bool:
    """Draws that change when logits (sd 3, temperature 0.9) are float16 or bfloat16 instead of float32."""
    print("| V | draws | changed by float16 | changed by bfloat16 |\n|---|---|---|---|")
    good = True
    for vocabulary, wanted in ((1024, 200_000), (8192, 50_000)):
        rng = np.random.default_rng(vocabulary)
        changed, rows = np.zeros(2, int), 0
        while rows < max(2000, wanted * scale):
            count = (1 << 23) // vocabulary
            logits = rng.standard_normal((count, vocabulary), dtype=np.float32) * np.float32(3)
            single, *others = (
                sample(
                    logits.astype(dtype_of(name)),
                    np.zeros((1, count), np.int32),
                    sample=np.zeros(count, int),
                    position=np.arange(count),
                    seeds=[rows],
                    step=0,
                    width=1,
                    temperature=0.9,
                ).tokens
                for name in DTYPES
            )
            changed += [int((other != single).sum()) for other in others]
            rows += count
        print(f"| {vocabulary} | {rows} | {changed[0] / rows:.3%} | {changed[1] / rows:.3%} |", flush=True)
        good &= changed[0] / rows <= 0.003
    return good


PARTS = {"agreement": agreement, "chi-square": chi_square, "truncation": truncation, "halves": halves}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="run this part only; may be given again")
    parser.add_argument("--scale", type=float, default=1.0, help="fraction of the counts (default 1)")
    options = parser.parse_args()
    broken = []
    for name in options.part or PARTS:
        print(f"\n### {name}\n")
        if not PARTS[name](options.scale):
            broken.append(name)
    print(f"\nbroken: {', '.join(broken) or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
