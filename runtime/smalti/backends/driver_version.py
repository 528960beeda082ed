"""The version of NVIDIA's driver that users know, such as 580.95.05; CUDA's own tells only which CUDA it supports."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

from smalti_kernels.platform import MANAGEMENT_LIBRARY, load_library

MODULE: Final = Path("/proc/driver/nvidia/version")


def driver_version() -> str:
    """Return it from the kernel's module or from NVIDIA's management library; empty where neither tells."""
    try:
        words = MODULE.read_text(encoding="utf-8").split()
        return next((word for word in words if word[0].isdigit() and "." in word), "")
    except OSError:
        pass
    try:
        library = load_library(MANAGEMENT_LIBRARY)
    except OSError:
        return ""
    text = ctypes.create_string_buffer(96)
    if library.nvmlInit_v2() != 0 or library.nvmlSystemGetDriverVersion(text, len(text)) != 0:
        return ""
    return text.value.decode()
