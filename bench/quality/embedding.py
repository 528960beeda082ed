"""How little an embedding changes with a picture: ``python bench/quality/embedding.py BUNDLE [--count 800]``.

The queries are unseen avatars at half and at double size, cropped to 90 % of their area, and with shifted colours (each
channel times 0.8 to 1.2, plus -20 to 20 of 255). Printed is how often the nearest of all originals is the same avatar,
and how often it is one of the same style.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import smalti
from smalti_train.data import open_dataset

Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--count", type=int, default=800, help="unseen avatars")
    options = parser.parse_args()
    gen = smalti.load(options.bundle)
    images = open_dataset("avatars", size=gen.manifest.resolution().pixels, split="test", count=options.count)
    pictures, labels = np.asarray(images.images[: options.count]), images.labels[: options.count]
    originals = gen.embed(pictures)
    print(f"{len(pictures)} unseen avatars, {originals.shape[1]} dimensions")
    print("| query | same avatar nearest | same style nearest | mean product with the original |")
    print("| --- | --- | --- | --- |")
    for name, queries in altered(pictures):
        found = gen.embed(queries)
        nearest = (found @ originals.T).argmax(axis=1)
        same, style = nearest == np.arange(len(pictures)), labels[nearest] == labels
        print(f"| {name} | {same.mean():.1%} | {style.mean():.1%} | {(found * originals).sum(1).mean():.3f} |")
    alike = originals @ originals.T
    np.fill_diagonal(alike, -1)
    print(
        f"another avatar of the same style is the nearest other one of {(labels[alike.argmax(1)] == labels).mean():.1%}"
    )


def altered(pictures: Pixels) -> Iterator[tuple[str, list[Image.Image]]]:
    """Altered copies of pictures uint8 [N, H, W, 3], by what was done to them."""
    side = pictures.shape[1]
    whole = [Image.fromarray(one) for one in pictures]
    for name, size in (("half size", side // 2), ("double size", 2 * side)):
        yield name, [one.resize((size, size), Image.Resampling.LANCZOS) for one in whole]
    chance = np.random.default_rng(0)
    left = round(0.9**0.5 * side)
    corners = chance.integers(0, side - left + 1, (len(whole), 2)).tolist()
    yield "90 % crop", [one.crop((x, y, x + left, y + left)) for one, (x, y) in zip(whole, corners)]
    gain, offset = chance.uniform(0.8, 1.2, (len(whole), 1, 1, 3)), chance.uniform(-20, 20, (len(whole), 1, 1, 3))
    shifted = np.clip(pictures * gain + offset, 0, 255).astype(np.uint8)
    yield "colours shifted", [Image.fromarray(one) for one in shifted]


if __name__ == "__main__":
    main()
