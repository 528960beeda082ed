"""How an autoencoder uses its codes: ``python bench/quality/codes.py RUN_OR_BUNDLE [--count 1024]``.

Over unseen avatars: the share of codes in use, their perplexity, and which codes mean borders, which show as seams in
larger canvases: of codes used at least ``--least`` times, those with more than a quarter of their uses in one outer
row or column. Some of these mean what only lies there, such as shoulders. So the pictures are encoded again with that
side cut off: codes that mean borders then appear at the new border, and were not in the same places before. For
comparison it prints the perplexity of the pictures' own patches: two equal patches whose surroundings look alike get
the same code, so flat areas of few colours set a limit.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from numpy.typing import NDArray

import smalti
from smalti_train.data import ImageSet
from smalti_train.data.config import DataConfig, open_split
from smalti_train.evaluation.metrics import code_use
from smalti_train.runs.loading import load_autoencoder
from smalti_train.runs.token_cache import encode_images

CUT = 4
"""Tokens cut off a side, so that a new border lies where the picture went on."""
SIDES = {
    "top row": (np.s_[:, 0], np.s_[:, CUT:]),
    "bottom row": (np.s_[:, -1], np.s_[:, :-CUT]),
    "left column": (np.s_[:, :, 0], np.s_[:, :, CUT:]),
    "right column": (np.s_[:, :, -1], np.s_[:, :, :-CUT]),
}
"""Of each: its tokens in [N, h, w], and the grids without the outer tokens of that side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run of an autoencoder, or a bundle")
    parser.add_argument("--count", type=int, default=1024, help="unseen avatars")
    parser.add_argument("--size", type=int, default=256, help="pixels per side")
    parser.add_argument("--least", type=int, default=100, help="uses of a code that is judged")
    options = parser.parse_args()
    data = open_split(DataConfig("avatars", options.size, 24000, options.count), "validation")
    pixels = np.asarray(data.images[: options.count])
    tokens, codes = encoded(options.model, data, pixels)
    uses = np.bincount(tokens.ravel(), minlength=codes)
    print(f"{len(pixels)} pictures of {tokens.shape[1]}x{tokens.shape[2]} tokens, {codes} codes")
    used = code_use(uses)
    print(f"codes used: {used.percent:.1f} %; perplexity {used.perplexity:.0f} = {used.perplexity / codes:.2f} K")
    print_limit(pixels, options.size // tokens.shape[1], codes)
    judged = uses >= options.least
    print(
        f"{judged.sum()} codes are used {options.least} times or more; of these, with most of their uses on one side:"
    )
    print("| side | over 25 % | over 60 % | share of these codes at a new border | in the same places before |")
    print("| --- | --- | --- | --- | --- |")
    for name, (side, inner) in SIDES.items():
        share = np.bincount(tokens[side].ravel(), minlength=codes) / np.maximum(uses, 1)
        special = judged & (share > 0.25)
        kept = np.ascontiguousarray(pixels[tuple(scaled(part, options.size // tokens.shape[1]) for part in inner)])
        new, old = encoded(options.model, data, kept)[0][side], tokens[inner][side]
        counts = f"{special.sum()} | {(judged & (share > 0.6)).sum()}"
        print(f"| {name} | {counts} | {100 * special[new].mean():.2f} % | {100 * special[old].mean():.2f} % |")


def scaled(tokens: slice, factor: int) -> slice:
    """A slice of tokens as one of pixels."""
    return slice(*(None if end is None else end * factor for end in (tokens.start, tokens.stop)))


def encoded(model: str, data: ImageSet, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.integer], int]:
    """Tokens [N, h, w] of uint8 [N, H, W, 3], which are ``data``'s images or parts of them, and the number of codes."""
    if not (Path(model) / "config.json").exists():
        generator = smalti.load(model)
        return generator.encode([*pixels]), generator.manifest.latent.codes
    codec, _ = load_autoencoder(Path(model))
    cut = dataclasses.replace(data, images=pixels)
    return encode_images(codec, cut, Accelerator(cpu=True), False, "tokens"), codec.config.codes


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
