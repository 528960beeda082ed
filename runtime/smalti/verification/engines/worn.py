"""Which files of kernels that TensorRT-RTX compiled are of no more use on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smalti.backends.driver_version import driver_version
from smalti.backends.tensorrt.compiled import made_for
from smalti.verification.doctor.safe_driver import safe_driver
from smalti_kernels.errors import KernelError


@dataclass(frozen=True)
class Here:
    """The NVIDIA GPUs of a machine."""

    devices: frozenset[str] = frozenset()
    """Their names."""
    driver: str = ""
    """Version of their driver; empty where it is not known."""


def gpus_here() -> Here:
    """Return this machine's GPUs and their driver."""
    found, _ = safe_driver()
    if found is None:
        return Here()
    try:
        names = frozenset(found.device(ordinal).name for ordinal in range(found.device_count))
    except KernelError:
        return Here()
    return Here(names, driver_version())


def worn(file: Path, version: str, here: Here) -> str:
    """Return why a file cannot be used any more on this machine; empty where it can, and where it is for another GPU.

    ``version`` is that of the installed TensorRT-RTX; empty for none.
    """
    try:
        made = made_for(file)
    except OSError:  # another process may have removed it
        return ""
    if made is None:
        return "it does not tell what it was compiled for"
    if version and made.version != version:
        return f"compiled by TensorRT-RTX {made.version}, and {version} is installed"
    if made.device in here.devices and here.driver and made.driver != here.driver:
        return f"compiled for driver {made.driver or 'unknown'}, and {here.driver} is installed"
    return ""
