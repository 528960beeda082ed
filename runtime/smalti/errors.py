"""All errors that smalti raises on purpose, with the exit codes of its command line.

    SmaltiError                      1
    ├── SamplingError                1   a draw that has no answer (from smalti_kernels)
    ├── KernelError                  4   a sampling kernel that cannot run here (from smalti_kernels)
    │   ├── DriverUnavailable        4   no NVIDIA driver, one too old, or no device
    │   ├── NoMatchingKernel         4   no prebuilt kernel for this GPU, vocabulary or precision
    │   ├── DamagedKernel            4   a prebuilt kernel that is missing or is not the one that was built
    │   └── DriverError              4   a call of the driver that failed, such as a launch
    ├── UsageError                   2   an argument outside the allowed values
    ├── BundleError                  3   a bundle that is missing, damaged or not a smalti bundle
    ├── ProviderUnavailable          4   a requested provider that cannot run
    ├── EngineError                  5   an engine that could not be built
    ├── ParityError                  6   an exported variant that does not match its model
    ├── SpeedRegression              7   draws that are slower than a baseline allows
    ├── TrainingError                1   a training whose loss is no longer a number
    ├── MissingExtra                 1   a command whose packages are not installed
    ├── Cancelled                    1   a call that its caller cancelled
    ├── OutOfMemory                  1   work for which there is not enough memory
    └── OutputError                  1   a file that cannot be written

Exit code 130 is an interrupt.
"""

from __future__ import annotations

from smalti_kernels.errors import (
    DamagedKernel,
    DriverError,
    DriverUnavailable,
    KernelError,
    NoMatchingKernel,
    SamplingError,
    SmaltiError,
)


class UsageError(SmaltiError, ValueError):
    """An argument outside the allowed values."""


class BundleError(SmaltiError):
    """A bundle that is missing, damaged, or not a smalti bundle."""


class ProviderUnavailable(SmaltiError):
    """A provider that was requested by name and cannot run here."""


class EngineError(SmaltiError):
    """An engine that could not be built; existing engines are untouched."""


class ParityError(SmaltiError):
    """A variant that does not match the model it was made from."""


class SpeedRegression(SmaltiError):
    """Draws that are slower than a baseline of ``smalti bench`` allows."""


class TrainingError(SmaltiError):
    """A training whose loss is no longer a number; its last good checkpoint is untouched."""


class MissingExtra(SmaltiError, ImportError):
    """A command whose packages are not installed."""


class Cancelled(SmaltiError):
    """A call that its caller cancelled; nothing of it is kept."""


class OutOfMemory(SmaltiError, MemoryError):
    """Work for which there is not enough memory, or more than :class:`smalti.Limits` allow."""


class OutputError(SmaltiError, OSError):
    """A file that cannot be written; an existing file is untouched."""


EXIT_CODES: dict[type[SmaltiError], int] = {
    UsageError: 2,
    BundleError: 3,
    ProviderUnavailable: 4,
    KernelError: 4,
    EngineError: 5,
    ParityError: 6,
    SpeedRegression: 7,
}


_ADVICE = "; for more, load with smalti.Limits"


def exit_code(error: SmaltiError) -> int:
    """Return the exit code of the command line for ``error``; 1 for kinds without a code of their own."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def beyond(limit: str, told: str, kind: type[SmaltiError] = UsageError) -> SmaltiError:
    """Return an error of ``kind`` that also names which of :class:`smalti.Limits` allows more."""
    return kind(f"{told}{_ADVICE}({limit}=...)")


def for_outsiders(told: str) -> str:
    """Return what an error says without advice on limits: a user of a command or a server cannot set them."""
    return told.partition(_ADVICE)[0]


__all__ = [
    "BundleError",
    "Cancelled",
    "DamagedKernel",
    "DriverError",
    "DriverUnavailable",
    "EngineError",
    "KernelError",
    "MissingExtra",
    "NoMatchingKernel",
    "OutOfMemory",
    "OutputError",
    "ParityError",
    "ProviderUnavailable",
    "SamplingError",
    "SmaltiError",
    "SpeedRegression",
    "TrainingError",
    "UsageError",
    "exit_code",
]
