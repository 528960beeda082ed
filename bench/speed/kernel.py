"""The draw on a CPU, timed: NumPy against torch. bench/gpu/run.py times it on a GPU.

    python bench/speed/kernel.py                      1024 rows x 8192 tokens
    python bench/speed/kernel.py --rows 256 --threads 1 --rounds 5

Everything that is compared runs in one process, in turns (a, b, c, a, b, c, ...), on random logits (sd 3, temperature
0.9); times are medians. torch draws with softmax, multinomial and where, as samplers are usually written. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from smalti_kernels import sample

TEMPERATURE = 0.9


def timed(routes: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each route; they take turns, so that whatever else the machine does hits all alike."""
    for route in routes.values():
        route()
    seconds: dict[str, list[float]] = {name: [] for name in routes}
    for _ in range(rounds):
        for name, route in routes.items():
            start = time.perf_counter()
            route()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(title: str, seconds: dict[str, float], base: str) -> None:
    unit, factor = ("ms", 1e3) if max(seconds.values()) > 1e-3 else ("us", 1e6)
    print(f"\n### {title}\n\n| route | median {unit} | times as fast as {base} |\n|---|---:|---:|")
    for name, value in seconds.items():
        print(f"| {name} | {value * factor:.2f} | {seconds[base] / value:.2f} |")


def arguments(rows: int, vocabulary: int) -> dict[str, Any]:
    """A draw of every position of as many grids of 256 tokens as the rows fill."""
    count = -(-rows // 256)
    return {
        "tokens": np.zeros((count, 256), np.int32),
        "sample": np.arange(rows) // 256,
        "position": np.arange(rows) % 256,
        "seeds": np.arange(count),
        "step": 3,
        "width": 16,
        "temperature": TEMPERATURE,
    }


def on_cpu(rows: int, vocabulary: int, threads: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, vocabulary), dtype=np.float32) * np.float32(3)
    half = logits.astype(np.float16)
    place = arguments(rows, vocabulary)

    def naive() -> object:
        """Gumbel-max as one would write it, on whole arrays, in float32."""
        noise = -np.log(-np.log(rng.random(logits.shape, dtype=np.float32) + np.float32(1e-30)))
        return (logits / np.float32(TEMPERATURE) + noise).argmax(axis=1)

    routes: dict[str, Callable[[], object]] = {
        "smalti float32": lambda: sample(logits, **place, threads=threads),
        "smalti float16": lambda: sample(half, **place, threads=threads),
        "smalti float32, top-p and log-probability": lambda: sample(
            logits, **place, threads=threads, top_p=0.9, logprob=True
        ),
        "NumPy, naive (one thread)": naive,
    }
    base = "NumPy, naive (one thread)"
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        print("torch is not installed: compared with NumPy only")
    else:
        torch.set_num_threads(threads)
        tensors = {"float32": torch.from_numpy(logits), "float16": torch.from_numpy(half)}
        grid = torch.zeros(rows, dtype=torch.int64)
        chosen = torch.rand(rows) < 0.5

        def draw(given: Any) -> object:
            probabilities = torch.softmax(given.float() / TEMPERATURE, dim=-1)
            return torch.where(chosen, torch.multinomial(probabilities, 1)[:, 0], grid)

        for name, tensor in tensors.items():
            routes[f"torch {name}"] = lambda tensor=tensor: draw(tensor)
        base = "torch float32"
    seconds = timed(routes, rounds)
    table(f"CPU, {rows} x {vocabulary}, threads: {threads}", seconds, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1, help="threads of every CPU route (default 1)")
    parser.add_argument("--rounds", type=int, default=9, help="times each route is timed (default 9)")
    options = parser.parse_args()
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}", end="")
    try:
        print(f", torch {importlib.import_module('torch').__version__}")
    except ImportError:
        print()
    on_cpu(options.rows, options.vocabulary, options.threads, options.rounds)


if __name__ == "__main__":
    main()
