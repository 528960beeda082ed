"""`sample(..., impl="cuda")`: NumPy arrays in, the prebuilt kernel, NumPy arrays out.

The plain path: allocate, copy, launch, copy back, wait. A loop that keeps its data on the device uses `launch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.abi import ALIGNMENT, FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED
from smalti_kernels.checks import Draw, Request
from smalti_kernels.errors import SamplingError
from smalti_kernels.launch import Kernels, Pointers, Shape, describe_error, load_kernels
from smalti_kernels.reference import explain

_OUTPUTS: Final = ("tokens", "changed", "errors", "logprob")
# What cuMemAlloc aligns to; every array starts on such a boundary of one allocation.
_BOUNDARY: Final = 256


def draw(request: Request, kernels: Kernels | None = None) -> Draw:
    """Draw on a GPU: in the calling thread's CUDA context, or on device 0 where it has none.

    Args:
        request: checked arguments whose logits and tokens are NumPy arrays.
        kernels: draw in another context.

    Raises:
        SamplingError: a tensor instead of a NumPy array, or a row with no answer, in the reference's words.
        DriverUnavailable: there is no driver or no device.
        NoMatchingKernel: nothing was built for this device or for that many tokens.
        DriverError: the driver refuses something; out of memory, for one.
    """
    for name in ("logits", "uncond", "tokens"):
        given = getattr(request, name)
        if given is not None and not isinstance(given, np.ndarray):
            raise SamplingError(
                f'{name} must be a NumPy array for impl="cuda"; got {type(given).__name__}: '
                "use smalti_kernels.launch for data on a device"
            )
    kernels = load_kernels() if kernels is None else kernels
    arrays, shape, flags = host_arrays(request)
    if shape.rows:
        _run(kernels, arrays, shape, float(request.guidance), flags)
    broken = np.flatnonzero(arrays["errors"])
    if broken.size:
        row = int(broken[0])
        reason = explain(request, row, request.logits[row], None if request.uncond is None else request.uncond[row])
        raise SamplingError(reason or f"{request.name(row)}: {describe_error(int(arrays['errors'][row]))}")
    return Draw(arrays["tokens"], arrays["changed"].view(np.bool_), arrays["logprob"] if request.logprob else None)


def host_arrays(request: Request) -> tuple[dict[str, NDArray[Any]], Shape, int]:
    """The kernel's arrays in host memory, by the names of `launch.Pointers`, with their shape and flags.

    Arrays that the flags leave unread are absent. What is written is new; the request's own arrays stay as they are.
    """
    rows, vocabulary = request.logits.shape
    count, length = request.tokens.shape
    flags = (
        (FLAG_GUIDED if request.uncond is not None else 0)
        | (FLAG_TRUNCATED if request.truncated else 0)
        | (FLAG_LOGPROB if request.logprob else 0)
    )
    arrays: dict[str, NDArray[Any]] = {
        "logits": padded(request.logits),
        "tokens": np.array(request.tokens, np.int32, order="C"),
        "sample": request.sample.astype(np.int32),
        "position": request.position.astype(np.int32),
        "step": request.step.astype(np.uint32).view(np.int32),
        "seeds": np.ascontiguousarray(request.seeds, "<u8").view(np.int32).reshape(count, 2),
        "scale": np.ascontiguousarray(request.scale, np.float32),
        "changed": np.zeros(rows, np.int8),
        "errors": np.zeros(rows, np.int32),
    }
    if request.uncond is not None:
        arrays["uncond"] = padded(request.uncond)
    if flags & FLAG_TRUNCATED:
        arrays["keep"] = np.stack((request.top_k, request.top_p), axis=1).astype(np.int32)
    if flags & FLAG_LOGPROB:
        arrays["logprob"] = np.zeros(rows, np.int32)
    return arrays, Shape(request.kind, rows, vocabulary, arrays["logits"].shape[1], length, request.width), flags


def padded(logits: NDArray[Any]) -> NDArray[Any]:
    """Rows whose length is a multiple of 16, filled up with -inf, contiguous; a copy only where it must be one."""
    rows, vocabulary = logits.shape
    stride = -(-vocabulary // ALIGNMENT) * ALIGNMENT
    if stride == vocabulary:
        return np.ascontiguousarray(logits)
    # The kernel reads whole groups of 16: what rounds up the last must be -inf (as bits for bfloat16).
    wide = np.full((rows, stride), 0xFF80 if logits.dtype == np.uint16 else -np.inf, logits.dtype)
    wide[:, :vocabulary] = logits
    return wide


def _run(kernels: Kernels, arrays: Mapping[str, NDArray[Any]], shape: Shape, guidance: float, flags: int) -> None:
    """Copy to the device, launch, copy back, wait: all on a stream of its own, so that threads do not wait in turn."""
    driver = kernels.driver
    offsets: dict[str, int] = {}
    size = 0
    for name, array in arrays.items():
        offsets[name] = size
        size += -(-array.nbytes // _BOUNDARY) * _BOUNDARY
    with driver.entered(kernels.context), driver.allocated(size) as memory, driver.new_stream() as stream:
        for name, array in arrays.items():
            driver.upload(memory + offsets[name], array.ctypes.data, array.nbytes, stream)
        pointers = Pointers(**{name: memory + offset for name, offset in offsets.items()})
        kernels.draw(pointers, shape, guidance=guidance, flags=flags, stream=stream)
        for name in _OUTPUTS:
            if name in arrays:
                array = arrays[name]
                driver.download(array.ctypes.data, memory + offsets[name], array.nbytes, stream)
        driver.synchronize(stream)
