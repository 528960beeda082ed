"""What a preview costs and looks like beside the decoder: ``python bench/speed/preview.py BUNDLE [--sheet FILE]``.

Prints the median seconds of both for one picture and for eight, called in turn, and their ratio. The sheet has the
decoder's pictures, their previews, and previews of steps at a quarter and at half of the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import smalti
from smalti.drawing.result import Step
from smalti.saving.formats import contact_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", help="one with a preview decoder")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--sheet", type=Path, help="a .png or .webp to write")
    options = parser.parse_args()
    gen = smalti.load(options.bundle, precision=options.precision)
    if "preview" not in gen.report.precision:
        raise SystemExit(f"{options.bundle} has no preview decoder: export it with --preview-from")
    print(f"{gen.manifest.name}, decoder {gen.report.precision['decoder']}, preview {gen.report.precision['preview']}")
    for count in (1, 8):
        *_, last = gen.stream(count, seed=0)
        rough, sharp = in_turn(last.preview, last.images, options.repeats)
        print(f"{count} at once: preview {rough * 1e3:.2f} ms, decoder {sharp * 1e3:.2f} ms, {rough / sharp:.3f} of it")
    if options.sheet is not None:
        labels = [gen.labels[i % len(gen.labels)] for i in range(8)] if gen.labels else None
        steps = list(gen.stream(8, seed=0, label=labels))
        write_sheet(steps, options.sheet)


def in_turn(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds of two calls, after one of each that is not counted."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for call, found in zip((first, second), seconds):
            started = time.perf_counter()
            call()
            if repeat:
                found.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1])


def write_sheet(steps: list[Step], path: Path) -> None:
    """Four rows of eight."""
    last = steps[-1]
    shown = (last.images(), last.preview(), steps[len(steps) // 4].preview(), steps[len(steps) // 2].preview())
    sheet = contact_sheet(np.stack([np.asarray(image) for images in shown for image in images]), 8)
    sheet.thumbnail((1000, 1000))
    sheet.save(path)


if __name__ == "__main__":
    main()
