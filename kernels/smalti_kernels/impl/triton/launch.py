"""`sample(..., impl="triton")`: the Triton kernel on torch tensors of a CUDA device, or interpreted on NumPy arrays.

Under TRITON_INTERPRET=1 (set before the first draw) the same source runs as NumPy operations. This needs no device and
is used to test that both compute the same, but it is far slower than `impl="numpy"`. On a device, all data stays there;
the only wait is for the report of rows without an answer.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalti_kernels.checks import Draw, Request
from smalti_kernels.errors import KernelError, SamplingError
from smalti_kernels.impl.abi import (
    ALIGNMENT,
    ARGUMENTS,
    COMPILE_OPTIONS,
    FLAG_GUIDED,
    FLAG_LOGPROB,
    FLAG_TRUNCATED,
    MAX_VOCABULARY,
    Variant,
    describe_error,
    programs_for,
    variant_for,
)
from smalti_kernels.impl.cuda.draw import host_arrays
from smalti_kernels.impl.reference import explain
from smalti_kernels.spec.tables import packed_tables

# Elements that the interpreter processes at once: many, because each operation costs some microseconds.
_INTERPRETED_ELEMENTS = 1 << 19


def draw(request: Request) -> Draw:
    """Draw with the Triton kernel.

    `request` holds checked arguments: logits and tokens are tensors on one CUDA device or, when Triton interprets,
    NumPy arrays.

    Raises KernelError when Triton is missing or cannot read logits and tokens where they are, SamplingError when there
    are too many tokens for the kernel or a row has no answer (with the reference's message).
    """
    try:
        interprets = bool(importlib.import_module("triton").knobs.runtime.interpret)
    except ImportError:
        raise KernelError(
            'impl="triton" needs Triton, which is not installed',
            'install it (Linux only): pip install "smalti[kernels]"; impl="numpy" runs everywhere',
        ) from None
    if request.logits.shape[1] > MAX_VOCABULARY:
        raise SamplingError(
            f'impl="triton" draws from at most {MAX_VOCABULARY} tokens; got {request.logits.shape[1]}: use impl="numpy"'
        )
    given = [array for array in (request.logits, request.uncond, request.tokens) if array is not None]
    if interprets:
        if not all(isinstance(array, np.ndarray) for array in given):
            raise KernelError(
                "logits and tokens must be NumPy arrays while Triton interprets",
                "unset TRITON_INTERPRET to draw on a device",
            )
        return interpret(request)
    devices = {str(getattr(array, "device", None)) for array in given}
    if len(devices) != 1 or not next(iter(devices)).startswith("cuda"):
        raise KernelError(
            'logits and tokens must be tensors on one CUDA device for impl="triton"',
            'move them there, set TRITON_INTERPRET=1 to interpret the kernel, or choose impl="numpy"',
        )
    return _on_device(request)


def interpret(request: Request, variant: Variant | None = None, programs: int = 1) -> Draw:
    """Interpret the kernel on a request of NumPy arrays.

    Args:
        request: checked arguments.
        variant: the shape in which the kernel goes through the rows; the result does not depend on it. None for a fast
            one.
        programs: number of programs that share the rows; the result does not depend on it.
    """
    arrays, shape, flags = host_arrays(request)
    if variant is None:
        held = 1 << (shape.vocabulary - 1).bit_length() if flags & FLAG_TRUNCATED else 0
        chunk = min(1024, max(ALIGNMENT, 1 << (shape.vocabulary - 1).bit_length()))
        rows = max(1, min(1 << max(0, shape.rows - 1).bit_length(), _INTERPRETED_ELEMENTS // max(chunk, held)))
        variant = Variant(request.kind, MAX_VOCABULARY, rows, chunk, held, 1)
    arrays["tables"] = packed_tables()
    values: dict[str, Any] = {
        "guidance": float(request.guidance),
        "rows": shape.rows,
        "vocabulary": shape.vocabulary,
        "stride": shape.stride,
        "length": shape.length,
        "width": shape.width,
        "flags": flags,
    }
    for argument, kind in zip(ARGUMENTS, variant.types):
        if kind.startswith("*"):
            # Arguments that the flags leave unread can have any address.
            values[argument.name] = _host_pointer(arrays.get(argument.name, arrays["logits"]), kind)
    kernel = importlib.import_module("smalti_kernels.impl.triton.kernel").smalti_sample
    with np.errstate(all="ignore"):
        kernel[(programs,)](**values, **variant.constants)
    _refuse(request, arrays["errors"])
    return Draw(arrays["tokens"], arrays["changed"].view(np.bool_), arrays["logprob"] if request.logprob else None)


def _host_pointer(array: NDArray[Any], kind: str) -> Any:
    """An array's address as a pointer in Triton's interpreter, which otherwise takes only torch tensors."""
    language = importlib.import_module("triton.language")
    interpreter = importlib.import_module("triton.runtime.interpreter")
    pointer = language.str_to_ty(kind, None)
    return language.tensor(interpreter.TensorHandle(np.array([array.ctypes.data], np.uint64), pointer), pointer)


def _refuse(request: Request, errors: NDArray[np.int32]) -> None:
    """Raise SamplingError for the first row that the kernel reports, with the reference's message."""
    broken = np.flatnonzero(errors)
    if not broken.size:
        return
    row = int(broken[0])
    logits, uncond = (None if array is None else _to_host(array[row]) for array in (request.logits, request.uncond))
    assert logits is not None
    reason = explain(request, row, logits, uncond)
    raise SamplingError(reason or f"{request.name(row)}: {describe_error(int(errors[row]))}")


def _to_host(row: Any) -> NDArray[Any]:
    """One row of logits as NumPy; tensors become float32, which holds every type of logits exactly."""
    return np.asarray(row.float().cpu() if hasattr(row, "cpu") else row)


def _on_device(request: Request) -> Draw:
    """Launch on the device and the current stream of the tensors."""
    # Find torch through the tensors, because this package does not depend on it.
    library: Any = sys.modules[type(request.logits).__module__.partition(".")[0]]
    count, length = request.tokens.shape
    rows, vocabulary = request.logits.shape
    flags = (
        (FLAG_GUIDED if request.uncond is not None else 0)
        | (FLAG_TRUNCATED if request.truncated else 0)
        | (FLAG_LOGPROB if request.logprob else 0)
    )
    variant = variant_for(request.kind, vocabulary, flags)
    device = request.logits.device

    def upload(array: NDArray[Any]) -> Any:
        return library.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    def padded(logits: Any) -> Any:
        logits = logits.contiguous()
        if vocabulary % ALIGNMENT or logits.data_ptr() % ALIGNMENT:
            wide = logits.new_full((rows, -(-vocabulary // ALIGNMENT) * ALIGNMENT), float("-inf"))
            wide[:, :vocabulary] = logits
            logits = wide
        return logits.view(library.uint16) if request.kind == "bf16" else logits

    tokens = request.tokens.clone().contiguous()
    logits = padded(request.logits)
    uncond = logits if request.uncond is None else padded(request.uncond)
    changed = library.zeros(rows, dtype=library.int8, device=device)
    logprob = library.zeros(rows if request.logprob else 0, dtype=library.int32, device=device)
    errors = library.zeros(rows, dtype=library.int32, device=device)
    if rows:
        kernel = importlib.import_module("smalti_kernels.impl.triton.kernel").smalti_sample
        with library.cuda.device(device):
            kernel[(programs_for(rows, variant, library.cuda.get_device_properties(device).multi_processor_count),)](
                logits,
                uncond,
                tokens,
                upload(request.sample.astype(np.int32)),
                upload(request.position.astype(np.int32)),
                upload(request.step.astype(np.uint32).view(np.int32)),
                upload(request.seeds.astype("<u8").view(np.int32).reshape(count, 2)),
                upload(request.scale),
                upload(np.stack((request.top_k, request.top_p), axis=1).astype(np.int32)),
                upload(packed_tables().copy()),
                changed,
                logprob,
                errors,
                float(request.guidance),
                rows,
                vocabulary,
                logits.shape[1],
                length,
                request.width,
                flags,
                **variant.constants,
                num_warps=variant.num_warps,
                **COMPILE_OPTIONS,
            )
    _refuse(request, errors.cpu().numpy())
    return Draw(tokens, changed.view(library.bool), logprob if request.logprob else None)
