"""`sample(..., impl="cuda")`: draw from NumPy arrays, or from logits on a GPU, with the prebuilt kernel.

Each draw allocates, copies, launches, copies back and waits. A loop whose data is all on the device uses `launch`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.checks import DeviceLogits, Draw, Request
from smalti_kernels.errors import SamplingError
from smalti_kernels.impl.abi import ALIGNMENT, FLAG_GUIDED, FLAG_LOGPROB, FLAG_TRUNCATED, describe_error
from smalti_kernels.impl.cuda.launch import Kernels, Pointers, Shape, load_kernels
from smalti_kernels.impl.reference import explain

_OUTPUTS: Final = ("tokens", "changed", "errors", "logprob")
# Alignment of cuMemAlloc. All arrays share one allocation, and each starts on such a boundary.
_BOUNDARY: Final = 256
_HOST_TYPES: Final = {"fp32": np.float32, "fp16": np.float16, "bf16": np.uint16}


def draw(request: Request, kernels: Kernels | None = None) -> Draw:
    """Draw on a GPU: on the device of `DeviceLogits`, else in the calling thread's CUDA context, else on device 0.

    Args:
        request: checked arguments: tokens in a NumPy array; logits and uncond in NumPy arrays or as `DeviceLogits`.
        kernels: the kernels of another context to draw in.

    Raises SamplingError when given a tensor, when the stride or address of `DeviceLogits` is invalid, or when a row has
    no answer (with the reference's message); DriverUnavailable when there is no driver or device; NoMatchingKernel when
    nothing was built for this device or that many tokens; DriverError when the driver fails, for example out of memory.
    """
    _check_places(request)
    there: DeviceLogits | None = request.logits if isinstance(request.logits, DeviceLogits) else None
    if kernels is None:
        kernels = load_kernels(None if there is None else there.device)
    arrays, shape, flags = host_arrays(request)
    if shape.rows:
        _run(kernels, request, arrays, shape, flags)
    broken = np.flatnonzero(arrays["errors"])
    if broken.size:
        row = int(broken[0])
        logits, uncond = _host_row(kernels, request, "logits", row), _host_row(kernels, request, "uncond", row)
        assert logits is not None
        reason = explain(request, row, logits, uncond)
        raise SamplingError(reason or f"{request.name(row)}: {describe_error(int(arrays['errors'][row]))}")
    return Draw(arrays["tokens"], arrays["changed"].view(np.bool_), arrays["logprob"] if request.logprob else None)


def _check_places(request: Request) -> None:
    """Raise SamplingError for arrays that are not where this implementation can read them."""
    if not isinstance(request.tokens, np.ndarray):
        raise SamplingError(
            f'tokens must be a NumPy array for impl="cuda"; got {type(request.tokens).__name__}: '
            "use smalti_kernels.impl.cuda.launch for tokens on a device"
        )
    for name in ("logits", "uncond"):
        given = getattr(request, name)
        if given is not None and not isinstance(given, (np.ndarray, DeviceLogits)):
            raise SamplingError(
                f'{name} must be a NumPy array or DeviceLogits for impl="cuda"; got {type(given).__name__}: '
                "DeviceLogits describes data on a device"
            )
    if request.uncond is not None:
        places = {
            (array.stride, array.stream, array.device) if isinstance(array, DeviceLogits) else "host"
            for array in (request.logits, request.uncond)
        }
        if len(places) > 1:
            raise SamplingError(
                "logits and uncond must lie in the same place: both in NumPy arrays, or both on one device with one "
                f"stride and one stream; got {' and '.join(map(str, places))}"
            )


def host_arrays(request: Request) -> tuple[dict[str, NDArray[Any]], Shape, int]:
    """The kernel's arrays in host memory, by their names in `launch.Pointers`, with their shape and flags.

    Arrays that the flags leave unread are absent, and so are `DeviceLogits`. Arrays that the kernel writes are new;
    those of the request are not modified.
    """
    rows, vocabulary = request.logits.shape
    count, length = request.tokens.shape
    flags = (
        (FLAG_GUIDED if request.uncond is not None else 0)
        | (FLAG_TRUNCATED if request.truncated else 0)
        | (FLAG_LOGPROB if request.logprob else 0)
    )
    arrays: dict[str, NDArray[Any]] = {
        "tokens": np.array(request.tokens, np.int32, order="C"),
        "sample": request.sample.astype(np.int32),
        "position": request.position.astype(np.int32),
        "step": request.step.astype(np.uint32).view(np.int32),
        "seeds": np.ascontiguousarray(request.seeds, "<u8").view(np.int32).reshape(count, 2),
        "scale": np.ascontiguousarray(request.scale, np.float32),
        "changed": np.zeros(rows, np.int8),
        "errors": np.zeros(rows, np.int32),
    }
    for name in ("logits", "uncond"):
        given = getattr(request, name)
        if isinstance(given, np.ndarray):
            arrays[name] = padded(cast("NDArray[Any]", given))
    stride = request.logits.stride if isinstance(request.logits, DeviceLogits) else arrays["logits"].shape[1]
    if flags & FLAG_TRUNCATED:
        arrays["keep"] = np.stack((request.top_k, request.top_p), axis=1).astype(np.int32)
    if flags & FLAG_LOGPROB:
        arrays["logprob"] = np.zeros(rows, np.int32)
    return arrays, Shape(request.kind, rows, vocabulary, stride, length, request.width), flags


def padded(logits: NDArray[Any]) -> NDArray[Any]:
    """Contiguous rows padded with -inf to a multiple of 16 elements; copied only when necessary."""
    rows, vocabulary = logits.shape
    stride = -(-vocabulary // ALIGNMENT) * ALIGNMENT
    if stride == vocabulary:
        return np.ascontiguousarray(logits)
    # The kernel reads whole groups of 16, so the padding must be -inf (as bits for bfloat16).
    wide = np.full((rows, stride), 0xFF80 if logits.dtype == np.uint16 else -np.inf, logits.dtype)
    wide[:, :vocabulary] = logits
    return wide


def _run(kernels: Kernels, request: Request, arrays: Mapping[str, NDArray[Any]], shape: Shape, flags: int) -> None:
    """Copy to the device, launch, copy back and wait, all on one stream.

    This is the stream of `DeviceLogits`, or a new one, so that threads do not wait for each other.
    """
    driver = kernels.driver
    offsets: dict[str, int] = {}
    size = 0
    for name, array in arrays.items():
        offsets[name] = size
        size += -(-array.nbytes // _BOUNDARY) * _BOUNDARY
    there = {name: given for name in ("logits", "uncond") if isinstance(given := getattr(request, name), DeviceLogits)}
    with contextlib.ExitStack() as stack:
        stack.enter_context(driver.entered(kernels.context))
        memory = stack.enter_context(driver.allocated(size))
        stream = there["logits"].stream if there else stack.enter_context(driver.new_stream())
        for name, array in arrays.items():
            driver.upload(memory + offsets[name], array.ctypes.data, array.nbytes, stream)
        addresses = {name: memory + offset for name, offset in offsets.items()}
        pointers = Pointers(**addresses, **{name: logits.address for name, logits in there.items()})
        kernels.draw(pointers, shape, guidance=float(request.guidance), flags=flags, stream=stream)
        for name in _OUTPUTS:
            if name in arrays:
                array = arrays[name]
                driver.download(array.ctypes.data, memory + offsets[name], array.nbytes, stream)
        driver.synchronize(stream)


def _host_row(kernels: Kernels, request: Request, name: str, row: int) -> NDArray[Any] | None:
    """One row of logits or uncond, [V], as the reference reads it; fetched from the device if it lies there."""
    given = getattr(request, name)
    if not isinstance(given, DeviceLogits):
        return None if given is None else given[row]
    values = np.empty(given.shape[1], _HOST_TYPES[request.kind])
    driver = kernels.driver
    with driver.entered(kernels.context):
        address = given.address + row * given.stride * values.itemsize
        driver.download(values.ctypes.data, address, values.nbytes, given.stream)
        driver.synchronize(given.stream)
    return values
