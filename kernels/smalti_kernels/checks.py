"""Check the arguments of a draw, once for all implementations."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smalti_kernels.errors import SamplingError
from smalti_kernels.platform import usable_cores
from smalti_kernels.spec.noise import FRACTION_BITS, Seeds, as_seeds, as_words
from smalti_kernels.spec.truncation import P_ONE

LOGITS_KINDS: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""Allowed dtypes of logits, and their names in kernels."""


class DeviceTensor(Protocol):
    """Interface required of a tensor that is not a NumPy array; torch tensors have it."""

    @property
    def shape(self) -> Any:
        """Sizes of its dimensions."""
        ...

    @property
    def dtype(self) -> Any:
        """Its element type, whose str ends in NumPy's name for it."""
        ...

    def data_ptr(self) -> int:
        """Address of its first element."""
        ...


Array: TypeAlias = "NDArray[Any] | DeviceTensor"
"""A NumPy array, or a tensor on a device for the implementations that take one."""


class DeviceLogits(NamedTuple):
    """Logits in GPU memory, such as an output of ONNX Runtime, which `impl="cuda"` reads in place.

    The draw runs after all earlier work on their stream, in the primary context of their device, which ONNX Runtime,
    torch and all programs of the CUDA runtime share. The memory must stay valid until the draw returns.
    """

    address: int
    """Address of the first element, divisible by 16: `OrtValue.data_ptr()`."""
    shape: tuple[int, int]
    """[R, V]."""
    dtype: str
    """float32, float16 or bfloat16."""
    stride: int
    """Elements from one row to the next: a multiple of 16, at least V. Elements from V to the next multiple of 16 must
    be -inf."""
    stream: int = 0
    """Raw handle of the stream that writes them, such as `user_compute_stream`; 0 is the default stream."""
    device: int = 0
    """Ordinal of their device."""

    def data_ptr(self) -> int:
        """Address of the first element."""
        return self.address


class Draw(NamedTuple):
    """Result of `sample`; tensors where `tokens` was a tensor."""

    tokens: NDArray[np.int32]
    """int32 [N, L]: the given grids with the drawn tokens in place."""
    changed: NDArray[np.bool_]
    """bool [R]: whether the drawn token differs from the one it replaces."""
    logprob: NDArray[np.int32] | None
    """int32 [R] in units of 2^-16 nats, the log-softmax of the drawn token before truncation; None unless asked for."""


class Request(NamedTuple):
    """Checked arguments of a draw, in one form."""

    logits: Any
    """float32 or float16 [R, V]; bfloat16 as uint16 bits in a NumPy array; a tensor; or `DeviceLogits`."""
    uncond: Any
    """Like `logits`, or None."""
    kind: str
    """Type of the logits: fp32, fp16 or bf16."""
    guidance: np.float32
    tokens: Any
    """int32 [N, L]."""
    sample: NDArray[np.int64]
    """[R], 0 .. N - 1."""
    position: NDArray[np.int64]
    """[R], 0 .. L - 1; every (sample, position) at most once."""
    step: NDArray[np.uint64]
    """[R], 0 .. 2^32 - 1."""
    seeds: NDArray[np.uint64]
    """[N]."""
    scale: NDArray[np.float32]
    """[N]: 65536 / temperature."""
    top_k: NDArray[np.int64]
    """[N], 0 where off."""
    top_p: NDArray[np.int64]
    """[N] in units of 2^-16, 1 .. P_ONE; P_ONE where off."""
    width: int
    logprob: bool
    threads: int

    @property
    def truncated(self) -> bool:
        """Whether any grid has a top-k or a top-p."""
        return bool(np.any(self.top_k > 0) or np.any(self.top_p < P_ONE))

    def name(self, row: int) -> str:
        """The row's coordinates as text, for messages."""
        return f"row {row} (sample {self.sample[row]}, position {self.position[row]}, step {self.step[row]})"


def as_request(
    logits: Array,
    tokens: Array,
    *,
    sample: ArrayLike,
    position: ArrayLike,
    seeds: Seeds,
    step: ArrayLike,
    width: int,
    temperature: ArrayLike,
    uncond: Array | None,
    guidance: float,
    top_k: ArrayLike,
    top_p: ArrayLike,
    logprob: bool,
    threads: int | None,
) -> Request:
    """Check the arguments of `smalti_kernels.sample` and bring them to one form.

    Raises SamplingError when an argument has the wrong dtype, shape or range; the message names it and what is allowed.
    """
    kind = _check_logits("logits", logits)
    if _name(tokens) != "int32" or len(tokens.shape) != 2:
        raise SamplingError(f"tokens must be int32 [N, L]; got {_name(tokens)} {list(tokens.shape)}")
    if uncond is not None:
        _check_logits("uncond", uncond)
        if tuple(uncond.shape) != tuple(logits.shape) or _name(uncond) != _name(logits):
            raise SamplingError(
                f"uncond must be {_name(logits)} {list(logits.shape)} like logits; "
                f"got {_name(uncond)} {list(uncond.shape)}"
            )
        if not abs(guidance) <= float(np.finfo(np.float32).max):
            raise SamplingError(f"guidance must be finite in float32; got {guidance}")
    count, length = int(tokens.shape[0]), int(tokens.shape[1])
    if width < 1 or length % width:
        raise SamplingError(f"width must be at least 1 and divide the grid's {length} positions; got {width}")
    words = as_seeds(seeds)
    if words.shape != (count,):
        raise SamplingError(f"seeds must be [{count}], one for each grid; got shape {list(words.shape)}")
    if threads is not None and threads < 1:
        raise SamplingError(f"threads must be at least 1, or None for every core; got {threads}")

    rows = int(logits.shape[0])
    samples, positions = _places(rows, count, length, sample, position)
    steps = as_words("step", step)
    if steps.shape not in ((), (rows,)):
        raise SamplingError(f"step must be one integer or [{rows}], one for each row; got shape {list(steps.shape)}")
    return Request(
        logits=_bits(logits),
        uncond=None if uncond is None else _bits(uncond),
        kind=kind,
        guidance=np.float32(1.0 if uncond is None else guidance),
        tokens=tokens,
        sample=samples,
        position=positions,
        step=np.broadcast_to(steps, (rows,)),
        seeds=words,
        scale=_for_each(_scales, temperature, count),
        top_k=_for_each(_top_k, top_k, count),
        top_p=_for_each(_top_p, top_p, count),
        width=int(width),
        logprob=bool(logprob),
        threads=usable_cores() if threads is None else int(threads),
    )


