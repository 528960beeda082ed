"""The kernel played by the NumPy reference on the stub driver's memory, and requests to draw with it."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

import numpy as np

from smalti_kernels.checks import Request, as_request
from smalti_kernels.impl import abi, reference
from smalti_kernels.impl.abi import ARGUMENTS, FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED
from smalti_kernels.spec import tables

TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


def unpack(arguments: bytes) -> dict[str, int | float]:
    """The kernel's view of its arguments: every one at the next multiple of its size, two NULL pointers at the end."""
    values: dict[str, int | float] = {}
    at = 0
    for name, kind in [*((a.name, a.type) for a in ARGUMENTS), ("scratch", "*"), ("profile", "*")]:
        form, size = ("<Q", 8) if kind[0] == "*" else ("<f", 4) if kind == "fp32" else ("<i", 4)
        at = -(-at // size) * size
        (values[name],) = struct.unpack_from(form, arguments, at)
        at += size
    assert at == len(arguments)
    assert values.pop("scratch") == values.pop("profile") == 0
    return values


def memory(address: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    """An array on the stub's device, to read and to write."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_ubyte * size).from_address(address), dtype).reshape(shape)


def reference_kernel(stub) -> Callable[[bytes, int, int], int]:
    """What the stub's `on_launch` takes to draw with the reference; the type of logits is the loaded module's."""

    def run(arguments: bytes, grid: int, threads: int) -> int:
        # The image is the text that `kernel_files.image_of` gives: image of fp32_v256 for sm_80.
        draw_in_place(arguments, stub.image.decode().split()[2].partition("_")[0])
        return 0

    return run


def draw_in_place(arguments: bytes, kind: str) -> None:
    """What the kernel does, by the reference: nothing is known here but the arguments and the variant's type."""
    a = unpack(arguments)
    rows, flags = a["rows"], a["flags"]
    sample = memory(a["sample"], (rows,), np.int32)
    count = int(sample.max()) + 1
    logits, uncond = (
        memory(a[name], (rows, a["stride"]), TYPES[kind])[:, : a["vocabulary"]] for name in ("logits", "uncond")
    )
    edge = -(-a["vocabulary"] // 16) * 16
    beyond = reference.widened(memory(a["logits"], (rows, a["stride"]), TYPES[kind])[:, a["vocabulary"] : edge])
    assert np.all(beyond == -np.inf)
    keep = memory(a["keep"], (count, 2), np.int32).astype(np.int64)
    assert np.array_equal(memory(a["tables"], (tables.TABLE_WORDS,), np.int32), tables.packed_tables())
    tokens = memory(a["tokens"], (count, a["length"]), np.int32)
    request = Request(
        logits=logits.copy(),
        uncond=uncond.copy() if flags & FLAG_GUIDED else None,
        kind=kind,
        guidance=np.float32(a["guidance"]),
        tokens=tokens.copy(),
        sample=sample.astype(np.int64),
        position=memory(a["position"], (rows,), np.int32).astype(np.int64),
        step=memory(a["step"], (rows,), np.uint32).astype(np.uint64),
        seeds=memory(a["seeds"], (count,), np.uint64).copy(),
        scale=memory(a["scale"], (count,), np.float32).copy(),
        top_k=keep[:, 0] if flags & FLAG_TRUNCATED else np.zeros(count, np.int64),
        top_p=keep[:, 1] if flags & FLAG_TRUNCATED else np.full(count, 65536, np.int64),
        width=a["width"],
        logprob=bool(flags & FLAG_LOGPROB),
        threads=1,
    )
    errors = memory(a["errors"], (rows,), np.int32)
    errors[:] = 0
    for row in range(rows):
        if reference.explain(request, row, logits[row], uncond[row] if flags & FLAG_GUIDED else None):
            errors[row] = abi.ERROR_NAN
    if errors.any():
        return
    drawn = reference.draw(request)
    tokens[:] = drawn.tokens
    memory(a["changed"], (rows,), np.int8)[:] = drawn.changed
    if flags & FLAG_LOGPROB:
        memory(a["logprob"], (rows,), np.int32)[:] = drawn.logprob


def request_of(seed: int = 0, vocabulary: int = 70, rows: int = 30, dtype=np.float32, **changes) -> Request:
    """A checked draw at `rows` of 36 positions of three grids; `changes` replace arguments of `sample`."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, vocabulary)) * 3).astype(dtype)
    order = rng.permutation(36)[:rows]
    arguments = {
        "sample": order // 12,
        "position": order % 12,
        "seeds": [5, 2**63 + 1, 2**40],
        "step": rng.integers(0, 2**32, rows),
        "width": 4,
        "temperature": [0.7, 1.0, 2.0],
        "uncond": None,
        "guidance": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "logprob": False,
        "threads": 1,
    }
    tokens = rng.integers(0, vocabulary, (3, 12)).astype(np.int32)
    return as_request(changes.pop("logits", logits), tokens, **(arguments | changes))
