"""GPUs of each generation without one: the stub driver, and the PTX that each target's cubins were assembled from.

A stub of compute capability 7.5 is handed the cubins of ``sm_75``, as the driver of such a GPU would be. Executed
instead is the PTX from which the same compiler makes the same bytes; that they are the same, the manifest's hash says.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from helpers.ptx import compile_targets
from helpers.stub_device import PTX_ONLY, StubDevice
from helpers.stub_driver import Stub
from smalti_kernels.impl.cuda.prebuilt import find_entry, read_image
from smalti_kernels.impl.cuda.targets import TARGETS, Target

FORMS: Final = (
    *("fp32_v256", "bf16_v2048", "fp16_v1024_truncated"),  # what is drawn from random logits
    *("fp32_v16384", "fp32_v1024_truncated"),  # and what the runs of bundles draw with
    *("move", "widen", "note", "mix", "mixture"),
    *("posterior", "posterior_v1024_truncated", "posterior_v4096_truncated"),
)
"""The kernels that are executed, of each target."""
NO_BINARY: Final = 209
"""The driver's error for a kernel that the device cannot run."""
NEWEST: Final = 13010
"""A driver for CUDA 13.1, which loads the files of every target."""


@cache
def compiled() -> dict[str, dict[str, str]]:
    """PTX by target and form, of those whose cubin has the hash of the one that is shipped.

    Raises ModuleNotFoundError where Triton is missing, and RuntimeError where it does not compile.
    """
    __import__("triton")
    names = [target.name for target in TARGETS if not target.ptx]
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, str(compile_targets.__file__), name, ",".join(names), ",".join(FORMS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the kernels do not compile: {done.stderr[-300:]}")
        # Triton keeps what it made in its cache: the text beside the cubin.
        hashes = {
            text.read_text(): hashlib.sha256(text.with_suffix(".cubin").read_bytes()).hexdigest()
            for text in Path(name, "cache").rglob("*.ptx")
            if text.with_suffix(".cubin").exists()
        }
        found: dict[str, dict[str, str]] = {target: {} for target in names}
        for made in json.loads(done.stdout):
            form, target, _ = made.split(".")
            text = Path(name, made).read_text()
            if hashes.get(text) == find_entry(target, form).sha256:
                found[target][form] = text
    return found


def texts_of(target: Target) -> dict[str, str]:
    """PTX of the forms of a target; of the target that is PTX, what is shipped.

    Raises as ``compiled`` does, and RuntimeError where a cubin that is made here is not the one that is shipped.
    """
    if target.ptx:
        return {form: read_image(find_entry(target.name, form)).decode() for form in FORMS}
    texts = compiled()[target.name]
    if others := [form for form in FORMS if form not in texts]:
        raise RuntimeError(f"compiled here, {', '.join(others)} for {target.name} are not what is shipped")
    return texts


class TargetDevice(StubDevice):
    """The stub as a GPU of one target. It loads that target's files, and executes their PTX."""

    def __init__(self, stub: Stub, target: Target, texts: Mapping[str, str]) -> None:
        super().__init__(stub)
        stub.machine(capability=PTX_ONLY if target.ptx else target.capability, version=NEWEST)
        self.texts = {read_image(find_entry(target.name, form)): text.encode() for form, text in texts.items()}

    def run(self, image: bytes, arguments: bytes, grid: int, threads: int) -> int:
        """Execute the text of an image; one that has none is an error of the launch."""
        text = next((text for whole, text in self.texts.items() if whole.startswith(image)), None)
        return NO_BINARY if text is None else super().run(text, arguments, grid, threads)