def _for_each(check: Callable[[Any, int], NDArray[Any]], value: ArrayLike, count: int) -> NDArray[Any]:
    """Check one number for all grids, or one for each. One number is the same at every step, and is checked once."""
    if type(value) in (int, float):
        return np.full(count, _known(check, value))
    return check(value, count)


@lru_cache(maxsize=256, typed=True)
def _known(check: Callable[[Any, int], NDArray[Any]], value: Any) -> Any:
    return check(value, 1)[0]


def _name(array: Array) -> str:
    """The dtype's name as in NumPy; torch puts its own name in front."""
    return array.dtype.name if isinstance(array, np.ndarray) else str(array.dtype).rpartition(".")[2]


def _bits(logits: Array) -> Any:
    """bfloat16 as uint16 bits, because NumPy has no bfloat16; other logits unchanged."""
    return logits.view(np.uint16) if isinstance(logits, np.ndarray) and _name(logits) == "bfloat16" else logits


def _check_logits(name: str, logits: Array) -> str:
    kind = LOGITS_KINDS.get(_name(logits))
    if kind is None or len(logits.shape) != 2 or logits.shape[1] < 1:
        raise SamplingError(
            f"{name} must be float32, float16 or bfloat16 [R, V] with V >= 1; got {_name(logits)} {list(logits.shape)}"
        )
    return kind


def _places(
    rows: int, count: int, length: int, sample: ArrayLike, position: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    samples = _row_indices("sample", sample, rows, count)
    positions = _row_indices("position", position, rows, length)
    places = samples * length + positions
    ordered = np.sort(places)
    if bool((ordered[1:] == ordered[:-1]).any()):
        again = int(np.setdiff1d(np.arange(rows), np.unique(places, return_index=True)[1])[0])
        raise SamplingError(
            f"each (sample, position) may be drawn once per call; sample {samples[again]}, position {positions[again]} "
            f"comes again in row {again}"
        )
    return samples, positions


def _row_indices(name: str, values: ArrayLike, rows: int, limit: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.shape != (rows,) or (rows and array.dtype.kind not in "iu"):
        raise SamplingError(
            f"{name} must be integers [{rows}], one for each row; got {array.dtype} {list(array.shape)}"
        )
    if rows and not (int(array.min()) >= 0 and int(array.max()) < limit):
        raise SamplingError(f"{name} must be from 0 to {limit - 1}; got {int(array.min())} .. {int(array.max())}")
    return array.astype(np.int64)


def _per_grid(name: str, values: ArrayLike, count: int) -> NDArray[Any]:
    given = np.asarray(values)
    if given.shape not in ((), (count,)):
        raise SamplingError(f"{name} must be one number or [{count}], one for each grid; got {list(given.shape)}")
    return given


def _scales(temperature: ArrayLike, count: int) -> NDArray[np.float32]:
    given = _per_grid("temperature", np.asarray(temperature, dtype=np.float64), count)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        degrees = given.astype(np.float32)
        scale = np.float32(1 << FRACTION_BITS) / degrees
    allowed = np.isfinite(degrees) & (degrees > 0) & np.isfinite(scale)
    if not bool(np.all(allowed)):
        worst = float(given[~allowed].flat[0])
        raise SamplingError(f"temperature must be finite and greater than 0 (as float32, 1e-33 or more); got {worst}")
    return np.broadcast_to(scale, (count,)).astype(np.float32)


def _top_k(top_k: ArrayLike, count: int) -> NDArray[np.int64]:
    given = _per_grid("top_k", top_k, count)
    if given.dtype.kind not in "iu" and given.size:
        raise SamplingError(f"top_k must be integers, 0 to keep every token; got {given.dtype}")
    if given.size and int(given.min()) < 0:
        raise SamplingError(f"top_k must be 0 (keep every token) or more; got {int(given.min())}")
    # 2^30 is more than any vocabulary, so it keeps every token, and it fits the kernel's int32.
    return np.broadcast_to(np.minimum(given, 1 << 30), (count,)).astype(np.int64)


def _top_p(top_p: ArrayLike, count: int) -> NDArray[np.int64]:
    given = _per_grid("top_p", np.asarray(top_p, dtype=np.float64), count)
    allowed = (given > 0) & (given <= 1)
    if not bool(np.all(allowed)):
        worst = float(given[~allowed].flat[0])
        raise SamplingError(f"top_p must be greater than 0 and at most 1 (keep every token); got {worst}")
    return np.broadcast_to(np.maximum(np.rint(given * P_ONE), 1), (count,)).astype(np.int64)
