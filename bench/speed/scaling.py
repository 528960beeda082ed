"""Cost against steps, batch, canvas, codebook and threads, beside what the model's own arithmetic predicts.

    python bench/speed/scaling.py                                  all axes of the embedded bundle
    python bench/speed/scaling.py --axis canvas --largest 4096 --threads 2
    python bench/speed/scaling.py --axis steps --axis batch --repeats 9 --json scaling.json --plot scaling.svg

Points of an axis take turns. Each time is the mean of the fastest fifth of the repeats, stage by stage. The prediction
starts from the first point: each stage grows as its work does, which is counted from the calls that the draw really
makes (bench/speed/recording.py). A point runs as often as ``--longest`` seconds allow, and at least once; a canvas of
4096 takes minutes, and fewer ``--steps`` make it cheaper, since the prediction counts calls. WORSE marks a time that
grew by more than 15 % beyond the prediction, for one doubling. Along ``threads`` the prediction is what a large product
gains from the threads on this machine, measured just before; along ``codebook`` only what sees the codebook is timed:
the product that gives the logits, and the draw, on random data.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ceilings
import numpy as np
from fits import Point, predicted, table, to_dict
from onnx import TensorProto, helper, numpy_helper
from profiling import fastest
from recording import Arithmetic, Recorder

import smalti
from smalti.backends.onnxruntime_options import CPU, onnxruntime, runtime_version
from smalti.bundle.reader import Bundle
from smalti.errors import SmaltiError
from smalti_kernels import sample

AXES = ("steps", "batch", "canvas", "codebook", "threads")
STEPS, BATCHES, THREADS = (3, 6, 12, 24, 48), (1, 2, 4, 8, 16), (1, 2)
CODEBOOKS = (256, 512, 1024, 2048, 4096, 8192, 16384)
PRODUCT, TURNS = 1024, 5
"""Side of the matrices of the product that threads are compared with, and how often each number has its turn."""
ROWS, WIDTH = 256, 512
"""Positions, and width of what the product of the codebook's axis reads."""

