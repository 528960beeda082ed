"""Bounds for GPUs that nobody here has, from what their maker publishes. Every line that this prints says projection.

A graph cannot take less than the greater of its products at the peak rate and its weights, inputs and outputs at the
memory's rate: that is ``all fused``. With every operator a kernel of its own, whose bytes all pass through memory, it
is the sum over its nodes: ``node by node``. Neither has launches, copies to and from the host, or the draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from counting import Count, least_bytes, operations, product_operations

from smalti.errors import UsageError

SHARES = (0.25, 0.75)
"""Share of the bound's rates that is assumed to be attained, low and high. A guess: no GPU was measured for it."""


@dataclass(frozen=True)
class Gpu:
    """Published figures of a GPU."""

    name: str
    fp32: float
    """Peak operations per second of its fp32 units, a multiply-add as two."""
    fp16: float
    """Peak operations per second of dense fp16 products summed in fp32; without tensor cores, that of fp32."""
    memory: float
    """Bytes per second."""
    source: str


GPUS = (
    Gpu(
        "GTX 1080 Ti",
        11.3e12,
        11.3e12,
        484e9,
        "NVIDIA, GeForce GTX 1080 Ti specifications: 3584 cores at 1582 MHz boost, 11 Gbps on 352 bits. It has no "
        "tensor cores, and its fp16 units are slower than fp32, so fp16 graphs compute in fp32",
    ),
    Gpu(
        "RTX 2080 Ti",
        13.4e12,
        53.8e12,
        616e9,
        "NVIDIA, Turing GPU Architecture whitepaper (2018), reference card at 1545 MHz boost; the Founders Edition at "
        "1635 MHz has 14.2 and 56.9",
    ),
    Gpu(
        "RTX 3060",
        12.7e12,
        25.5e12,
        360e9,
        "NVIDIA, GeForce RTX 3060 (12 GB) specifications: 3584 cores at 1777 MHz boost, 15 Gbps on 192 bits; 112 "
        "tensor cores at the rate for each core of the Ampere GA102 whitepaper (2020)",
    ),
    Gpu("RTX 4090", 82.6e12, 165.2e12, 1008e9, "NVIDIA, Ada GPU Architecture whitepaper (2022)"),
    Gpu(
        "H100",
        66.9e12,
        989.4e12,
        3350e9,
        "NVIDIA, H100 Tensor Core GPU Architecture whitepaper (2022) and datasheet, SXM5; half of what is published "
        "with sparsity",
    ),
)


def gpu_named(name: str) -> Gpu:
    """Return a GPU by its name; "GeForce", "NVIDIA", case and spaces do not matter. Raises UsageError for others."""

    def plain(text: str) -> str:
        return text.lower().replace("nvidia", "").replace("geforce", "").replace(" ", "").replace("-", "")

    found = next((gpu for gpu in GPUS if plain(gpu.name) == plain(name)), None)
    if found is None:
        raise UsageError(f"no published figures of {name} are kept here; known are {', '.join(g.name for g in GPUS)}")
    return found


@dataclass(frozen=True)
class Work:
    """What one run of a component asks of a GPU."""

    counts: tuple[Count, ...]
    least_bytes: int
    """Weights, inputs and outputs of the graph, each once."""


def work(model: onnx.ModelProto, sizes: Mapping[str, int], counts: Sequence[Count]) -> Work:
    """Return a component's work, from its graph and its count for the same ``sizes``."""
    return Work(tuple(counts), least_bytes(model, sizes))


@dataclass(frozen=True)
class Bound:
    """Seconds that a run takes at least, by two assumptions."""

    fused: float
    by_node: float


def bound(asked: Work, gpu: Gpu, precision: str) -> Bound:
    """Return the bounds of one run, in seconds, at all of the published rates."""
    rate = gpu.fp16 if precision == "fp16" else gpu.fp32
    fused = max(product_operations(asked.counts) / rate, asked.least_bytes / gpu.memory)
    by_node = sum(
        max(one.operations / (rate if one.multiply_adds else gpu.fp32), one.bytes / gpu.memory) for one in asked.counts
    )
    return Bound(fused, max(fused, by_node))


def lines(gpu: Gpu, works: Mapping[tuple[str, str], Work], calls: Mapping[str, int], megapixels: float) -> list[str]:
    """Return the projection as text; every line says that it is one.

    Args:
        gpu: the one it is for.
        works: of each (component, precision), the work of one run.
        calls: runs of each component for the pictures of a batch.
        megapixels: of those pictures.
    """
    text = [
        f"for the {gpu.name}: nothing of this was measured",
        f"figures: fp32 {gpu.fp32 / 1e12:.1f} TFLOPS, fp16 {gpu.fp16 / 1e12:.1f} TFLOPS (dense, summed in fp32), "
        f"memory {gpu.memory / 1e9:.0f} GB/s",
        f"source: {gpu.source}",
        "assumed: boost clock; nothing lost between kernels; no launches, no draw, no copies to or from the host",
        f"assumed share of these rates: {SHARES[0]:.0%} to {SHARES[1]:.0%}, a guess, since no GPU was measured for it",
        "",
        f"{'component':<14}{'precision':<11}{'calls':>6}{'GFLOP':>9}{'MB':>8}{'fused, ms':>11}{'by node, ms':>13}",
    ]
    totals: dict[str, list[Bound]] = {}
    for (role, precision), asked in works.items():
        found, times = bound(asked, gpu, precision), calls[role]
        totals.setdefault(precision, []).append(Bound(found.fused * times, found.by_node * times))
        text.append(
            f"{role:<14}{precision:<11}{times:>6}{operations(asked.counts) / 1e9:>9.2f}"
            f"{asked.least_bytes / 1e6:>8.1f}{found.fused * 1e3:>11.3f}{found.by_node * 1e3:>13.3f}"
        )
    text.append("")
    for precision, bounds in totals.items():
        fused, by_node = (sum(getattr(one, name) for one in bounds) for name in ("fused", "by_node"))
        text.append(
            f"all calls, {precision}: at least {fused * 1e3:.2f} ms all fused, {by_node * 1e3:.2f} ms node by node; "
            f"{fused / megapixels:.4f} and {by_node / megapixels:.4f} s/Mpx"
        )
        text.append(
            f"all calls, {precision}, at the assumed share: {fused / SHARES[1] * 1e3:.2f} to "
            f"{by_node / SHARES[0] * 1e3:.2f} ms"
        )
    return [f"projection  {line}".rstrip() for line in text]


def to_dict(gpu: Gpu, works: Mapping[tuple[str, str], Work], calls: Mapping[str, int]) -> dict[str, Any]:
    """Return the projection as plain values, for JSON."""
    rows = [
        {"projection": True, "component": role, "precision": precision, "calls": calls[role]}
        | {"fused_seconds": found.fused, "by_node_seconds": found.by_node}
        for (role, precision), asked in works.items()
        for found in [bound(asked, gpu, precision)]
    ]
    return {"projection": gpu.name, "source": gpu.source, "shares_assumed": SHARES, "rows": rows}
