"""The sampling kernel's interface: its arguments in order, its variants, its launch grid, its errors.

The Triton source, the ahead-of-time build and the launcher all read this file, so they always agree. Nothing here
imports Triton or touches a device.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KERNEL_NAME: Final = "smalti_sample"
"""Name of the kernel function in `impl/triton/kernel.py`, and of the entry point in every cubin."""


class Argument(NamedTuple):
    """One run-time argument of the kernel."""

    name: str
    type: str
    """Triton's name of the type: "*i32" is a pointer, "i32" a number; "*logits" stands for the variant's pointer."""
    aligned: bool
    """Whether the kernel is compiled for values divisible by 16: bytes of an address, or the number itself."""
    meaning: str


ARGUMENTS: Final = (
    Argument("logits", "*logits", True, "[R, stride], row r starts at r * stride"),
    Argument("uncond", "*logits", True, "like logits; read only with FLAG_GUIDED, any address otherwise"),
    Argument("tokens", "*i32", False, "[N, length], the grids; drawn tokens are written in place"),
    Argument("sample", "*i32", False, "[R], the grid of each row"),
    Argument("position", "*i32", False, "[R], raster index in that grid"),
    Argument("step", "*i32", False, "[R], the bits of a uint32"),
    Argument("seeds", "*i32", False, "[N, 2], low and high 32 bits of each seed"),
    Argument("scale", "*fp32", False, "[N], float32(65536) / float32(temperature)"),
    Argument("keep", "*i32", False, "[N, 2], top-k (0: off) and top-p in 2^-16 (65536: off); read with FLAG_TRUNCATED"),
    Argument("tables", "*i32", False, "[TABLE_WORDS], `smalti_kernels.spec.tables.packed_tables()`"),
    Argument("changed", "*i8", False, "[R], written: 1 where the token differs from the one it replaces, else 0"),
    Argument("logprob", "*i32", False, "[R], written with FLAG_LOGPROB; any address otherwise"),
    Argument("errors", "*i32", False, "[R], written: 0, or the ERROR_ bits of a row that has no answer"),
    Argument("guidance", "fp32", False, "weight of guidance; read only with FLAG_GUIDED"),
    Argument("rows", "i32", False, "R"),
    Argument(
        "vocabulary",
        "i32",
        False,
        "V, 1 .. `Variant.vocabulary`; logits from V up to the next multiple of 16 are read and must be -inf",
    ),
    Argument("stride", "i32", True, "elements from one row of logits to the next, a multiple of 16, at least V"),
    Argument("length", "i32", False, "L, positions of a grid"),
    Argument("width", "i32", False, "columns of a grid"),
    Argument("flags", "i32", False, "FLAG_ bits"),
)
"""Run-time arguments in order. For a row with an error, the token stays as it was and `changed` is 0."""

CONSTANTS: Final = ("ROWS", "CHUNK", "HELD", "LOGITS")
"""Compile-time arguments, which follow the run-time ones; `Variant.constants` gives their values."""

FLAG_GUIDED: Final = 1
FLAG_TRUNCATED: Final = 2
"""Only variants with `held` support it."""
FLAG_LOGPROB: Final = 4

ERROR_NAN: Final = 1
ERROR_INFINITE: Final = 2
ERROR_FORBIDDEN: Final = 4
"""All logits of the row are -inf."""
ERROR_RANGE: Final = 8
"""The greatest logit over temperature lies beyond +-16384."""
ERROR_GUIDED: Final = 16
"""The error comes from guidance: the logits themselves are sound."""

ALIGNMENT: Final = 16
"""The stride (in elements) and the addresses of logits and uncond (in bytes) are multiples of this."""

LOGITS: Final = ("fp32", "fp16", "bf16")
"""Types of logits that a kernel can read."""
POINTERS: Final = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*u16"}
"""Triton type of the pointer to logits. bfloat16 is read as bits and widened by a shift, exactly on every device."""

COMPILE_OPTIONS: Final = {"num_stages": 1, "enable_fp_fusion": False}
"""Options of every compilation, besides `num_warps`. A fused multiply-add would change the rounding of guidance and
scaling."""


class Variant(NamedTuple):
    """One compiled form of the kernel."""

    logits: str
    """One of `LOGITS`."""
    vocabulary: int
    """Largest vocabulary it draws from."""
    rows: int
    """Rows that one program draws at a time."""
    chunk: int
    """Tokens of a row that are processed together; the kernel goes through a row chunk by chunk."""
    held: int
    """Tokens kept in registers for truncation, which reads a row about twenty times: at least V. 0: no truncation."""
    num_warps: int
    """Warps of one program."""

    @property
    def name(self) -> str:
        """Unique, and a valid file name: for example ``fp16_v16384`` or ``fp16_v8192_truncated``."""
        return f"{self.logits}_v{self.vocabulary}" + ("_truncated" if self.held else "")

    @property
    def constants(self) -> dict[str, int]:
        """Values of the compile-time arguments by name."""
        return {"ROWS": self.rows, "CHUNK": self.chunk, "HELD": self.held, "LOGITS": LOGITS.index(self.logits)}

    @property
    def types(self) -> tuple[str, ...]:
        """Triton types of the run-time arguments in order, with the pointer to logits filled in."""
        return tuple(POINTERS[self.logits] if a.type == "*logits" else a.type for a in ARGUMENTS)


# vocabulary, rows, chunk, held, warps. Without truncation a thread takes 8 tokens of a chunk, one 128-bit read of
# float16. Short rows share a warp, so that the work per row is done for several rows at once. A 128-bit read holds only
# 4 float32 values, so half as many rows share a warp.
_SHAPES: Final = (
    (256, 4, 64, 0, 1),
    (2048, 2, 128, 0, 1),
    (16384, 1, 512, 0, 2),
    (1024, 1, 512, 1024, 4),
    (4096, 1, 1024, 4096, 8),
    (8192, 1, 2048, 8192, 16),
    (16384, 1, 2048, 16384, 16),
)

VARIANTS: Final = tuple(
    Variant(logits, vocabulary, max(1, rows // 2) if logits == "fp32" else rows, *rest)
    for logits in LOGITS
    for vocabulary, rows, *rest in _SHAPES
)
"""Every variant that is built."""
MAX_VOCABULARY: Final = max(variant.vocabulary for variant in VARIANTS)


def variant_for(logits: str, vocabulary: int, flags: int) -> Variant:
    """The variant that draws from `vocabulary` tokens (1 .. MAX_VOCABULARY) of type `logits` under `flags`.

    Raises ValueError when no variant reads that type or holds that many tokens.
    """
    if logits not in LOGITS:
        raise ValueError(f"logits must be one of {', '.join(LOGITS)}; got {logits!r}")
    if not 1 <= vocabulary <= MAX_VOCABULARY:
        raise ValueError(f"the kernel draws from 1 to {MAX_VOCABULARY} tokens; got {vocabulary}")
    held = bool(flags & FLAG_TRUNCATED)
    fitting = (v for v in VARIANTS if v.logits == logits and v.vocabulary >= vocabulary and bool(v.held) == held)
    return min(fitting, key=lambda variant: variant.vocabulary)


def programs_for(rows: int, variant: Variant, multiprocessors: int) -> int:
    """Number of programs to launch in a one-dimensional grid.

    It fills the device with 32 warps per multiprocessor, but never exceeds the number of row groups. Any number from 1
    up is correct, because every program loops over rows.
    """
    return max(1, min(-(-rows // variant.rows), multiprocessors * max(1, 32 // variant.num_warps)))


def describe_error(bits: int) -> str:
    """The reference's message for a kernel's error bits of a row, without numbers, which need the logits."""
    what = "guided logits" if bits & ERROR_GUIDED else "logits"
    if bits & ERROR_NAN:
        return f"{what} contain NaN; no token can be drawn"
    if bits & ERROR_INFINITE:
        return f"{what} contain +inf; no token can be drawn"
    if bits & ERROR_FORBIDDEN:
        return f"{what} are all -inf; no token can be drawn"
    if bits & ERROR_RANGE:
        return (
            "the greatest logit over temperature must lie within +-16384; "
            "raise the temperature or subtract each row's maximum"
        )
    return f"the kernel reports {bits:#x}, which means nothing; it was given addresses of other data"
