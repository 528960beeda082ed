"""What a verdict about a provider depends on: everything installed, and every processor and driver that is there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, Final

from smalti.backends.driver_version import driver_version
from smalti.system.platform import system_name
from smalti.verification.doctor.gather import installed_packages
from smalti.verification.doctor.hardware import find_adapters, find_processor
from smalti.verification.doctor.safe_driver import safe_driver
from smalti.version import __version__
from smalti_kernels.platform import VISIBLE, usable_cores

VARIABLES: Final = (
    VISIBLE,
    "VK_ICD_FILENAMES",
    "VK_DRIVER_FILES",
    "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER",
)
"""Variables of the environment that choose a device or a driver."""


def nvidia_gpus() -> list[str]:
    """Return NVIDIA's GPUs that are like the first one, each as :data:`VISIBLE` names it; none without a driver.

    What runs on the first runs on them, and computes the same.
    """
    found, _ = safe_driver()
    if found is None:
        return []
    named = [word.strip() for word in os.environ.get(VISIBLE, "").split(",") if word.strip()]
    devices = [found.device(ordinal) for ordinal in range(found.device_count)]
    alike = [(one.name, one.capability) == (devices[0].name, devices[0].capability) for one in devices]
    return [name for name, yes in zip(named or map(str, range(len(devices))), alike) if yes]


def fingerprint() -> str:
    """Return a hash of all that decides whether a provider works here, and how fast."""
    found, _ = safe_driver()
    facts: dict[str, Any] = {
        "smalti": __version__,
        "system": system_name(),
        "packages": _told(installed_packages),
        "processor": _told(lambda: str(find_processor(usable_cores()))),
        "adapters": _told(lambda: str(find_adapters())),
        "cuda": found.version if found else None,
        "driver": _told(driver_version),
        "devices": [str(found.device(ordinal)) for ordinal in range(found.device_count)] if found else [],
        "variables": {name: os.environ.get(name) for name in VARIABLES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _told(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # a fact that cannot be read is a fact: see smalti.verification.doctor.gather
        return f"{type(error).__name__}: {error}"
