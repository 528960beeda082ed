"""The sampling specification of smalti: noise that is a pure function of its coordinates, and the draw built on it.

`sample` draws tokens; `random_words` gives raw noise of the same kind, for starts, orders and subsets. Equal logits
give equal tokens, bit for bit, in every implementation; `smalti_kernels.impl.reference` is the definition. Logits
that lie on a GPU already are drawn from there: as `DeviceLogits` by `sample`, or with everything else on the device,
too, by `smalti_kernels.impl.cuda.launch`.
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
