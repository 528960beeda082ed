"""One call of a denoiser: an older int8 graph beside a newer one, one thread beside two, one process beside two."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import smalti
from smalti.backends.base import Session
from smalti.backends.onnxruntime_cpu import OnnxRuntimeCpu
from smalti.bundle.manifest import FileRecord, Precision, Role
from smalti.bundle.reader import Bundle, open_bundle
from torch_way.rounds import REST, ratio

Feed = dict[str, NDArray[Any]]
CALLS = 10
"""Calls of one measurement; their median is its value."""


def as_bundle(source: str | None, graph: Path) -> Bundle:
    """A bundle whose int8 denoiser is the graph in a file, so that the runtime opens it.

    Weights that lie outside the graph are read from its folder.
    """
    bundle = open_bundle(source)
    outside = {
        entry.value
        for tensor in onnx.load(graph, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    content = {name: (graph.parent / name).read_bytes() for name in (graph.name, *sorted(outside))}
    record, *weights = (
        FileRecord(file=name, sha256=hashlib.sha256(each).hexdigest(), bytes=len(each))
        for name, each in content.items()
    )
    variant = bundle.variant("denoiser", "int8")
    variant = msgspec.structs.replace(variant, graph=record, weights=tuple(one.file for one in weights))
    only = msgspec.structs.replace(bundle.manifest.components["denoiser"], variants=(variant,))
    manifest = msgspec.structs.replace(bundle.manifest, components={"denoiser": only}, weights=tuple(weights))
    return Bundle(bundle.path, manifest, "", content)


def opened(source: str | None, graph: Path, threads: int) -> Session:
    """Open a graph with the options that the runtime has now."""
    return OnnxRuntimeCpu(threads).open(as_bundle(source, graph), "denoiser", "int8")


def opened_as_before(graph: Path, threads: int) -> Session:
    """Open a graph with the options that the runtime had before issue 27: no thread of a pool ever spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = {node.name for node in session.get_inputs()}
    return lambda inputs: session.run(None, {name: inputs[name] for name in inputs if name in names})  # pyright: ignore


class _Watching(OnnxRuntimeCpu):
    """Notes how many positions each call of the denoiser is asked about."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.asked: list[int] = []

    def open(self, bundle: Bundle, role: Role, precision: Precision) -> Session:
        session = super().open(bundle, role, precision)
        return _Noted(session, self.asked) if role == "denoiser" else session


class _Noted:
    def __init__(self, session: Session, asked: list[int]) -> None:
        self.inputs, self.outputs, self._session, self._asked = session.inputs, session.outputs, session, asked

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self._asked.append(inputs["rows"].shape[1])
        return self._session(inputs)


def typical_feed(source: str | None, steps: int, count: int, seed: int = 0) -> Feed:
    """Random tokens with as many rows as the median call of a run asks; half of the tokens are masked."""
    backend = _Watching(1)
    manifest = smalti.load(source, backend=backend).generate(1, seed, steps=steps).bundle.manifest
    latent, generator = manifest.latent, np.random.default_rng(seed)
    length, rows = latent.grid[0] * latent.grid[1], int(statistics.median(backend.asked))
    tokens = generator.integers(latent.codes, size=(count, length))
    tokens[generator.random(tokens.shape) < 0.5] = latent.codes
    which = np.stack([generator.permutation(length)[:rows] for _ in range(count)])
    labels = np.full(count, len(manifest.classes))
    return {name: value.astype(np.int32) for name, value in (("tokens", tokens), ("labels", labels), ("rows", which))}


def seconds_of(session: Callable[[Feed], Any], feed: Feed, calls: int = CALLS) -> float:
    """Median seconds of so many calls, after one that is not counted."""
    taken: list[float] = []
    for _ in range(calls + 1):
        started = time.perf_counter()
        session(feed)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def compared(
    source: str | None, old: Path, new: Path, feed: Feed, threads: Sequence[int], repeats: int
) -> list[dict[str, Any]]:
    """A row for each number of threads: milliseconds of one call, and ratios of the new graph to the old, interleaved.

    ``before`` is the old graph with the options of before; ``old`` and ``new`` have the options of now.
    """
    rows: list[dict[str, Any]] = []
    for count in threads:
        sessions = {
            "before": opened_as_before(old, count),
            "old": opened(source, old, count),
            "new": opened(source, new, count),
        }
        taken: dict[str, list[float]] = {name: [] for name in sessions}
        for _ in range(repeats):
            for name, session in sessions.items():
                time.sleep(REST)
                taken[name].append(seconds_of(session, feed))
        rows.append(
            {
                "threads": count,
                "milliseconds": {name: 1e3 * statistics.median(each) for name, each in taken.items()},
                "new/old": ratio(taken["new"], taken["old"]),
                "new/before": ratio(taken["new"], taken["before"]),
            }
        )
    return rows


def scaled(source: str | None, graph: Path, feed: Feed, repeats: int) -> dict[str, float]:
    """What a second thread gains, beside what a second process gains, each of one thread; as factors of throughput.

    Both are measured against the same lone process, in turn. ``share`` is the first factor over the second; ``extra``
    compares what is above 1.
    """
    pair, threads, processes = opened(source, graph, 2), list[float](), list[float]()
    seconds_of(pair, feed)
    with _worker(source, graph, feed) as first, _worker(source, graph, feed) as second:
        for _ in range(repeats):
            time.sleep(REST)
            alone = _asked([first])[0]
            both = _asked([first, second])
            time.sleep(REST)
            threads.append(alone / seconds_of(pair, feed))
            processes.append(sum(alone / one for one in both))
    gained, possible = statistics.median(threads), statistics.median(processes)
    shares = [one / other for one, other in zip(threads, processes)]
    return {
        "second thread": gained,
        "second process": possible,
        "share": statistics.median(shares),
        "extra": (gained - 1) / (possible - 1) if possible > 1 else float("nan"),
    }


def _asked(workers: Sequence[Connection]) -> list[float]:
    """Let workers measure at the same time; median seconds of a call in each."""
    for worker in workers:
        worker.send(None)
    return [worker.recv() for worker in workers]


@contextmanager
def _worker(source: str | None, graph: Path, feed: Feed) -> Iterator[Connection]:
    """A process of one thread that measures whenever it is asked."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, source, graph, feed), daemon=True)
    process.start()
    there.close()
    try:
        here.recv()  # until it is ready
        yield here
    finally:
        here.close()
        process.join(10)


def _work(pipe: Connection, source: str | None, graph: Path, feed: Feed) -> None:
    session = opened(source, graph, 1)
    seconds_of(session, feed)
    pipe.send(None)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(seconds_of(session, feed))


def call_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of :func:`compared` as Markdown."""
    lines = [["threads", "old before, ms", "old, ms", "new, ms", "new / old", "new / old before"], ["---:"] * 6]
    for row in rows:
        times = [f"{row['milliseconds'][name]:.2f}" for name in ("before", "old", "new")]
        lines.append([str(row["threads"]), *times, f"{row['new/old']:.3f}", f"{row['new/before']:.3f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
