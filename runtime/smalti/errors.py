"""Every error smalti raises on purpose, with the exit code its command line gives.

    SmaltiError                      1
    ├── SamplingError                1   a draw that has no answer (from smalti_kernels)
    ├── KernelError                  4   a sampling kernel that cannot run here (from smalti_kernels)
    │   ├── DriverUnavailable        4   no NVIDIA driver, one too old, or no device
    │   ├── NoMatchingKernel         4   no prebuilt kernel for this GPU, vocabulary or precision
    │   ├── DamagedKernel            4   a prebuilt kernel that is missing or is not the one that was built
    │   └── DriverError              4   a call of the driver that failed: a launch, for one
    ├── UsageError                   2   an argument outside what is allowed
    ├── BundleError                  3   a bundle that is missing, damaged or not one of ours
    ├── ProviderUnavailable          4   a provider that was asked for and cannot run
    ├── EngineError                  5   an engine that could not be built
    ├── ParityError                  6   an exported variant that does not match its model
    ├── TrainingError                1   a training whose loss is no longer a number
    ├── MissingExtra                 1   a command whose packages are not installed
    └── OutputError                  1   a file that cannot be written

Exit code 7 (bench regression) is reserved; 130 is an interrupt.
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
    """An argument outside what is allowed."""


class BundleError(SmaltiError):
    """A bundle that is missing, damaged, or not one of ours."""


class ProviderUnavailable(SmaltiError):
    """A provider that was asked for by name and cannot run here."""


class EngineError(SmaltiError):
    """An engine that could not be built; the engines that were there are untouched."""


class ParityError(SmaltiError):
    """A variant that does not match the model it was made from."""


class TrainingError(SmaltiError):
    """A training whose loss is no longer a number; its last good checkpoint is untouched."""


class MissingExtra(SmaltiError, ImportError):
    """A command whose packages are not installed."""


class OutputError(SmaltiError, OSError):
    """A file that cannot be written; whatever stood there before is untouched."""


EXIT_CODES: dict[type[SmaltiError], int] = {
    UsageError: 2,
    BundleError: 3,
    ProviderUnavailable: 4,
    KernelError: 4,
    EngineError: 5,
    ParityError: 6,
}


def exit_code(error: SmaltiError) -> int:
    """Return the process exit code that belongs to ``error`` (1 where the tree names none)."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


__all__ = [
    "BundleError",
    "DamagedKernel",
    "DriverError",
    "DriverUnavailable",
    "EngineError",
    "KernelError",
    "MissingExtra",
    "NoMatchingKernel",
    "OutputError",
    "ParityError",
    "ProviderUnavailable",
    "SamplingError",
    "SmaltiError",
    "TrainingError",
    "UsageError",
    "exit_code",
]
