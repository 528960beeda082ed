"""How an autoencoder uses its codes: ``python bench/quality/codes.py RUN_OR_BUNDLE [--count 1024]``.

Over unseen avatars: the share of codes in use, their perplexity, and which codes mean borders, which show as seams in
larger canvases: of codes used at least ``--least`` times, those with more than a quarter of their uses in one outer row
or column. For comparison it prints the perplexity of the pictures' own patches: two equal patches whose surroundings
look alike get the same code, so flat areas of few colours set a limit, whatever the number of codes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import smalti
from smalti_train.data.config import DataConfig, open_split
from smalti_train.data.pixels import to_images
from smalti_train.runs.loading import load_autoencoder

SIDES = {
    "top row": np.s_[:, 0],
    "bottom row": np.s_[:, -1],
    "left column": np.s_[:, :, 0],
    "right column": np.s_[:, :, -1],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run of an autoencoder, or a bundle")
    parser.add_argument("--count", type=int, default=1024, help="unseen avatars")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--least", type=int, default=100, help="uses of a code that is judged")
    options = parser.parse_args()
    data = open_split(DataConfig("avatars", options.size, 24000, options.count), "validation")
    pixels = np.asarray(data.images[: options.count])
    tokens, codes = encoded(options.model, pixels)
    uses = np.bincount(tokens.ravel(), minlength=codes)
    print(f"{len(pixels)} pictures of {tokens.shape[1]}x{tokens.shape[2]} tokens, {codes} codes")
    even = perplexity(uses)
    print(f"codes used: {100 * (uses > 0).mean():.1f} %; perplexity {even:.0f} = {even / codes:.2f} K")
    print_limit(pixels, options.size // tokens.shape[1], codes)
    judged = uses >= options.least
    worst = np.zeros(codes)
    for name, side in SIDES.items():
        share = np.bincount(tokens[side].ravel(), minlength=codes) / np.maximum(uses, 1)
        worst = np.maximum(worst, share)
        counts = [int((judged & (share > limit)).sum()) for limit in (0.25, 0.6)]
        print(f"{name}: {counts[0]} codes with more than 25 % of their uses there, {counts[1]} with more than 60 %")
    print(
        f"in all {(judged & (worst > 0.25)).sum()} of {judged.sum()} codes that are used {options.least} times or more"
    )


def encoded(model: str, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.int32], int]:
    """Tokens [N, h, w] of uint8 [N, H, W, 3], and the number of codes."""
    if not (Path(model) / "config.json").exists():
        generator = smalti.load(model)
        parts = [generator.encode(list(part)) for part in np.array_split(pixels, max(1, len(pixels) // 64))]
        return np.concatenate(parts), generator.manifest.latent.codes
    codec, _ = load_autoencoder(Path(model))
    found = []
    with torch.no_grad():
        for first in range(0, len(pixels), 16):
            images = to_images(pixels[first : first + 16], value_range=codec.config.value_range)
            found.append(codec.encode(images).numpy().astype(np.int32))
    return np.concatenate(found), codec.config.codes


def perplexity(uses: NDArray[np.int64]) -> float:
    """Number of evenly used codes with the same entropy."""
    shares = uses[uses > 0] / uses.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def print_limit(pixels: NDArray[np.uint8], factor: int, codes: int) -> None:
    """The greatest perplexity of ``codes`` codes that tell equal patches nothing but themselves."""
    count, height, width, _ = pixels.shape
    patches = pixels.reshape(count, height // factor, factor, width // factor, factor, 3).swapaxes(2, 3)
    rows = np.ascontiguousarray(patches.reshape(-1, factor * factor * 3))
    flat = (rows.reshape(len(rows), -1, 3) == rows.reshape(len(rows), -1, 3)[:, :1]).all((1, 2)).mean()
    uses = np.unique([hash(row.tobytes()) for row in rows], return_counts=True)[1]
    shares = uses / uses.sum()
    often = shares[shares > 1 / codes]  # each takes a code of its own; all others share the rest evenly
    rest, left = 1 - often.sum(), codes - len(often)
    limit = np.exp(-(often * np.log(often)).sum() - rest * np.log(rest / left))
    print(f"patches of one colour: {100 * flat:.1f} %; codes of patches alone reach a perplexity of {limit:.0f}")


if __name__ == "__main__":
    main()
