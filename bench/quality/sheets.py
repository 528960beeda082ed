"""Shrink sheets for the repository: ``python bench/quality/sheets.py SHEET.png ... -o FOLDER [--width 1200]``."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image


def main() -> None:
    """Write each PNG as a WebP of at most ``--width`` pixels, under its folder's and its own name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sheets", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--width", type=int, default=1200)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.sheets:
        with Image.open(path) as image:
            image.thumbnail((options.width, 10 * options.width), Image.Resampling.LANCZOS)
            target = options.output / f"{options.prefix}{path.stem}.webp"
            image.save(target, quality=82, method=6)
        print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
