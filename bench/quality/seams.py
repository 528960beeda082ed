"""Seams in canvases and in outpainted pictures: ``python bench/quality/seams.py BUNDLE [-o FOLDER]``.

**Canvases.** A border code means that the picture ends: where unseen avatars are cut off, four tokens from a side, it
is used at the new border more than twice as often (and 20 times or more) as in the same place of the whole picture. In
canvases such codes betray where windows begin. For 24 canvases of three labels and several sizes the greatest share of
border codes in any inner row or column is printed, and that in the outer ones. So is the share of codes with more than
60 % of their uses (100 or more of them) in one outer row or column: those may also be what is drawn there, as ground
is.

**Outpainting.** Unseen pictures of the labels that suit wider canvases are painted on to the left and right. Printed is
the mean step of grey levels across each seam, over the median step between neighbouring columns inside the original (at
least one level, since most columns of some drawings are equal): the median and the greatest ratio.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import smalti
from smalti.saving.formats import contact_sheet
from smalti_train.data import open_dataset

LABELS = ("landscape", "planets", "critters")
SIZES = ((2, 1), (3, 1), (2, 2), (3, 2))
"""Canvases by the bundle's own width and height."""
EACH = 2
"""Canvases of each label and size: 24 in all."""
PICTURES = 16
"""Pictures that are painted on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--count", type=int, default=1024, help="unseen avatars that the border codes are taken from")
    parser.add_argument("-o", "--output", type=Path, help="folder for sheets")
    parser.add_argument("--only", choices=("canvases", "outpainting"))
    options = parser.parse_args()
    gen = smalti.load(options.bundle)
    side = gen.manifest.resolution().pixels
    images = open_dataset("avatars", size=side, split="test", count=options.count)
    pictures = np.asarray(images.images)
    if options.only != "outpainting":
        canvases(gen, pictures, options.output)
    if options.only != "canvases":
        suited = {label for label, canvas in gen.manifest.canvases.items() if canvas != "own"}
        labels = [images.label_names[label] for label in images.labels[: len(pictures)]]
        outpainted(
            gen, [(one, label) for one, label in zip(pictures, labels) if label in suited][:PICTURES], options.output
        )


def canvases(gen: smalti.Generator, pictures: NDArray[np.uint8], output: Path | None) -> None:
    """Print how many border codes canvases have inside, and save them. ``pictures`` tell which codes these are."""
    side = gen.manifest.resolution().pixels
    kinds = {
        "border codes": border_codes(gen, pictures),
        "codes of one outer row or column": crowded_codes(gen.encode([*pictures]), gen.manifest.latent.codes),
    }
    most = {name: [0.0, 0.0] for name in kinds}
    for wide, tall in SIZES:
        shown: list[NDArray[np.uint8]] = []
        for label in LABELS:
            drawn = gen.generate(EACH, 0, label=label, size=(wide * side, tall * side))
            shown += [np.asarray(image) for image in drawn.images]
            for name, special in kinds.items():
                for axis in (1, 2):
                    shares = special[drawn.tokens].mean(axis=3 - axis)  # [n, lines]
                    for place, lines in enumerate((shares[:, 1:-1], shares[:, [0, -1]])):
                        most[name][place] = max(most[name][place], float(lines.max()))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            contact_sheet(np.stack(shown), EACH).save(output / f"canvas-{wide}x{tall}.webp", quality=88, method=6)
    for name, (inner, outer) in most.items():
        print(
            f"{name}: {kinds[name].sum()} of {gen.manifest.latent.codes}, at most {inner:.1%} of any inner row or "
            f"column, {outer:.1%} of an outer one"
        )


def border_codes(
    gen: smalti.Generator, pictures: NDArray[np.uint8], cut: int = 4, least: int = 20, times: float = 2.0
) -> NDArray[np.bool_]:
    """Which codes (bool [K]) the encoder uses at borders that cutting makes, more than ``times`` as often as before."""
    latent = gen.manifest.latent
    whole, pixels = gen.encode([*pictures]), cut * latent.factor
    special = np.zeros(latent.codes, np.bool_)
    for axis in (1, 2):
        last = whole.shape[axis] - 1
        for part, line, before in ((slice(pixels, None), 0, cut), (slice(None, -pixels), -1, last - cut)):
            cropped = pictures[:, part] if axis == 1 else pictures[:, :, part]
            new = np.bincount(gen.encode([*cropped]).take(line, axis).ravel(), minlength=latent.codes)
            old = np.bincount(whole.take(before, axis).ravel(), minlength=latent.codes)
            special |= (new >= least) & (new > times * old)
    return special


def crowded_codes(tokens: NDArray[np.int32], codes: int, least: int = 100, share: float = 0.6) -> NDArray[np.bool_]:
    """Which codes (bool [K]) lie in one outer row or column by more than ``share`` of at least ``least`` uses."""
    uses = np.bincount(tokens.ravel(), minlength=codes)
    sides = (tokens[:, 0], tokens[:, -1], tokens[:, :, 0], tokens[:, :, -1])
    most = np.max([np.bincount(side.ravel(), minlength=codes) for side in sides], axis=0)
    return (uses >= least) & (most > share * uses)


def outpainted(gen: smalti.Generator, images: list[tuple[NDArray[np.uint8], str]], output: Path | None) -> None:
    """Print how steep the seams of outpainted pictures are, and save them."""
    margin = gen.manifest.resolution().pixels // 2
    ratios: list[float] = []
    shown: list[NDArray[np.uint8]] = []
    for index, (image, label) in enumerate(images):
        wide = np.asarray(gen.outpaint(image, seed=index, left=margin, right=margin, label=label).images[0])
        steps = np.abs(np.diff(wide.astype(np.int16), axis=1)).mean(axis=(0, 2))  # between neighbouring columns
        inside = max(1.0, float(np.median(steps[margin : margin + image.shape[1] - 1])))
        ratios += [float(steps[place]) / inside for place in (margin - 1, margin + image.shape[1] - 1)]
        shown.append(wide)
    over = sum(ratio > 1.5 for ratio in ratios)
    print(
        f"outpainting: the step across a seam is {np.median(ratios):.2f} times the median step inside (median of "
        f"{len(ratios)} seams), at most {max(ratios):.2f}; {over} are over 1.5"
    )
    if output:
        contact_sheet(np.stack(shown), 2).save(output / "outpainted.webp", quality=88, method=6)


if __name__ == "__main__":
    main()
