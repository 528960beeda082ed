"""Small copies of the gallery's pictures, made when they are first looked at."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Final

from PIL import Image

from smalti.codec.opening import reading
from smalti.families.limits import Limits
from smalti.web.pictures import jpeg_of, opened
from smalti.web.studio.gallery import read_whole

SIDE: Final = 240
"""Most pixels of a side."""
KEPT: Final = 512


class Thumbs:
    """Small copies, the latest kept in memory."""

    def __init__(self, limits: Limits) -> None:
        """Take limits on the pictures that are opened."""
        self._limits = limits
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: Path) -> bytes:
        """Return a JPEG of at most 240 pixels a side. Raises Refused and UsageError for what cannot be read."""
        key = (path.name, path.stat().st_mtime_ns)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = opened(path.name, read_whole(path), self._limits)
        with reading(path.name):
            small = image.convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        made = jpeg_of(small)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made
