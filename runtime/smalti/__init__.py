"""smalti: vector-quantised image models as small verified bundles, run without torch.

import smalti

gen = smalti.load()
gen.generate(count=4, seed=7, label="lorelei").images[0].save("out.png")
"""

from __future__ import annotations

from smalti.backends.base import Backend, ProviderReport
from smalti.backends.null import NullBackend
from smalti.bundle.manifest import Manifest
from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
from smalti.errors import (
    BundleError,
    DamagedKernel,
    DriverError,
    DriverUnavailable,
    EngineError,
    KernelError,
    MissingExtra,
    NoMatchingKernel,
    OutputError,
    ParityError,
    ProviderUnavailable,
    SamplingError,
    SmaltiError,
    TrainingError,
    UsageError,
)
from smalti.families.base import Settings
from smalti.generator import Generator
from smalti.loading.building import BuildProgress, EngineBuild
from smalti.loading.load import load
from smalti.loading.upgrade import Upgrade
from smalti.result import Result, Step, Timings
from smalti.version import __version__

__all__ = [
    "Backend",
    "BuildProgress",
    "Bundle",
    "BundleError",
    "DamagedKernel",
    "DriverError",
    "DriverUnavailable",
    "EngineBuild",
    "EngineError",
    "Generator",
    "KernelError",
    "Manifest",
    "MissingExtra",
    "NoMatchingKernel",
    "NullBackend",
    "OutputError",
    "ParityError",
    "ProviderReport",
    "ProviderUnavailable",
    "Result",
    "SamplingError",
    "Settings",
    "SmaltiError",
    "Step",
    "Timings",
    "TrainingError",
    "Upgrade",
    "UsageError",
    "__version__",
    "embedded_bundles",
    "load",
    "open_bundle",
]
