"""Launch the prebuilt kernels on device memory: this GPU's cubin, in the caller's context, on the caller's stream.

Pointers and streams are raw integers, so they can come from ONNX Runtime (`OrtValue.data_ptr()`, the session's
`user_compute_stream`) or any other library. A launch copies nothing and does not wait:

    kernels = load_kernels(0)
    pointers = Pointers(logits=logits.data_ptr(), tokens=tokens.data_ptr(), ...)
    kernels.draw(pointers, Shape("fp16", rows=64, vocabulary=1000, stride=1008, length=256, width=16), stream=stream)

`load_kernels(0)` uses the primary context of device 0, as ONNX Runtime, torch and all programs of the CUDA runtime do.
When only the logits are on the device, use `sample(DeviceLogits(...), ..., impl="cuda")`.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from smalti_kernels.errors import NoMatchingKernel, SamplingError
from smalti_kernels.impl.abi import (
    ALIGNMENT,
    ARGUMENTS,
    FLAG_GUIDED,
    FLAG_LOGPROB,
    FLAG_TRUNCATED,
    Variant,
    programs_for,
    variant_for,
)
from smalti_kernels.impl.cuda.driver import Device, Driver, driver
from smalti_kernels.impl.cuda.modules import Modules, packed

_OPTIONAL: Final = {"uncond": FLAG_GUIDED, "keep": FLAG_TRUNCATED, "logprob": FLAG_LOGPROB}
_FLOAT32_MAX: Final = (2 - 2**-23) * 2.0**127


class Pointers(NamedTuple):
    """Device addresses, all in one context; shapes, dtypes and meanings are those of `abi.ARGUMENTS`."""

    logits: int
    """[rows, stride], at an address divisible by 16; -inf from the vocabulary up to the next multiple of 16."""
    tokens: int
    """int32 [N, length], changed in place."""
    sample: int
    """int32 [rows]."""
    position: int
    """int32 [rows]. A repeated (sample, position) keeps either token; the kernel cannot detect it."""
    step: int
    """int32 [rows], the bits of a uint32."""
    seeds: int
    """int32 [N, 2], low and high words."""
    scale: int
    """float32 [N]."""
    changed: int
    """int8 [rows], written."""
    errors: int
    """int32 [rows], written: 0, or bits of an error (`abi.describe_error`). Check them before using the tokens."""
    uncond: int = 0
    """Like logits; needed with FLAG_GUIDED."""
    keep: int = 0
    """int32 [N, 2]; needed with FLAG_TRUNCATED."""
    logprob: int = 0
    """int32 [rows], written; needed with FLAG_LOGPROB."""


class Shape(NamedTuple):
    """Sizes of the arrays that the pointers refer to."""

    logits: str
    """Type of the logits, one of `abi.LOGITS`."""
    rows: int
    vocabulary: int
    stride: int
    """Elements from one row of logits to the next, a multiple of 16."""
    length: int
    """Positions of a grid."""
    width: int
    """Columns of a grid."""


class Kernels(Modules):
    """The draw, launched on device memory, and what `Modules` has."""

    def prepare(self, variant: Variant) -> None:
        """Load a variant before its first launch, for example for a launch inside a CUDA graph.

        Raises DamagedKernel when its file is missing or is not the one that was built, DriverError when the driver does
        not load it.
        """
        with self.driver.entered(self.context):
            self.load(variant.name)

    def draw(self, pointers: Pointers, shape: Shape, *, guidance: float = 1.0, flags: int = 0, stream: int = 0) -> None:
        """Queue a draw of one token for every row and return at once.

        The draw is that of `impl.reference`. Arguments must satisfy the checks of `sample`: arguments on a device are
        not checked.

        Args:
            pointers: device addresses.
            shape: sizes of the arrays; with 0 rows nothing is launched.
            guidance: weight of guidance; read with FLAG_GUIDED.
            flags: bits of `abi`, such as `FLAG_GUIDED`.
            stream: raw handle; 0 is the default stream.

        Raises SamplingError when a shape or address is invalid; NoMatchingKernel when no variant reads this type of
        logits or holds that many tokens; DamagedKernel when the kernel's file is missing or is not the one that was
        built; DriverError when the driver does not load or launch it, or reports an error of earlier work on the
        device.
        """
        variant = _check(pointers, shape, guidance, flags)
        if shape.rows == 0:
            return
        with self.driver.entered(self.context):
            loaded = self.load(variant.name)
            arguments = pack_arguments(pointers, shape, guidance=guidance, flags=flags, tables=self.tables)
            programs = programs_for(shape.rows, variant, self.device.multiprocessors)
            self.queue(loaded, programs, arguments, stream)


def _check(pointers: Pointers, shape: Shape, guidance: float, flags: int) -> Variant:
    """Validate the arguments of a launch and return the variant that fits."""
    try:
        variant = variant_for(shape.logits, shape.vocabulary, flags)
    except ValueError as error:
        raise NoMatchingKernel(str(error), 'draw with impl="numpy"') from None
    if not 0 <= shape.rows < 1 << 31:
        raise SamplingError(f"rows must be from 0 to 2^31 - 1; got {shape.rows}")
    if shape.stride < shape.vocabulary or shape.stride % ALIGNMENT or shape.stride >= 1 << 31:
        raise SamplingError(
            f"the stride of logits must be a multiple of {ALIGNMENT} elements and at least the vocabulary's "
            f"{shape.vocabulary}; got {shape.stride}: pad the rows"
        )
    if shape.width < 1 or shape.length < 1 or shape.length % shape.width or shape.length >= 1 << 31:
        raise SamplingError(
            f"width must be at least 1 and divide the grid's {shape.length} positions; got {shape.width}"
        )
    if flags & FLAG_GUIDED and not abs(guidance) <= _FLOAT32_MAX:
        raise SamplingError(f"guidance must be finite in float32; got {guidance}")
    unread = {name for name, flag in _OPTIONAL.items() if not flags & flag}
    for name, address in pointers._asdict().items():
        if shape.rows and not address and name not in unread:
            raise SamplingError(f"{name} must be a device address; got 0")
    for name in ("logits", "uncond"):
        address = int(getattr(pointers, name))
        if address % ALIGNMENT:
            raise SamplingError(f"{name} must lie at an address divisible by {ALIGNMENT}; got {address:#x}")
    return variant


def pack_arguments(pointers: Pointers, shape: Shape, *, guidance: float, flags: int, tables: int) -> bytes:
    """The kernel's arguments as the driver takes them, in the order of `abi.ARGUMENTS`.

    Addresses that the flags leave unread are replaced by valid ones, because a kernel may load before it selects.
    """
    values: dict[str, int | float] = {
        **pointers._asdict(),
        **shape._asdict(),
        "logits": pointers.logits,
        "uncond": pointers.uncond if flags & FLAG_GUIDED else pointers.logits,
        "keep": pointers.keep if flags & FLAG_TRUNCATED else pointers.seeds,
        "logprob": pointers.logprob if flags & FLAG_LOGPROB else pointers.errors,
        "tables": tables,
        "guidance": guidance if flags & FLAG_GUIDED else 1.0,
        "flags": flags,
    }
    return packed(ARGUMENTS, values)


_kernels: dict[tuple[Driver, int], Kernels] = {}
_primary: dict[tuple[Driver, int], int] = {}
_lock: Final = threading.Lock()


def load_kernels(device: int | None = None, *, using: Driver | None = None) -> Kernels:
    """The kernels of a device's primary context, or of the calling thread's current context.

    Args:
        device: ordinal of a device. None: the calling thread's current context or, if it has none, device 0.
        using: another driver than the machine's own.

    Raises DriverUnavailable when there is no driver or no such device, NoMatchingKernel when nothing was built that the
    device runs, DriverError when the driver refuses its context.
    """
    chosen = using or driver()
    with _lock:
        context = chosen.current_context() if device is None else 0
        described: Device | None = None
        if not context:
            ordinal = device or 0
            described = chosen.device(ordinal)
            context = _primary.get((chosen, ordinal)) or chosen.primary_context(ordinal)
            _primary[chosen, ordinal] = context
        key = (chosen, chosen.context_id(context))
        found = _kernels.get(key)
        if found is None:
            found = _kernels[key] = Kernels(chosen, context, described or chosen.context_device())
    return found
