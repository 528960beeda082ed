"""All kernels that are built: their arguments, and the forms in which each is compiled.

The draw has its own interface in `abi`. The others are small. They let a run stay on the device: they move tokens, and
compute the mixtures and posteriors of `spec.mixtures`. A program takes one row, or one block of elements.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from smalti_kernels.impl import abi
from smalti_kernels.impl.abi import FLAG_TRUNCATED, MAX_VOCABULARY, Argument

_ROWS: Final = (
    Argument("stride", "i32", True, "elements from one row of logits to the next, a multiple of 16, at least K"),
    Argument("vocabulary", "i32", False, "K"),
)
_TABLES: Final = Argument("tables", "*i32", False, "[TABLE_WORDS], `smalti_kernels.spec.tables.packed_tables()`")


class Form(NamedTuple):
    """One compiled form of one kernel."""

    name: str
    """Unique, and a valid file name."""
    kernel: str
    """Name of the kernel function, and of the entry point."""
    module: str
    """The file of `impl/triton` that has it."""
    arguments: tuple[Argument, ...]
    """Run-time arguments in order, with their final types."""
    constants: Mapping[str, int]
    """Compile-time arguments, which follow the run-time ones."""
    num_warps: int


MOVE: Final = Form(
    "move",
    "smalti_move",
    "moving",
    (
        Argument("source", "*i32", False, "where elements come from"),
        Argument("target", "*i32", False, "where they go; not the source, unless all are fillers"),
        Argument("take", "*i32", False, "[count], index in the source; -1 takes the filler"),
        Argument("put", "*i32", False, "[count], index in the target; -1 puts nothing"),
        Argument("count", "i32", False, "number of elements"),
        Argument("filler", "i32", False, "the value where none is taken"),
    ),
    {"BLOCK": 256},
    4,
)
"""Put elements of an int32 array at places of another."""

WIDEN: Final = Form(
    "widen",
    "smalti_widen",
    "moving",
    (
        Argument("logits", "*fp32", False, "[R, K]"),
        Argument("wide", "*fp32", False, "[R, stride], written: the logits, then -inf"),
        *_ROWS,
    ),
    {"CHUNK": 256},
    4,
)
"""Fill up rows of logits, so that the draw can read them."""

NOTE: Final = Form(
    "note",
    "smalti_note",
    "moving",
    (
        Argument("errors", "*i32", False, "[R], of a draw"),
        Argument("noted", "*i32", False, "[3], begins at 0: call, row and bits of the first error of a run"),
        Argument("rows", "i32", False, "R"),
        Argument("call", "i32", False, "number of the draw, from 1"),
    ),
    {"BLOCK": 1024},
    4,
)
"""Keep the first error of many draws, so that a run looks at it once, at its end."""

MIX: Final = Form(
    "mix",
    "smalti_mix",
    "mixing",
    (
        Argument("logits", "*fp32", False, "[n, stride], rows of windows"),
        Argument(
            "begin", "*i32", False, "[R + 1], ascending: row r of the canvas has entries begin[r] .. begin[r + 1]"
        ),
        Argument("entry", "*i32", False, "[entries], a row of logits"),
        Argument("importance", "*i64", False, "[entries], what its shares count"),
        _TABLES,
        Argument("total", "*i64", False, "[R, K], the bits of uint64; sums to which shares are added"),
        Argument("broken", "*i32", False, "[R], becomes 1 where a row of a window is no distribution"),
        *_ROWS,
        Argument("fresh", "i32", False, "1 where sums and `broken` begin at 0"),
    ),
    {"CHUNK": 512},
    4,
)
"""Add the shares of windows to the rows of a canvas, each times its importance."""

MIXTURE: Final = Form(
    "mixture",
    "smalti_mixture",
    "mixing",
    (
        Argument("total", "*i64", False, "[R, K], the bits of uint64"),
        Argument("broken", "*i32", False, "[R]"),
        _TABLES,
        Argument("logits", "*fp32", False, "[R, stride], written: `mixtures.mixture`, then -inf"),
        *_ROWS,
    ),
    {"CHUNK": 512},
    4,
)
"""Turn sums of shares into logits."""

_POSTERIOR: Final = (
    Argument("logits", "*fp32", False, "[R, stride]"),
    Argument("uncond", "*fp32", False, "like logits; read only with FLAG_GUIDED, any address otherwise"),
    Argument("tokens", "*i32", False, "[N, length], the grids; a row's own token is favoured"),
    Argument("sample", "*i32", False, "[R], the grid of each row"),
    Argument("position", "*i32", False, "[R], raster index in that grid"),
    _TABLES,
    Argument("out", "*fp32", False, "[R, stride], written: `mixtures.posterior`, then -inf"),
    Argument("guidance", "fp32", False, "weight of guidance; read only with FLAG_GUIDED"),
    Argument("scale", "fp32", False, "float32(65536) / float32(temperature)"),
    Argument("signal", "i64", False, "0 .. 2^31, in units of 2^-31"),
    Argument("noise", "i64", False, "0 .. 2^62, in units of 2^-62"),
    Argument("favour", "i32", False, "in units of 2^-16 nats"),
    Argument("top_k", "i32", False, "0: off; read with FLAG_TRUNCATED"),
    Argument("top_p", "i32", False, "in units of 2^-16, 65536: off; read with FLAG_TRUNCATED"),
    *_ROWS,
    Argument("length", "i32", False, "L, positions of a grid"),
    Argument("flags", "i32", False, "FLAG_GUIDED and FLAG_TRUNCATED"),
)
POSTERIORS: Final = tuple(
    Form(
        f"posterior_v{held}_truncated" if held else "posterior",
        "smalti_posterior",
        "mixing",
        _POSTERIOR,
        {"CHUNK": 512, "HELD": held},
        num_warps,
    )
    for held, num_warps in ((0, 4), (1024, 4), (4096, 8), (8192, 16), (MAX_VOCABULARY, 16))
)
"""Turn logits into those of a posterior; with truncation, a row of up to HELD tokens is kept in registers."""


def _draws() -> tuple[Form, ...]:
    return tuple(
        Form(
            variant.name,
            abi.KERNEL_NAME,
            "kernel",
            tuple(argument._replace(type=kind) for argument, kind in zip(abi.ARGUMENTS, variant.types, strict=True)),
            variant.constants,
            variant.num_warps,
        )
        for variant in abi.VARIANTS
    )


FORMS: Final = {form.name: form for form in (*_draws(), MOVE, WIDEN, NOTE, MIX, MIXTURE, *POSTERIORS)}
"""Every form that is built, by name."""


def posterior_for(vocabulary: int, flags: int) -> Form:
    """The form that computes posteriors of `vocabulary` tokens (1 .. MAX_VOCABULARY) under `flags`.

    Raises ValueError when no form holds that many tokens.
    """
    if not 1 <= vocabulary <= MAX_VOCABULARY:
        raise ValueError(f"the kernel takes 1 to {MAX_VOCABULARY} tokens; got {vocabulary}")
    if not flags & FLAG_TRUNCATED:
        return POSTERIORS[0]
    return next(form for form in POSTERIORS[1:] if form.constants["HELD"] >= vocabulary)
