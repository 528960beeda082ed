"""Launch the small kernels between network and draw: move tokens, widen logits, mix windows, take noise away.

All take device addresses and queue on a stream, as `launch.Kernels.draw` does; their arguments are those of `forms`.
Nothing is launched where there is nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from smalti_kernels.errors import NoMatchingKernel, SamplingError
from smalti_kernels.impl.abi import ALIGNMENT, FLAG_GUIDED
from smalti_kernels.impl.cuda.modules import Modules, packed
from smalti_kernels.impl.forms import MIX, MIXTURE, MOVE, NOTE, WIDEN, Form, posterior_for

_BLOCK: Final = MOVE.constants["BLOCK"]


class Noise(NamedTuple):
    """What a step of multinomial diffusion takes away: see `spec.mixtures.posterior` and `shares`."""

    scale: float
    """float32(65536) / float32(temperature)."""
    signal: int
    noise: int
    favour: int
    top_k: int = 0
    top_p: int = 65536
    """In units of 2^-16."""
    guidance: float = 1.0


def move(
    kernels: Modules, *, source: int, target: int, take: int, put: int, count: int, filler: int = 0, stream: int = 0
) -> None:
    """Put ``count`` elements of an int32 array at places of another: see `forms.MOVE`."""
    values = {"source": source, "target": target, "take": take, "put": put, "count": count, "filler": filler}
    _queue(kernels, MOVE, -(-count // _BLOCK), values, stream)


def widen(
    kernels: Modules, *, logits: int, wide: int, rows: int, vocabulary: int, stride: int, stream: int = 0
) -> None:
    """Copy float32 logits [rows, vocabulary] to rows of ``stride`` elements that -inf fills up."""
    values = {"logits": logits, "wide": wide, "stride": _checked(stride, vocabulary), "vocabulary": vocabulary}
    _queue(kernels, WIDEN, rows, values, stream)


def note(kernels: Modules, *, errors: int, noted: int, rows: int, call: int, stream: int = 0) -> None:
    """Note the first error of a draw in ``noted``, unless there is one already: see `forms.NOTE`."""
    _queue(kernels, NOTE, 1 if rows else 0, {"errors": errors, "noted": noted, "rows": rows, "call": call}, stream)


def mix(
    kernels: Modules,
    *,
    logits: int,
    begin: int,
    entry: int,
    importance: int,
    total: int,
    broken: int,
    rows: int,
    vocabulary: int,
    stride: int,
    fresh: bool,
    stream: int = 0,
) -> None:
    """Add the shares of windows to ``rows`` rows of a canvas: see `forms.MIX`."""
    values = {
        "logits": logits,
        "begin": begin,
        "entry": entry,
        "importance": importance,
        "total": total,
        "broken": broken,
        "stride": _checked(stride, vocabulary),
        "vocabulary": vocabulary,
        "fresh": int(fresh),
    }
    _queue(kernels, MIX, rows, values, stream)


def mixture(
    kernels: Modules, *, total: int, broken: int, logits: int, rows: int, vocabulary: int, stride: int, stream: int = 0
) -> None:
    """Turn sums of shares into logits: see `forms.MIXTURE`."""
    values = {
        "total": total,
        "broken": broken,
        "logits": logits,
        "stride": _checked(stride, vocabulary),
        "vocabulary": vocabulary,
    }
    _queue(kernels, MIXTURE, rows, values, stream)


def posterior(
    kernels: Modules,
    *,
    logits: int,
    uncond: int,
    tokens: int,
    sample: int,
    position: int,
    out: int,
    of: Noise,
    rows: int,
    vocabulary: int,
    stride: int,
    length: int,
    flags: int,
    stream: int = 0,
) -> None:
    """Turn logits into those of a posterior: see `forms.POSTERIORS`. ``out`` is not ``logits``.

    Raises NoMatchingKernel when no form holds that many tokens.
    """
    try:
        form = posterior_for(vocabulary, flags)
    except ValueError as error:
        raise NoMatchingKernel(str(error), "draw on the CPU") from None
    values = {
        "logits": logits,
        "uncond": uncond if flags & FLAG_GUIDED else logits,
        "tokens": tokens,
        "sample": sample,
        "position": position,
        "out": out,
        **of._asdict(),
        "stride": _checked(stride, vocabulary),
        "vocabulary": vocabulary,
        "length": length,
        "flags": flags,
    }
    _queue(kernels, form, rows, values, stream)


def _checked(stride: int, vocabulary: int) -> int:
    if stride < vocabulary or stride % ALIGNMENT:
        raise SamplingError(f"the stride must be a multiple of {ALIGNMENT} and at least {vocabulary}; got {stride}")
    return stride


def _queue(kernels: Modules, form: Form, grid: int, values: Mapping[str, int | float], stream: int) -> None:
    if grid < 1:
        return
    with kernels.driver.entered(kernels.context):
        loaded = kernels.load(form.name)
        kernels.queue(loaded, grid, packed(form.arguments, {"tables": kernels.tables, **values}), stream)
