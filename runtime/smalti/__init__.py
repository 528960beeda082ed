"""smalti: vector-quantised image models as small verified bundles, run without torch.

import smalti

gen = smalti.load()
gen.generate(count=4, seed=7, label="lorelei").images[0].save("out.png")
"""

from __future__ import annotations

import importlib
import typing

from smalti.version import __version__

if typing.TYPE_CHECKING:
    from smalti import aio
    from smalti.backends.base import Backend, ProviderReport
    from smalti.backends.null import NullBackend
    from smalti.bundle.manifest import Manifest
    from smalti.bundle.reader import Bundle, embedded_bundles, open_bundle
    from smalti.drawing.folder import Written
    from smalti.drawing.generator import Generator
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
        SpeedRegression,
        TrainingError,
        UsageError,
    )
    from smalti.families.base import Settings
    from smalti.families.limits import Limits
    from smalti.loading.building import BuildProgress, EngineBuild
    from smalti.loading.load import load
    from smalti.loading.replay import replay
    from smalti.loading.upgrade import Upgrade
    from smalti.saving.recipe import Recipe, read_recipe

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
    "SpeedRegression",
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

_HOMES = {
    "smalti.backends.base": ("Backend", "ProviderReport"),
    "smalti.backends.null": ("NullBackend",),
    "smalti.bundle.manifest": ("Manifest",),
    "smalti.bundle.reader": ("Bundle", "embedded_bundles", "open_bundle"),
    "smalti.drawing.folder": ("Written",),
    "smalti.drawing.result": ("Result", "Step", "Timings"),
    "smalti.families.base": ("Settings",),
    "smalti.families.limits": ("Limits",),
    "smalti.drawing.generator": ("Generator",),
    "smalti.loading.building": ("BuildProgress", "EngineBuild"),
    "smalti.loading.load": ("load",),
    "smalti.loading.replay": ("replay",),
    "smalti.loading.upgrade": ("Upgrade",),
    "smalti.saving.recipe": ("Recipe", "read_recipe"),
}
"""The modules of these names; all others are errors. A name is imported when it is asked for: the command imports this
package before it can say that it was interrupted, and that must not take long."""
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


if not typing.TYPE_CHECKING:  # a checker would take any name for one that is there

    def __getattr__(name: str) -> typing.Any:
        if name == "aio":
            return importlib.import_module("smalti.aio")
        if name not in __all__:
            raise AttributeError(f"module 'smalti' has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_MODULES.get(name, "smalti.errors")), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
