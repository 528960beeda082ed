"""What the draw is timed beside: torch's own draw, Triton's compilation of ours, and the floor of instructions."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu.machine import Machine
from gpu.report import Report
from smalti_kernels.impl import abi, reference
from smalti_kernels.impl.cuda.draw import host_arrays
from smalti_kernels.spec.tables import packed_tables

if TYPE_CHECKING:
    from gpu.kernel_speed import Timed

COMPILING = 60
"""Seconds that must be left for torch.compile."""


def torch_routes(report: Report, machine: Machine, timed: Timed) -> dict[str, Callable[[int], object]]:
    """The routes that work here; the others are noted as skipped."""
    if machine.kind != "gpu":
        report.skip("torch, Triton and the issue floor", "they need a GPU")
        return {}
    try:
        torch = importlib.import_module("torch")
        assert torch.cuda.is_available(), "torch sees no GPU"
    except Exception as error:  # a broken installation raises anything
        report.skip("torch, Triton and the issue floor", f"torch cannot be used: {error}")
        return {}
    logits = [torch.from_numpy(one).cuda() for one in timed.logits]
    draws = eager(torch, timed)
    candidates = {
        **{name: lambda draw=draw: draw for name, draw in draws.items()},
        "smalti, Triton": lambda: triton_draw(torch, timed),
        "floor: mix the noise": lambda: floor(torch, logits[0], "mix"),
        "reading the logits once": lambda: floor(torch, logits[0], "read"),
    }
    if machine.left > COMPILING:
        for name, draw in draws.items():
            candidates[name.replace("eager", "torch.compile")] = lambda draw=draw: torch.compile(draw)
    else:
        report.skip("torch.compile", "no time was left")
    routes: dict[str, Callable[[int], object]] = {}
    for name, make in candidates.items():
        try:
            draw = make()
            for index in range(3):
                draw(logits[index % len(logits)])
            torch.cuda.synchronize()
            routes[name] = lambda index, draw=draw: draw(logits[index])
        except Exception as error:  # compilers raise anything
            report.skip(name, f"{type(error).__name__}: {str(error)[:300]}")
    return routes


def eager(torch: Any, timed: Timed) -> dict[str, Callable[[Any], object]]:
    """Softmax, a draw, and a scatter into the grid, as samplers are written."""
    grid = torch.zeros(timed.request.tokens.size, dtype=torch.int64, device="cuda")
    place = torch.arange(timed.shape.rows, device="cuda")
    temperature = 65536 / float(timed.request.scale[0])

    def multinomial(logits: Any) -> object:
        probabilities = torch.softmax(logits.float() / temperature, dim=-1)
        return grid.scatter_(0, place, torch.multinomial(probabilities, 1)[:, 0])

    def race(logits: Any) -> object:
        probabilities = torch.softmax(logits.float() / temperature, dim=-1)
        noise = torch.empty_like(probabilities).exponential_(1.0)
        return grid.scatter_(0, place, (probabilities / noise).argmax(dim=-1))

    return {"torch, eager": multinomial, "torch, eager, exponential race": race}


def triton_draw(torch: Any, timed: Timed) -> Callable[[Any], object]:
    """The same kernel, compiled by the Triton that is here."""
    kernel = importlib.import_module("smalti_kernels.impl.triton.kernel").smalti_sample
    arrays, shape, flags = host_arrays(timed.request)
    there = {name: torch.from_numpy(array.copy()).cuda() for name, array in arrays.items()}
    variant = abi.variant_for(shape.logits, shape.vocabulary, flags)
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    programs = abi.programs_for(shape.rows, variant, processors)
    values: dict[str, Any] = {
        # What the flags leave unread gets any address of the right type.
        **{a.name: there.get(a.name, there["errors"]) for a in abi.ARGUMENTS if a.type.startswith("*")},
        "tables": torch.from_numpy(packed_tables().copy()).cuda(),
        "guidance": 1.0,
        **{name: getattr(shape, name) for name in ("rows", "vocabulary", "stride", "length", "width")},
        "flags": flags,
    }
    options = {**variant.constants, "num_warps": variant.num_warps, **abi.COMPILE_OPTIONS}

    def draw(logits: Any) -> None:
        kernel[(programs,)](**{**values, "logits": logits, "uncond": logits}, **options)

    draw(there["logits"])
    found, expected = there["tokens"].cpu().numpy(), reference.draw(timed.request).tokens
    if not np.array_equal(found, expected):
        raise ValueError(f"{int((found != expected).sum())} tokens are not the reference's")
    return draw


def floor(torch: Any, like: Any, name: str) -> Callable[[Any], object]:
    """A kernel of `kernel_floors`: reading the logits once, or mixing one noise word for every token."""
    kernel = getattr(importlib.import_module("gpu.kernel_floors"), name)
    rows, vocabulary = like.shape
    out = torch.empty(rows, dtype=torch.float32, device="cuda")

    def launch(logits: Any) -> None:
        given = (logits, out) if name == "read" else (out,)
        kernel[(rows,)](*given, vocabulary, BLOCK=2048, num_warps=4)

    return launch
