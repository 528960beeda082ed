"""Prebuilt kernels that are only text: entries, a few of them, and a whole folder of every form and target."""

from __future__ import annotations

import hashlib
from pathlib import Path

from smalti_kernels.impl.abi import KERNEL_NAME
from smalti_kernels.impl.cuda.prebuilt import Entry, write_kernels
from smalti_kernels.impl.cuda.targets import TARGETS
from smalti_kernels.impl.forms import FORMS

IMAGES = [("sm_75", "a", b"one" * 50), ("sm_75", "b", b"two" * 50), ("ptx_80", "a", b"three" * 50)]
"""(target, variant, image) of three files that `write_some` writes."""
COMPILER = {"triton": "3.7.1"}


def entry_of(target: str, variant: str, image: bytes, **changes: object) -> Entry:
    """The manifest's entry of an image, with figures as a build might find them."""
    fields = {
        "target": target,
        "variant": variant,
        "sha256": hashlib.sha256(image).hexdigest(),
        "bytes": len(image),
        "kernel": KERNEL_NAME,
        "num_warps": 4,
        "shared_bytes": 16,
        "registers": 40,
        "stack_bytes": 0,
        "scratch_bytes": 0,
        "cuda": (12, 8),
    }
    return Entry(**(fields | changes))


def write_some(folder: Path) -> Path:
    """Write `IMAGES`, as of `COMPILER`; returns the folder."""
    write_kernels(folder, COMPILER, [(entry_of(*image), image[2]) for image in IMAGES])
    return folder


def image_of(target: str, variant: str) -> bytes:
    """What `write_all` writes instead of a kernel."""
    return f"image of {variant} for {target}".encode()


def write_all(folder: Path) -> Path:
    """Write a text for every form and target, which a launch gives 16 bytes of shared memory for each warp."""
    kernels = []
    for target in TARGETS:
        for form in FORMS.values():
            image = image_of(target.name, form.name)
            figures = {"kernel": form.kernel, "num_warps": form.num_warps, "shared_bytes": 16 * form.num_warps}
            kernels.append((entry_of(target.name, form.name, image, **figures), image))
    write_kernels(folder, {"triton": "none"}, kernels)
    return folder
