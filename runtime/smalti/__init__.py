"""smalti: vector-quantised image models as small verified bundles, run without torch.

import smalti

gen = smalti.load()
gen.generate(count=4, seed=7, label="lorelei").images[0].save("out.png")
"""

from __future__ import annotations

from smalti import aio
from smalti.backends.base import Backend, ProviderReport
from smalti.backends.null import NullBackend
from smalti.bundle.manifest import Manifest
from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
from smalti.drawing.folder import Written
from smalti.drawing.result import Result, Step, Timings
from smalti.errors import (
    BundleError,
    Cancelled,
    DamagedKernel,
    DriverError,
    DriverUnavailable,
    EngineError,
    KernelError,
    MissingExtra,
    NoMatchingKernel,
    OutOfMemory,
    OutputError,
    ParityError,
    ProviderUnavailable,
    SamplingError,
    SmaltiError,
    TrainingError,
    UsageError,
)
from smalti.families.base import Settings
from smalti.families.limits import Limits
from smalti.generator import Generator
from smalti.loading.building import BuildProgress, EngineBuild
from smalti.loading.load import load
from smalti.loading.replay import replay
from smalti.loading.upgrade import Upgrade
from smalti.saving.recipe import Recipe, read_recipe
from smalti.version import __version__

__all__ = [
    "Backend",
    "BuildProgress",
    "Bundle",
    "BundleError",
    "Cancelled",
    "DamagedKernel",
    "DriverError",
    "DriverUnavailable",
    "EngineBuild",
    "EngineError",
    "Generator",
    "KernelError",
    "Limits",
    "Manifest",
    "MissingExtra",
    "NoMatchingKernel",
    "NullBackend",
    "OutOfMemory",
    "OutputError",
    "ParityError",
    "ProviderReport",
    "ProviderUnavailable",
    "Recipe",
    "Result",
    "SamplingError",
    "Settings",
    "SmaltiError",
    "Step",
    "Timings",
    "TrainingError",
    "Upgrade",
    "UsageError",
    "Written",
    "__version__",
    "aio",
    "embedded_bundles",
    "load",
    "open_bundle",
    "read_recipe",
    "replay",
]
