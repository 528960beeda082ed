"""SwiftShader, a Vulkan driver that computes on the CPU: where it lies, and what lets the WebGPU plugin use it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

FILES = ("libvk_swiftshader.so", "vk_swiftshader_icd.json", "libvulkan.so.1")
PLACES = (
    Path(__file__).parents[2] / "build/swiftshader",  # where .ci/swiftshader puts it
    Path("/usr/lib/chromium"),  # where Debian's chromium has it
)


def missing() -> str | None:
    """What the tests of the WebGPU plugin lack on this machine, in words; None when they can run."""
    if find_spec("onnxruntime_ep_webgpu") is None:
        return 'needs the package onnxruntime-ep-webgpu; pip install ".[webgpu]"'
    return None if _folder() else "needs SwiftShader; .ci/swiftshader fetches it on Debian"


def environment(**more: str) -> dict[str, str]:
    """The environment of a process whose only Vulkan driver is SwiftShader."""
    folder = _folder()
    assert folder is not None
    driver = str(folder / "vk_swiftshader_icd.json")
    return {
        **os.environ,
        "VK_ICD_FILENAMES": driver,
        "VK_DRIVER_FILES": driver,  # its newer name
        "LD_LIBRARY_PATH": str(folder),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


def _folder() -> Path | None:
    named = os.environ.get("SMALTI_SWIFTSHADER")
    places = (Path(named),) if named else PLACES
    return next((place for place in places if all((place / file).is_file() for file in FILES)), None)
