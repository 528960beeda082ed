"""Search a folder by picture: index it once by what its pictures look like, then find the nearest to any picture.

python docs/examples/search.py index FOLDER INDEX.npz [--bundle BUNDLE]
python docs/examples/search.py find INDEX.npz PICTURE [--bundle BUNDLE] [--most 5]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import smalti

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
SAVE_S = 30
"""Seconds between two times that the index is written, so that little is lost when the process is killed."""
Known = dict[str, tuple[int, NDArray[np.float32]]]
"""By path: when the file was changed (ns), and the features of its picture, float32 [D], of length 1."""


def described(gen: smalti.Generator, path: Path) -> NDArray[np.float32]:
    """Return the features of a file. Raises UsageError, which names it, where it cannot be read."""
    try:
        with Image.open(path) as image:
            return gen.embed([image])[0]  # it may have any size and mode
    except Exception as error:  # Pillow's readers of damaged files raise whatever they run into
        raise smalti.UsageError(f"{path}: {str(error) or type(error).__name__}") from error


def read(index: Path, gen: smalti.Generator) -> Known:
    """Read an index. Features of another bundle mean something else, and are refused."""
    if not index.exists():
        return {}
    with np.load(index, allow_pickle=False) as file:
        if str(file["bundle"]) != gen.bundle.digest:
            sys.exit(f"{index} was made with another bundle: name that one, or remove the file")
        return dict(zip(file["paths"].tolist(), zip(file["changed"].tolist(), file["features"])))


def write(index: Path, known: Known, gen: smalti.Generator) -> None:
    """Write the index beside, and put it in place: it is whole whenever it is read."""
    partial = index.with_name(index.name + ".partial")
    with partial.open("wb") as file:
        np.savez(
            file,
            bundle=gen.bundle.digest,
            paths=np.array(list(known), np.str_),
            changed=np.array([changed for changed, _ in known.values()], np.int64),
            features=np.array([row for _, row in known.values()], np.float32),
        )
    os.replace(partial, index)


def update(folder: Path, index: Path, gen: smalti.Generator) -> None:
    """Describe the files that are new or changed, forget those that are gone, and name those that cannot be read."""
    before, known, saved = read(index, gen), Known(), time.monotonic()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    known.update({str(path): before[str(path)] for path in files if str(path) in before})
    fresh = 0
    try:
        for number, path in enumerate(files, 1):
            print(f"\r{number} of {len(files)}", end="", file=sys.stderr, flush=True)
            try:
                changed = path.stat().st_mtime_ns
                if str(path) in known and known[str(path)][0] == changed:
                    continue
                known.pop(str(path), None)
                known[str(path)] = (changed, described(gen, path))
                fresh += 1
            except (OSError, smalti.SmaltiError) as error:
                print(f"\nskipped {error}", file=sys.stderr)
            if time.monotonic() - saved > SAVE_S:
                write(index, known, gen)
                saved = time.monotonic()
    finally:  # after Ctrl+C too: the next run goes on from here
        write(index, known, gen)
        print(file=sys.stderr)
    print(f"{len(known)} pictures, {fresh} of them new")


def find(index: Path, picture: Path, gen: smalti.Generator, most: int) -> None:
    """Print the nearest pictures, the most alike first. Rows have length 1, so their products are at most 1."""
    if not (known := read(index, gen)):
        sys.exit(f"{index} has no pictures; make it with: search.py index FOLDER {index}")
    paths, rows = list(known), np.array([row for _, row in known.values()])
    likeness = rows @ described(gen, picture)
    for place in np.argsort(-likeness)[:most]:
        print(f"{likeness[place]:.3f}  {paths[place]}")


def main() -> None:
    """Index or find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, first, second in (("index", "folder", "index"), ("find", "index", "picture")):
        added = verbs.add_parser(verb)
        added.add_argument(first, type=Path)
        added.add_argument(second, type=Path)
        added.add_argument("--bundle", help="a folder or .zip; by default the embedded bundle")
        added.add_argument("--most", type=int, default=5)
    asked = parser.parse_args()
    gen = smalti.load(asked.bundle)
    try:
        if asked.verb == "index":
            update(asked.folder, asked.index, gen)
        else:
            find(asked.index, asked.picture, gen, asked.most)
    except (OSError, smalti.SmaltiError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
