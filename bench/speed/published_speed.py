"""Published recipes at full size with random weights: ONNX Runtime beside plain torch, in one process, interleaved.

    python bench/speed/published_speed.py all --work FOLDER
    python bench/speed/published_speed.py sundae-ffhq1024 --work FOLDER --threads 2 --repeats 3
    python bench/speed/published_speed.py decoder --work FOLDER

A recipe draws and decodes whole pictures (``vqddm-celebahq256`` a few of its steps: look at the last column, which is
the prior's part of one step). ``decoder`` is the f16 decoder of Bond-Taylor et al. 2021 on one picture of 1024 pixels.
Bundles are exported once to ``--work``, through their certificate: int8 is timed only where the export lets it pass.
Greatest memory is of a new process for each engine, which runs one step and the decoder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch_way.models import torch_way
from torch_way.most_memory import most_memory, tokens_of
from torch_way.published_bundles import PRECISIONS, build, int8_certificate, shipped, torch_models
from torch_way.published_plans import plan_of
from torch_way.rounds import in_turn, machine, rows_of, table, told
from torch_way.samplers import picture

import smalti
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.reader import open_bundle
from smalti.drawing.result import Timings

STEPS = {"unleashing-ffhq256": 50, "sundae-ffhq1024": 12, "vqddm-celebahq256": 5}
"""Of the runs that are timed."""
DECODER, DECODER_OF, SIDE = "decoder", "unleashing-ffhq256", 1024
BASE = "smalti int8"
MODES = ("fp32", "bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=[*STEPS, DECODER, "all"])
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the exported graphs")
    parser.add_argument("--threads", type=int, default=2, help="of each (default 2)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the recipe's")
    parser.add_argument("--side", type=int, default=SIDE, help="pixels of the decoder's picture (default 1024)")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="of smalti (default: both)")
    parser.add_argument("--mode", action="append", choices=MODES, help="of torch (default: both)")
    parser.add_argument("--build-only", action="store_true", help="export, and time nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave the greatest memory out")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"machine": machine(options.threads), "recipes": {}}
    print(told(found["machine"]))
    for name in [*STEPS, DECODER] if options.recipe == "all" else [options.recipe]:
        folder = build(DECODER_OF if name == DECODER else name, options.work.resolve(), lambda line: print(f"  {line}"))
        if options.build_only:
            continue
        found["recipes"][name] = measured(name, folder, options)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def measured(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Time and print one recipe, or the decoder."""
    have = shipped(open_bundle(folder), ("decoder",) if name == DECODER else ("decoder", "denoiser"))
    precisions = [one for one in options.precision or PRECISIONS[::-1] if one in have]
    modes = options.mode or MODES
    steps = 0 if name == DECODER else options.steps or STEPS[name]
    prepare = decoders if name == DECODER else whole
    ways = prepare(folder, steps or options.side, precisions, modes, options.threads)
    base = next(iter(ways))
    taken = in_turn(ways, options.repeats)
    latent = open_bundle(folder).manifest.latent
    height, width = (options.side,) * 2 if name == DECODER else (side * latent.factor for side in latent.grid)
    rows = rows_of(taken, base, count=1, megapixels=width * height / 1e6)
    del ways  # before the children need the memory
    print(f"\n{name}, random weights, {width}x{height}" + (f", {steps} steps" if steps else "") + "\n")
    print(table(rows, base), flush=True)
    certified = int8_certificate(folder)
    print("\nint8: " + "; ".join(f"{role} {_figures(found)}" for role, found in certified.items()), flush=True)
    task = str(options.side) if name == DECODER else "picture"
    for row in () if options.no_memory else rows:
        row["memory_gb"] = most_memory(folder, row["way"].removeprefix("smalti "), task, options.threads)
    if not options.no_memory:
        print("\nGreatest memory, GB: " + memory_told(rows), flush=True)
    return {
        "width": width,
        "height": height,
        "steps": steps,
        "repeats": options.repeats,
        "rows": rows,
        "int8": certified,
    }


def _figures(found: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.5g}" for key, value in found.items())


def memory_told(rows: list[dict[str, Any]]) -> str:
    """Each way with its memory."""
    each = ((row["way"], row["memory_gb"]) for row in rows)
    return ", ".join(f"{way} {'killed' if most is None else format(most, '.2f')}" for way, most in each)


def whole(
    folder: Path, steps: int, precisions: Sequence[str], modes: Sequence[str], threads: int
) -> Mapping[str, Callable[[int], Timings]]:
    """Ways to draw and decode one picture."""
    ways: dict[str, Callable[[int], Timings]] = {}
    for precision in precisions:
        gen = smalti.load(open_bundle(folder), "cpu", precision, threads)
        own: dict[str, Any] = {"min_steps": steps} if gen.manifest.family == "sundae" else {}  # none is frozen early
        ways[f"smalti {precision}"] = lambda seed, gen=gen, own=own: gen.generate(1, seed, steps=steps, **own).timings
    models = torch_models(folder)
    plan = plan_of(models, steps, 1)
    for mode in modes:
        way = torch_way(models, mode)
        assert way is not None
        ways[way.name] = lambda seed, way=way: picture(way, plan, models.grid, seed)[2]
    return ways


def decoders(
    folder: Path, side: int, precisions: Sequence[str], modes: Sequence[str], threads: int
) -> Mapping[str, Callable[[int], Timings]]:
    """Ways to decode one picture of ``side`` pixels."""
    bundle = open_bundle(folder)
    latent = bundle.manifest.latent
    tokens = tokens_of(latent.codes, side // latent.factor)
    ways: dict[str, Callable[[int], Timings]] = {}
    for precision in precisions:
        session = OnnxRuntimeCpu(threads).open(bundle, "decoder", precision)  # pyright: ignore[reportArgumentType]
        ways[f"smalti {precision}"] = lambda seed, session=session: decoding(lambda: session({"tokens": tokens}))
    models = torch_models(folder, prior=False)
    for mode in modes:
        way = torch_way(models, mode)
        assert way is not None
        ways[way.name] = lambda seed, way=way: decoding(lambda: in_context(way, tokens))
    return ways


def in_context(way: Any, tokens: Any) -> None:
    with way.context():
        way.decode(torch.from_numpy(tokens).long())


def decoding(call: Callable[[], object]) -> Timings:
    """Seconds of one call, as a decoder's."""
    started = time.perf_counter()
    call()
    return Timings(decoder=time.perf_counter() - started)


if __name__ == "__main__":
    main()