Seconds = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One point that is to be timed."""

    value: float
    run: Callable[[], Seconds]
    """Seconds of each stage of one run, and their ``total``."""
    work: Callable[[], dict[str, float]]
    """Work of each stage, once it ran."""


def timed(cases: Sequence[Case], repeats: int, longest: float, say: Callable[[str], None] = print) -> list[Point]:
    """Run all cases in turns. A case that cannot run is told and left out, and with it those after it."""
    there: list[tuple[Case, list[Seconds]]] = []
    for case in cases:
        try:
            first = case.run()
            if first["total"] > longest:
                say(f"{case.value:g} takes {first['total']:.1f} s, so it runs once, cold")
            there.append((case, [first if first["total"] > longest else case.run()]))
        except SmaltiError as error:
            say(f"{case.value:g} and what follows did not run: {error}")
            break
    for _ in range(repeats - 1):
        for case, runs in there:
            if (len(runs) + 1) * runs[0]["total"] <= longest:
                runs.append(case.run())
    return [
        Point(case.value, {name: fastest([run[name] for run in runs]) for name in runs[0]}, case.work(), len(runs))
        for case, runs in there
    ]


class Draws:
    """Cases that draw pictures of a bundle."""

    def __init__(self, bundle: Bundle, precision: str) -> None:
        self.bundle, self.precision, self.arithmetic = bundle, precision, Arithmetic(bundle)
        self.loaded: dict[int, tuple[Recorder, smalti.Generator]] = {}

    def generator(self, threads: int) -> tuple[Recorder, smalti.Generator]:
        """Return a generator on so many threads, and what notes its calls."""
        if threads not in self.loaded:
            backend = Recorder(threads)
            self.loaded[threads] = backend, smalti.load(self.bundle, precision=self.precision, backend=backend)
        return self.loaded[threads]

    def case(self, value: float, threads: int, count: int = 1, gain: float = 1.0, **options: Any) -> Case:
        """One point; ``gain`` is how many times as fast as on one thread it is to be."""
        seen: dict[str, float] = {}
        seeds = iter(range(0, 2**40, 2**20))

        def run() -> Seconds:
            recorder, generator = self.generator(threads)
            recorder.calls.clear()
            result = generator.generate(count, next(seeds), **options)
            if not seen:
                width, height = result.images[0].size
                seen.update(self.arithmetic.work(recorder.calls, count * width * height))
            stages = {name: getattr(result.timings, name) for name in ("network", "draw", "decoder", "host")}
            return stages | {"total": result.timings.total}

        def work() -> dict[str, float]:
            return {name: amount if name == "host" else amount / gain for name, amount in seen.items()}

        return Case(value, run, work)


def draws(axis: str, bundle: Bundle, options: argparse.Namespace) -> list[Case]:
    """The cases of an axis along which whole pictures are drawn."""
    made, threads, steps = Draws(bundle, options.precision), options.threads, options.steps
    side = bundle.manifest.resolution().pixels
    match axis:
        case "steps":
            return [made.case(value, threads, steps=value) for value in STEPS]
        case "batch":
            return [made.case(value, threads, value, steps=steps) for value in BATCHES]
        case "canvas":
            sides = [side * 2**power for power in range(16) if side * 2**power <= options.largest]
            return [made.case(value, threads, steps=steps, size=(value, value)) for value in sides]
        case _:
            gains = product_gains()
            return [made.case(value, value, gain=gains[value], steps=steps) for value in THREADS]


def product_gains() -> dict[int, float]:
    """How many times as fast as on one thread a large product is, by the number of threads, which take turns."""
    rates = dict.fromkeys(THREADS, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(TURNS):
            for threads in THREADS:
                rate = ceilings.product_rate("int8", PRODUCT, threads, Path(folder))
                rates[threads] = max(rates[threads], rate)
    gains = {threads: rate / rates[1] for threads, rate in rates.items()}
    told = ", ".join(f"{threads}: {gain:.2f}" for threads, gain in gains.items())
    print(f"a large int8 product, times as fast as on one thread: {told}\n")
    return gains


def codebook_case(codes: int, threads: int) -> Case:
    """The last product of a prior and the draw, for a codebook of ``codes``, on random data."""
    rng, ort = np.random.default_rng(codes), onnxruntime()
    weights = numpy_helper.from_array(rng.standard_normal((WIDTH, codes), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "head",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [ROWS, codes])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.add_session_config_entry("session.force_spinning_stop", "1")  # as in smalti: the draw has the cores then
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=[CPU])
    feed = {"x": rng.standard_normal((ROWS, WIDTH), np.float32) * np.float32(3 / WIDTH**0.5)}
    place: dict[str, Any] = {"sample": np.zeros(ROWS, np.int64), "position": np.arange(ROWS), "width": 16}

    def run() -> Seconds:
        started = time.perf_counter()
        logits = session.run(None, feed)[0]
        answered = time.perf_counter()
        tokens = np.zeros((1, ROWS), np.int32)
        sample(logits, tokens, **place, seeds=np.arange(1), step=0, temperature=1.0, threads=threads)
        ended = time.perf_counter()
        return {"product": answered - started, "draw": ended - answered, "total": ended - started}

    return Case(codes, run, lambda: {"product": 2.0 * ROWS * WIDTH * codes, "draw": float(ROWS * codes)})


def plot(found: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw measured and predicted seconds of each axis on logarithmic scales. Needs matplotlib (extra ``bench``)."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit('plots need matplotlib: pip install -e ".[bench]"') from None
    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "scaling", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3.4 * len(found), 3.2), squeeze=False)
    for axis, (name, points) in zip(axes[0], found.items()):
        values = [point.value for point in points]
        for stage in (*points[0].work, "total"):
            axis.plot(values, [point.seconds[stage] for point in points], "o-", ms=3, label=stage)
        axis.plot(values, predicted(points), "k--", lw=1, label="total, predicted")
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axis.set_xticks(values, [f"{value:g}" for value in values], fontsize=6)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="by default the embedded one")
    parser.add_argument("--axis", action="append", choices=AXES, help="by default all")
    parser.add_argument("--threads", type=int, default=2, help="of all axes but threads (default 2)")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, help="of all axes but steps (default: the bundle's)")
    parser.add_argument("--largest", type=int, default=1024, help="side of the largest canvas in pixels (default 1024)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--longest", type=float, default=20, help="seconds for all runs of a point")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    found: dict[str, list[Point]] = {}
    try:
        bundle = smalti.open_bundle(options.bundle)
        print(f"{bundle.manifest.name}, {runtime_version()}, {platform.machine()}, {options.threads} threads")
        for axis in options.axis or AXES:
            print(f"\n### {axis}\n", flush=True)
            if axis == "codebook":
                cases = [codebook_case(codes, options.threads) for codes in CODEBOOKS]
            else:
                cases = draws(axis, bundle, options)
            if points := timed(cases, options.repeats, options.longest):
                found[axis] = points
                print(table(axis, points), flush=True)
    except SmaltiError as error:
        sys.exit(f"scaling: {error}")
    if options.json:
        rows = {axis: to_dict(points) for axis, points in found.items()}
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()
