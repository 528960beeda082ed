"""smalti beside the plain torch sampler and decoder of the same weights, in one process, interleaved.

    python bench/speed/against_torch.py --threads 2
    python bench/speed/against_torch.py --bundle BUNDLE --steps 12 --batch 16 --precision fp32
    python bench/speed/against_torch.py --denoiser-only OLD.onnx NEW.onnx

Plain torch is what one writes from the papers: every position goes through the head at every step, then softmax,
multinomial, and the tokens of that step are put into the grid; eager in fp32, under bf16 autocast, and with the prior
compiled. The first table has the same number of steps everywhere. The second is the originals' way (Bond-Taylor et al.
2021): 50 steps in random order, and one position per step, beside smalti at ``--steps``. Seconds are medians per
picture; the last columns are medians of the ratios of the same round. ``--denoiser-only`` times single calls of two
int8 graphs, for 1 and 2 threads, and what a second thread gains beside a second process.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_way import one_call
from torch_way.models import MODES, Models, TorchWay, bundle_models, torch_way
from torch_way.rounds import in_turn, machine, rows_of, table, told
from torch_way.samplers import absorbing_plan, picture

import smalti
from smalti.drawing.result import Timings
from smalti.errors import SmaltiError, UsageError

ORIGINAL_STEPS = 50
"""Steps of the originals' few-step samples; their whole runs take one step for each position."""
BASE = "smalti"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="path or name; by default the embedded one")
    parser.add_argument("--preset", help="the preset that the bundle was trained by; by default the one it names")
    parser.add_argument("--precision", default="auto", help="of smalti (default: the bundle's best, int8)")
    parser.add_argument(
        "--mode", action="append", choices=MODES, help="of torch; again for more (default: the first 3)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of each (default 2)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--original-repeats", type=int, help="of the second table (default: a third; 0 leaves it out)")
    parser.add_argument("--denoiser-only", nargs=2, type=Path, metavar=("OLD", "NEW"), help="two int8 graphs")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    if min(options.threads, options.steps, options.batch, options.repeats) < 1:
        parser.error("threads, steps, batch and repeats are at least 1")
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"machine": machine(options.threads)}
    print(told(found["machine"]))
    try:
        found |= one_calls(options) if options.denoiser_only else pictures(options)
    except SmaltiError as error:
        sys.exit(str(error))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def pictures(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print both tables; return their rows."""
    gen = smalti.load(options.bundle, "cpu", options.precision, options.threads)
    if gen.manifest.family != "absorbing":
        raise UsageError(f"bundle {gen.manifest.name} is {gen.manifest.family}; this compares absorbing bundles")
    models = bundle_models(gen.bundle, options.preset)
    made = (torch_way(models, mode) for mode in options.mode or MODES[:3])
    torch_ways = [way for way in made if way is not None]
    width, height = gen.generate(1, 0, steps=1).images[0].size
    sizes = {"count": options.batch, "megapixels": width * height / 1e6}

    def ours(seed: int) -> Timings:
        return gen.generate(options.batch, seed * options.batch, steps=options.steps).timings

    smalti_name = f"{BASE} {gen.report.precision['denoiser']}"
    ways = {smalti_name: ours} | {
        way.name: drawing(way, models, options.steps, options.batch, gen.manifest.sampler.temperature)
        for way in torch_ways
    }
    rows = rows_of(in_turn(ways, options.repeats), smalti_name, **sizes)
    print(f"\n{gen.manifest.name}, {width}x{height}, {options.steps} steps, batch {options.batch}\n")
    print(table(rows, BASE), flush=True)
    described = {"bundle": gen.manifest.name, "width": width, "height": height, "batch": options.batch}
    found = {**described, "steps": options.steps, "repeats": options.repeats, "same_steps": rows, "originals": []}
    repeats = max(1, options.repeats // 3) if options.original_repeats is None else options.original_repeats
    if repeats:
        length = models.grid[0] * models.grid[1]
        slow = {f"{smalti_name}, {options.steps} steps": ours}
        for mode in ("fp32", "bf16"):
            way = torch_way(models, mode)
            assert way is not None
            for steps in (ORIGINAL_STEPS, None):
                name = f"{way.name}, {length if steps is None else steps} random-order steps"
                slow[name] = drawing(way, models, steps, options.batch, 1.0)
        originals = in_turn(slow, repeats, warm=False)
        found["originals"] = rows_of(originals, next(iter(slow)), **sizes)
        print(f"\nThe originals' way, {repeats} repeats\n\n{table(found['originals'], BASE)}")
    return found


def drawing(
    way: TorchWay, models: Models, steps: int | None, count: int, temperature: float
) -> Callable[[int], Timings]:
    """A function that draws and decodes by torch; one position per step where ``steps`` is None."""
    length = models.grid[0] * models.grid[1]
    plan = absorbing_plan(steps, count=count, length=length, codes=models.codes, temperature=temperature)
    return lambda seed: picture(way, plan, models.grid, seed)[2]


def one_calls(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print single calls of two int8 denoiser graphs."""
    old, new = options.denoiser_only
    feed = one_call.typical_feed(options.bundle, options.steps, options.batch)
    rows = one_call.compared(options.bundle, old, new, feed, (1, 2), options.repeats)
    print(f"\nOne call, batch {options.batch}, {feed['rows'].shape[1]} rows; options of before, then those of now\n")
    print(one_call.call_table(rows), flush=True)
    gains = {
        name: one_call.scaled(options.bundle, graph, feed, options.repeats)
        for name, graph in zip(("old", "new"), (old, new))
    }
    for name, gain in gains.items():
        print(
            f"{name}: a second thread gives {gain['second thread']:.2f} times, a second process "
            f"{gain['second process']:.2f} times the calls per second: {gain['share']:.0%} of it "
            f"({gain['extra']:.0%} of what is added)"
        )
    return {"rows": int(feed["rows"].shape[1]), "batch": options.batch, "calls": rows, "gains": gains}


if __name__ == "__main__":
    main()
