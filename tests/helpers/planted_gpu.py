"""The environment of a process that finds a stand-in for TensorRT, and the stub as NVIDIA's driver."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from helpers.stub_driver import Stub

TESTS = Path(__file__).parents[1]


def planted_gpu(folder: Path, stub: Stub) -> dict[str, str]:
    """Variables of a process whose cache is in ``folder``."""
    (folder / "driver").mkdir()
    shutil.copy(stub.path, folder / "driver/libcuda.so.1")
    path = [str(TESTS), str(TESTS / "helpers/packages"), os.environ.get("PYTHONPATH", "")]
    return {
        "SMALTI_CACHE_DIR": str(folder / "cache"),
        "LD_LIBRARY_PATH": str(folder / "driver"),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
    }
