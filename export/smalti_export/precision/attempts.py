"""The graphs that are tried for each precision of a component, the fastest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from smalti.bundle.manifest import Precision, Role
from smalti_export.graphs.trace import GraphSpec
from smalti_export.precision.activation_ranges import Feed
from smalti_export.precision.fp16 import fp16_tensors, greatest
from smalti_export.precision.int8 import calibrated, last_layers, quantize, quantized
from smalti_export.precision.overflow import kept_in_range
from smalti_export.precision.sensitivity import cheapest, measured_layers

RANGED = 2
"""Calibration batches on which the activations of an fp16 graph are measured."""
KEPT = (0, 1, 2)
"""How many last layers an int8 variant keeps in fp32. The first number within tolerance is used."""
REMAINING = (0.5, 0.35, 0.25, 0.17, 0.12, 0.08)
"""When that is not enough, it keeps the layers that cost least until this share of the error of 8 bits is left."""


@dataclass(frozen=True)
class Part:
    """A component that is traced and packed, but not measured yet."""

    role: Role
    spec: GraphSpec
    graphs: dict[Precision, onnx.ModelProto]
    """The fp32 graph and, if wanted, the fp16 graph. Both read the same weight file."""
    whole: onnx.ModelProto | None
    """The fp32 graph with its weights inside, or None when no int8 graph will be made from it."""
    weight_file: tuple[str, bytes]
    fixed: Sequence[str] = ()
    """Names of convolutions that were not learnt, such as an enlargement. They stay fp32 in the int8 graph: 8 bits
    would blur what they only move."""


def attempts(
    part: Part, precision: Precision, feeds: list[Feed], say: Callable[[str], None]
) -> Iterator[onnx.ModelProto]:
    """Yield the graphs to try for a precision, the fastest first."""
    if precision == "fp32":
        yield part.graphs["fp32"]
        return
    if precision == "fp16":
        graph = part.graphs["fp16"]
        halves = fp16_tensors(graph)
        large = greatest(graph, part.weight_file, halves, feeds[:RANGED])
        graph, changed = kept_in_range(graph, halves, large)
        say(
            f"{part.role} fp16: the greatest activation is {max(large.values(), default=0):.4g}"
            + (f"; {changed} operators are kept in fp32 or scaled" if changed else "")
        )
        yield graph
        return
    assert part.whole is not None
    for count in KEPT:
        say(f"{part.role}: calibrating int8" + (f", the last {count} layers in fp32" if count else ""))
        yield quantize(part.whole, feeds, [*last_layers(part.whole, count), *part.fixed])
    say(f"{part.role}: measuring what 8 bits cost each layer")
    made = calibrated(part.whole, feeds, part.fixed)
    layers = measured_layers(made, feeds, part.fixed)
    for share in REMAINING if layers else ():
        keep = cheapest(layers, share)
        say(f"{part.role}: calibrating int8, {len(keep)} of {len(layers)} layers in fp32")
        yield quantized(made, [*keep, *part.fixed])
