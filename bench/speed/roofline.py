"""How near each operator comes to what this machine can do, or a bound for a GPU from its published figures.

    python bench/speed/roofline.py                         denoiser and decoder of the embedded bundle, 1 and 2 threads
    python bench/speed/roofline.py --component denoiser --precision int8 --threads 2 --rows 128 --json roofline.json
    python bench/speed/roofline.py --project "RTX 2080 Ti"

Operations and bytes are counted from the graph as ONNX Runtime rewrote it (bench/speed/counting.py), times are its
profiler's (bench/speed/profiling.py), and ceilings are measured in the same process (bench/speed/ceilings.py). A node's
ceiling is the smaller of the product's rate and its intensity times the copy's. ``least`` is what the nodes would take
at their ceilings, and ``share`` is that over their time. A share above 100 % is possible where a node finds its inputs
in a nearer cache than the copy of the same size did. ``between nodes`` is a whole run less its nodes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from ceilings import Ceilings, measured
from counting import Count, count
from profiling import free_sides, prepared, profiled, random_feed
from projection import GPUS, gpu_named, lines, to_dict, work

import smalti
from smalti.backends.onnxruntime_options import runtime_version
from smalti.bundle.reader import Bundle
from smalti.errors import SmaltiError, UsageError

COMPONENTS = ("denoiser", "decoder")


@dataclass(frozen=True)
class Row:
    """All nodes of one operator."""

    operator: str
    calls: int
    seconds: float
    operations: int
    bytes: int
    least_seconds: float
    """At their ceilings."""

    @property
    def share(self) -> float:
        """Of the ceiling; 0 for what moves and computes nothing."""
        return self.least_seconds / self.seconds if self.seconds else 0.0


def rows_of(counts: Sequence[Count], seconds: dict[str, float], ceilings: Ceilings) -> list[Row]:
    """Gather nodes by operator, 8-bit products apart from others; the most expensive first."""
    gathered: dict[str, list[Count]] = {}
    for one in counts:
        if one.name in seconds:  # constants and nodes that another swallowed never run
            kind = f" {one.kind}" if one.multiply_adds else ""
            gathered.setdefault(one.op_type + kind, []).append(one)
    rows = [
        Row(
            operator,
            len(nodes),
            sum(seconds[one.name] for one in nodes),
            sum(one.operations for one in nodes),
            sum(one.bytes for one in nodes),
            sum(map(ceilings.least_seconds, nodes)),
        )
        for operator, nodes in gathered.items()
    ]
    return sorted(rows, key=lambda row: -row.seconds)


def table(rows: Sequence[Row], whole: float) -> str:
    """Return the rows as Markdown; ``whole`` is the time of a run that was not profiled."""
    nodes = sum(row.seconds for row in rows)
    total = Row(
        "all nodes",
        sum(row.calls for row in rows),
        nodes,
        sum(row.operations for row in rows),
        sum(row.bytes for row in rows),
        sum(row.least_seconds for row in rows),
    )
    text = [
        "| operator | nodes | ms | of run | GOP | MB | GOP/s | ceiling | GB/s | least, ms | share |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    text += [_line(row, whole) for row in (*rows, total)]
    text.append(f"| between nodes | | {(whole - nodes) * 1e3:.2f} | {(whole - nodes) / whole:.0%} | | | | | | | |")
    text.append(f"| run | | {whole * 1e3:.2f} | 100% | | | | | | | {total.least_seconds / whole:.0%} |")
    return "\n".join(text)


def _line(row: Row, whole: float) -> str:
    seconds, least = max(row.seconds, 1e-9), row.least_seconds
    rate = f"{row.operations / seconds / 1e9:.1f}" if row.operations else ""
    ceiling = f"{row.operations / least / 1e9:.1f}" if row.operations and least else ""
    return (
        f"| {row.operator} | {row.calls} | {row.seconds * 1e3:.2f} | {row.seconds / whole:.0%} "
        f"| {row.operations / 1e9:.3f} | {row.bytes / 1e6:.2f} | {rate} | {ceiling} "
        f"| {row.bytes / seconds / 1e9:.1f} | {least * 1e3:.2f} | {row.share:.0%} |"
    )


def measure(bundle: Bundle, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Measure and print each component with each number of threads."""
    found: list[dict[str, Any]] = []
    for threads in options.threads:
        ceilings: Ceilings | None = None
        for role in options.component:
            precision = options.precision if options.precision in bundle.precisions(role) else "fp32"
            sizes = free_sides(bundle, role, options.batch, options.rows)
            feed = random_feed(bundle, role, sizes)
            graph = prepared(bundle, role, precision, threads, sizes, folder)
            if ceilings is None:
                ceilings = measured(threads, folder, options.runs, graph.spinning)
                print(f"\nCeilings, {threads} threads: {_told(ceilings)}")
            profile = profiled(graph.path, feed, threads, options.runs, graph.spinning, graph.session)
            counts = count(graph.model, {}, profile.tensors)
            rows, whole = rows_of(counts, profile.seconds, ceilings), profile.whole
            given = ", ".join(f"{name} {list(value.shape)}" for name, value in feed.items())
            print(f"\n### {role} {precision}, {threads} threads, {given}\n\n{table(rows, whole)}", flush=True)
            if unknown := sorted({one.op_type for one in counts if not one.known}):
                print(f"\nnot in the tables of counting.py, so counted as no operations: {', '.join(unknown)}")
            found.append(
                {"component": role, "precision": precision, "threads": threads, "sizes": sizes, "seconds": whole}
                | {"ceilings": ceilings.to_dict(), "operators": [asdict(row) | {"share": row.share} for row in rows]}
            )
    return found


