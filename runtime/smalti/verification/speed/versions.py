"""What a measurement ran on: versions, system and processor."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping

import numpy as np

from smalti.backends.base import ProviderReport
from smalti.verification.doctor.facts import Processor
from smalti.verification.doctor.hardware import find_processor
from smalti.version import __version__
from smalti_kernels.platform import allowed_cores


def versions(report: ProviderReport) -> dict[str, str]:
    """Return the versions of all that decides how long a draw takes; ``runtime`` is the provider's library."""
    return {
        "smalti": __version__,
        "runtime": report.runtime,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def versions_told(found: Mapping[str, str]) -> str:
    """Describe versions in a line."""
    return (
        f"smalti {found['smalti']}, {found['runtime']}, NumPy {found['numpy']}, Python {found['python']}, "
        f"{found['system']}"
    )


def processor() -> Processor:
    """Return name, usable cores and instruction sets of the processor, as far as the system tells."""
    cores = allowed_cores()
    try:
        return find_processor(cores)
    except (OSError, subprocess.SubprocessError):
        return Processor("", cores, None)


def processor_told(one: Processor) -> str:
    """Describe a processor in a line."""
    sets = f", {', '.join(one.instructions)}" if one.instructions else ""
    return f"{one.name or 'unknown processor'}, {one.cores} core{'s' if one.cores != 1 else ''}{sets}"
