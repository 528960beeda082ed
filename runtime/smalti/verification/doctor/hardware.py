"""The processor and the graphics cards, as the operating system lists them."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from smalti.verification.doctor.facts import Adapter, Processor

INSTRUCTIONS: Final = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "amx_bf16": "AMX bf16",
    "asimddp": "dot product",
    "i8mm": "int8 matrices",
}
"""Linux's names of instruction sets that make networks faster, and those for people."""
VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
"""Makers of GPUs by their numbers on the PCI bus."""
_DISPLAYS: Final = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
_WINDOWS_FEATURES: Final = {40: "AVX2", 41: "AVX-512"}
_MAC_FEATURES: Final = {"hw.optional.arm.FEAT_DotProd": "dot product", "hw.optional.arm.FEAT_I8MM": "int8 matrices"}


def find_processor(cores: int) -> Processor:
    """Describe the processor, of which a process may use ``cores``."""
    if sys.platform == "win32":
        has = ctypes.windll.kernel32.IsProcessorFeaturePresent
        found = tuple(name for number, name in _WINDOWS_FEATURES.items() if has(number))
        return Processor(os.environ.get("PROCESSOR_IDENTIFIER", ""), cores, found)
    if sys.platform == "darwin":
        names = {"hw.optional.avx2_0": "AVX2", **_MAC_FEATURES}
        asked = subprocess.run(
            ["/usr/sbin/sysctl", "-i", "machdep.cpu.brand_string", *names],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=5,
        )
        told = dict(line.split(": ", 1) for line in asked.stdout.splitlines() if ": " in line)
        found = tuple(name for key, name in names.items() if told.get(key) == "1")
        return Processor(told.get("machdep.cpu.brand_string", ""), cores, found)
    return read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), cores)


def read_cpuinfo(text: str, cores: int) -> Processor:
    """Describe the processor from what Linux says of its first core."""
    rows = re.findall(r"^([\w ]+?)\s*: (.*)$", text.partition("\n\n")[0], re.MULTILINE)
    told = {name.lower(): value for name, value in rows}
    flags = told.get("flags") or told.get("features")
    present = None if flags is None else tuple(name for key, name in INSTRUCTIONS.items() if key in flags.split())
    return Processor(told.get("model name", ""), cores, present)


def find_adapters() -> tuple[Adapter, ...]:
    """List the graphics cards of known makers, whether or not a driver is installed."""
    if sys.platform == "win32":
        return tuple(Adapter(vendor, name) for name in _windows_displays() if (vendor := vendor_in(name)))
    if sys.platform == "darwin":
        return (Adapter("Apple", "Metal"),)
    return read_pci(Path("/sys/bus/pci/devices"))


def read_pci(folder: Path) -> tuple[Adapter, ...]:
    """List the graphics cards from what Linux has of the PCI bus."""
    found: list[Adapter] = []
    for device in sorted(folder.glob("*")):
        try:
            kind, vendor, number = (
                (device / name).read_text("utf-8").strip() for name in ("class", "vendor", "device")
            )
        except OSError:
            continue
        if kind.startswith("0x03") and vendor in VENDORS:
            found.append(Adapter(VENDORS[vendor], f"PCI device {number}"))
    return tuple(found)


def vendor_in(name: str) -> str:
    """Return the maker that a name of a graphics card begins with or contains; empty for others."""
    makers = {"nvidia": "NVIDIA", "geforce": "NVIDIA", "amd": "AMD", "radeon": "AMD", "intel": "Intel"}
    return next((maker for word, maker in makers.items() if re.search(rf"\b{word}\b", name.lower())), "")


def _windows_displays() -> list[str]:
    names: list[str] = []
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, _DISPLAYS) as key:
            for index in range(64):
                try:
                    with winreg.OpenKey(key, f"{index:04}") as display:
                        names.append(str(winreg.QueryValueEx(display, "DriverDesc")[0]))
                except OSError:
                    break
    return names
