"""What pictures of the gallery were painted on: images and masks, kept by the digest that recipes name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from smalti.errors import OutputError
from smalti.saving.recipe import digest
from smalti.system.files import write_whole
from smalti.system.platform import patiently

ENDING: Final = ".image"
"""Files are kept as they came, in whatever format."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Inputs:
    """A folder of images and masks, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        """Take a folder."""
        self.folder = folder

    def keep(self, pixels: NDArray[np.uint8] | NDArray[np.bool_], content: bytes) -> str:
        """Keep a file whose pixels are these; return their digest. Raises OutputError when it cannot be written.

        ``pixels`` are an image uint8 [H, W, 3], or where a mask repaints, bool [H, W].
        """
        named = digest(pixels)
        path = self.folder / f"{named}{ENDING}"
        if not path.is_file():
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"cannot make folder {self.folder}: {error.strerror or error}") from error
            write_whole(path, content)
        return named

    def find(self, named: str | None) -> Path | None:
        """Return the file of an image or a mask by its digest; None where there is none, or this is no digest."""
        if named is None or not _DIGEST.fullmatch(named):
            return None
        path = self.folder / f"{named}{ENDING}"
        return path if path.is_file() and not path.is_symlink() else None

    def remove(self, named: Iterable[str]) -> None:
        """Remove files that no picture names any more."""
        for one in named:
            if (path := self.find(one)) is not None:
                with contextlib.suppress(OSError):
                    patiently(path.unlink)
