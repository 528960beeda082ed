"""The sampling specification of smalti: noise as a pure function of its coordinates, and the draw that uses it.

`sample` draws tokens; `random_words` gives raw noise of the same kind for starts, orders and subsets. In every
implementation, equal logits give equal tokens, bit for bit; `smalti_kernels.impl.reference` is the definition. Logits
on a GPU are drawn from without a copy: pass them to `sample` as `DeviceLogits`, or use
`smalti_kernels.impl.cuda.launch` when all other data is on the device too.
"""

from smalti_kernels.api import sample
from smalti_kernels.checks import DeviceLogits, Draw
from smalti_kernels.errors import (
    DamagedKernel,
    DriverError,
    DriverUnavailable,
    KernelError,
    NoMatchingKernel,
    SamplingError,
    SmaltiError,
)
from smalti_kernels.spec.noise import STREAM_DRAW, STREAM_LABEL, STREAM_ORDER, STREAM_START, STREAM_SUBSET, random_words

__all__ = [
    "STREAM_DRAW",
    "STREAM_LABEL",
    "STREAM_ORDER",
    "STREAM_START",
    "STREAM_SUBSET",
    "DamagedKernel",
    "DeviceLogits",
    "Draw",
    "DriverError",
    "DriverUnavailable",
    "KernelError",
    "NoMatchingKernel",
    "SamplingError",
    "SmaltiError",
    "random_words",
    "sample",
]
