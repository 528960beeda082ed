"""The most memory that large pictures take: ``python bench/speed/memory.py [BUNDLE] [--side 4096]``.

Each task runs in a process of its own, for each of the bundle's resolutions. Printed is the most memory that the
process ever held, in GB of 10^9 bytes, with the interpreter, the bundle and the picture itself. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable

import numpy as np

import smalti

SEED = 0


def decoded(gen: smalti.Generator, side: int, resolution: int) -> None:
    cells = side // gen.manifest.resolution(resolution).factor
    tokens = np.random.default_rng(SEED).integers(0, gen.manifest.latent.codes, (cells, cells))
    gen.decode(tokens, resolution=resolution)


def encoded(gen: smalti.Generator, side: int, resolution: int) -> None:
    gen.encode([picture(side)], resolution=resolution)


def inpainted(gen: smalti.Generator, side: int, resolution: int) -> None:
    mask = np.zeros((side, side), bool)
    mask[side // 2 : side // 2 + 256, side // 2 : side // 2 + 256] = True
    gen.inpaint(picture(side), mask, seed=SEED, resolution=resolution)


def generated(gen: smalti.Generator, side: int, resolution: int) -> None:
    gen.generate(seed=SEED, resolution=resolution)


Task = Callable[[smalti.Generator, int, int], None]
TASKS: dict[str, Task] = {
    "generate one picture of its own size": generated,
    "decode": decoded,
    "encode": encoded,
    "inpaint": inpainted,
}


def picture(side: int) -> np.ndarray:
    """Random blocks, uint8 [side, side, 3]."""
    blocks = np.random.default_rng(SEED).integers(0, 256, (side // 64, side // 64, 3), np.uint8)
    return blocks.repeat(64, 0).repeat(64, 1)


def run(
    task: str, bundle: str | None, side: int, resolution: int, found: multiprocessing.SimpleQueue[tuple[float, float]]
) -> None:
    gen = smalti.load(bundle)
    started = time.perf_counter()
    TASKS[task](gen, side, resolution)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    found.put((most, time.perf_counter() - started))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?")
    parser.add_argument("--side", type=int, default=4096, help="pixels, a multiple of 64")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    sizes = [one.pixels for one in smalti.load(options.bundle).manifest.all_resolutions]
    print(f"| {options.side}x{options.side} pixels: GB (seconds) | {' | '.join(f'at {size}' for size in sizes)} |")
    print("| --- " * (len(sizes) + 1) + "|")
    for task in TASKS:
        cells: list[str] = []
        for size in sizes:
            found = spawn.SimpleQueue()
            process = spawn.Process(target=run, args=(task, options.bundle, options.side, size, found))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{task} at {size} failed")
            most, seconds = found.get()
            cells.append(f"{most:.2f} ({seconds:.1f})")
        print(f"| {task} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
