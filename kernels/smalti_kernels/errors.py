"""The base of smalti's errors, and the errors of this package; `smalti.errors` re-exports all of them.

SmaltiError
├── SamplingError          a draw that has no answer (NaN logits, nothing left to draw from)
├── KernelError            a kernel cannot run or be built here; has a reason and a remedy
│   ├── DriverUnavailable  no NVIDIA driver, one too old, or no device
│   ├── NoMatchingKernel   no prebuilt kernel for this GPU, vocabulary or precision
│   ├── DamagedKernel      a prebuilt kernel that is missing or is not the one that was built
│   └── DriverError        a call of the driver failed: which, with the driver's own name and text for it
└── (the runtime adds its own: see smalti.errors)
"""

from __future__ import annotations


class SmaltiError(Exception):
    """Base of every error that smalti raises on purpose.

    Messages say what was wrong, what is allowed, and what to do about it.
    """


class SamplingError(SmaltiError, ValueError):
    """Logits or arguments from which no token can be drawn."""


class KernelError(SmaltiError, RuntimeError):
    """A kernel cannot run or be built here.

    There is no automatic fallback: the caller picks another implementation.
    """

    reason: str
    """What was wrong."""
    remedy: str
    """What to do about it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(f"{reason}; {remedy}" if remedy else reason)
        self.reason = reason
        self.remedy = remedy


class DriverUnavailable(KernelError):
    """No NVIDIA driver, one too old, or no device."""


class NoMatchingKernel(KernelError):
    """No prebuilt kernel for this GPU, vocabulary or precision."""


class DamagedKernel(KernelError):
    """A prebuilt kernel that is missing, or is not the one that was built."""


class DriverError(KernelError):
    """A call of the CUDA driver failed."""

    call: str
    """The driver's function, such as `cuLaunchKernel`."""
    code: int
    """Its CUresult."""
    name: str
    """The driver's name of that result, such as `CUDA_ERROR_INVALID_VALUE`."""

    def __init__(self, reason: str, remedy: str = "", *, call: str = "", code: int = -1, name: str = "") -> None:
        super().__init__(reason, remedy)
        self.call = call
        self.code = code
        self.name = name
