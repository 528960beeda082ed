"""Open a bundle that has no certificate, for timing alone; without torch, so that a child's memory is the runtime's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from smalti.bundle.manifest import Manifest
from smalti.bundle.reader import MANIFEST, Bundle


def read(folder: Path) -> Bundle:
    """Open a folder that ``torch_way.published_bundles`` made."""
    raw = (folder / MANIFEST).read_bytes()
    return Bundle(folder, msgspec.json.decode(raw, type=Manifest), hashlib.sha256(raw).hexdigest())
