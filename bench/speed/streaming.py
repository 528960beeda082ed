"""What watching a picture come into being costs: ``python bench/speed/streaming.py [BUNDLE] [--repeats 20]``.

For each resolution, in turn and with other seeds each time: the median seconds of a plain run, of a stream with a
preview of every step, of its first preview, and how much longer the stream takes than the plain run.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import smalti


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    gen = smalti.load(options.bundle)
    print(f"{gen.manifest.name}, {gen.report.precision}, {gen.report.threads} threads")
    print("| pixels | plain, s | stream with previews, s | more | first preview, s |")
    print("| --- | --- | --- | --- | --- |")
    for resolution in (one.pixels for one in gen.manifest.all_resolutions):
        plain: list[float] = []
        streamed: list[float] = []
        first: list[float] = []
        for run in range(options.repeats + 1):
            whole = watched(gen, 2 * run, resolution)
            started = time.perf_counter()
            gen.generate(seed=2 * run + 1, resolution=resolution)
            if run:  # the first of each is not counted
                plain.append(time.perf_counter() - started)
                first.append(whole[0])
                streamed.append(whole[1])
        more = median(s / p for s, p in zip(streamed, plain)) - 1
        cells = (f"{median(plain):.3f}", f"{median(streamed):.3f}", f"{more:.0%}", f"{median(first):.3f}")
        print(f"| {resolution} | {' | '.join(cells)} |")


def watched(gen: smalti.Generator, seed: int, resolution: int) -> tuple[float, float]:
    """Seconds until the first preview and until the last step's picture, of a stream that previews every step."""
    started, first = time.perf_counter(), 0.0
    step = None
    for step in gen.stream(seed=seed, resolution=resolution):
        step.preview()
        first = first or time.perf_counter() - started
    assert step is not None
    step.images()
    return first, time.perf_counter() - started


if __name__ == "__main__":
    main()
