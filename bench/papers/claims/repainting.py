"""Pictures repainted under masks of any shape (section 3.6), by the runtime: from tokens and from grey pixels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import smalti
from claims import fashion, sundae_priors
from claims.common import Row
from claims.sundae_sizes import SundaeBench
from smalti_export.export import export_bundle
from smalti_train.data import ImageSet

COUNT = 4
"""Variants of each picture."""
Mask = NDArray[np.bool_]


def masks(side: int) -> dict[str, Mask]:
    """Masks of ``side`` x ``side`` pixels, True where to repaint."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    blocks = np.random.default_rng(0).random((side // 4 + 1, side // 4 + 1)) < 0.5
    return {
        "half": x > 0.5,
        "disc": (x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.09,
        "stroke": np.abs(y - 0.5 - 0.3 * np.sin(6 * x)) < 0.1,
        "scattered blocks": blocks.repeat(4, 0).repeat(4, 1)[:side, :side],
        "all but the middle": np.maximum(np.abs(x - 0.5), np.abs(y - 0.5)) > 0.25,
    }


def bundle(bench: SundaeBench, name: str, run: Path) -> Path:
    """The bundle of a prior's run, exported unless it is there."""
    path = bench.work / f"bundle-{name}"
    if not path.exists():
        for failure in export_bundle(run, path, name=f"sundae-{name}", say=partial(print, flush=True)):
            print(f"left out of the bundle: {failure}", flush=True)
    return path


def inpainting(bench: SundaeBench) -> None:
    """One unseen picture of each label, each under a mask of its own."""

    def avatars() -> Row:
        return repainted(bench, "avatars", bundle(bench, "avatars", sundae_priors.best(bench)), bench.unseen())

    def clothes() -> Row:
        path = bundle(bench, "fashion", fashion.pixelwise(bench))
        return repainted(bench, "fashion", path, fashion.images(bench, "test"))

    bench.row("inpainting", {"pictures": "avatars"}, avatars)
    bench.row("inpainting", {"pictures": "fashion"}, clothes)


def repainted(bench: SundaeBench, name: str, path: Path, data: ImageSet) -> Row:
    """Write the sheet: picture, what is kept of it, and variants. What is kept must be there in every one of them."""
    generator = smalti.load(path, precision="fp32")
    shapes = masks(data.size)
    rows: list[NDArray[np.uint8]] = []
    seconds, kept = 0.0, True
    for label, label_name in enumerate(data.label_names):
        picture = np.asarray(data.images[int(np.flatnonzero(data.labels == label)[0])])
        mask = list(shapes.values())[label % len(shapes)]
        result = generator.inpaint(picture, mask, COUNT, 0, label=label_name)
        variants = [np.asarray(image) for image in result.images]
        kept &= all(np.array_equal(variant[~mask], picture[~mask]) for variant in variants)
        rows += [picture, np.where(mask[..., None], np.uint8(128), picture), *variants]
        seconds += result.timings.total
    sheet = np.stack(rows)
    bench.save_sheet(f"inpainting-{name}", sheet.repeat(2, 1).repeat(2, 2), 2 * (2 + COUNT))
    return {
        "masks": list(shapes),
        "images": len(data.label_names) * COUNT,
        "kept_exactly": kept,
        "seconds_per_image": seconds / (len(data.label_names) * COUNT),
    }