def _told(ceilings: Ceilings) -> str:
    products = ", ".join(f"{kind} {ceilings.products[kind] / 1e9:.0f} GOP/s" for kind in ("fp32", "int8"))
    copies = ", ".join(f"{rate / 1e9:.1f} GB/s ({size / 2**20:g} MB)" for size, rate in ceilings.copies.items())
    return f"products {products}; copies {copies}"


def project(bundle: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    """Print the bound for a named GPU: a denoiser call for each step, then the decoder."""
    gpu, manifest = gpu_named(options.project), bundle.manifest
    steps = options.steps or manifest.sampler.steps or 1
    length = manifest.latent.grid[0] * manifest.latent.grid[1]
    rows = options.rows or -(-length // steps)
    works = {}
    for role in COMPONENTS:
        sizes = free_sides(bundle, role, options.batch, rows)
        for precision in ("fp32", "fp16"):
            if precision in bundle.precisions(role):
                model = onnx.load_from_string(bundle.read(bundle.variant(role, precision).graph.file))
                works[role, precision] = work(model, sizes, count(model, sizes))
    calls = {"denoiser": steps, "decoder": 1}
    pixels = options.batch * length * manifest.latent.factor**2 / 1e6
    text = lines(gpu, works, calls, pixels)
    print("\n".join(text))
    print(f"projection  {manifest.name}, batch {options.batch}, {steps} steps, {rows} positions drawn in each")
    return to_dict(gpu, works, calls) | {
        "bundle": manifest.name,
        "batch": options.batch,
        "steps": steps,
        "positions": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", help="by default the embedded one")
    parser.add_argument("--component", action="append", choices=COMPONENTS, help="by default both")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="int8")
    parser.add_argument("--threads", type=int, action="append", help="by default 1, then 2")
    parser.add_argument("--rows", type=int, help="positions asked of the denoiser (default: those of a mean step)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50, help="times each graph runs (default 50)")
    parser.add_argument("--project", metavar="GPU", help=f"one of {', '.join(gpu.name for gpu in GPUS)}")
    parser.add_argument("--steps", type=int, help="of the projection (default: the bundle's)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    try:
        bundle = smalti.open_bundle(options.bundle)
        if bundle.manifest.family not in ("absorbing", "sundae"):
            raise UsageError(
                f"{options.bundle} is {bundle.manifest.family}: bundles with a denoiser of masks are timed"
            )
        if options.project:
            found: Any = project(bundle, options)
        else:
            length, steps = (
                bundle.manifest.latent.grid[0] * bundle.manifest.latent.grid[1],
                bundle.manifest.sampler.steps,
            )
            options.rows = options.rows or -(-length // (steps or 1))
            options.component, options.threads = options.component or COMPONENTS, options.threads or [1, 2]
            print(
                f"{bundle.manifest.name}, {runtime_version()}, {platform.machine()}, Python {platform.python_version()}"
            )
            with tempfile.TemporaryDirectory() as folder:
                found = measure(bundle, options, Path(folder))
    except SmaltiError as error:
        sys.exit(f"roofline: {error}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
