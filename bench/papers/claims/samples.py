"""Samples of a prior's run, drawn once for each setting, and how they compare with unseen images."""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from claims.common import Bench, Row, features
from smalti.system.files import replace_file
from smalti_train.data import ImageSet
from smalti_train.evaluation.evaluate import draw
from smalti_train.evaluation.metrics import frechet_distance, kernel_distance, prdc
from smalti_train.evaluation.subject import open_subject

NEIGHBOURS = 3
"""k of precision, recall, density and coverage, as in the paper."""
DISTANCES = ("fid_style", "fid_style_real_against_real", "fid_style_reconstructed", "fid_style_reconstructed_real")
_LIKENESS = ("precision", "recall", "density", "coverage")
LIKENESS = (*_LIKENESS, *(f"{name}_real" for name in _LIKENESS))


def drawn(
    bench: Bench, run: Path, options: dict[str, Any], data: ImageSet | None = None, per_label: int | None = None
) -> tuple[NDArray[np.uint8], float]:
    """Samples (uint8 [N, H, W, 3], label by label) and the seconds that each took, from the disk if drawn before.

    As many of each label as are compared, or ``per_label``; the labels are those of ``data``, or else the avatars'.
    """
    name = "-".join([run.name, *(f"{key}-{value}" for key, value in sorted(options.items()))])
    path = bench.work / "samples" / f"{name}.npz"
    if not path.exists():
        started = time.perf_counter()
        subject, count = open_subject(str(run), **options), per_label or bench.scale.per_label
        images = draw(subject, bench.unseen() if data is None else data, count, 0).images
        seconds = (time.perf_counter() - started) / len(images)
        _keep(path, images=images, seconds=seconds)
    with np.load(path, allow_pickle=False) as held:
        return held["images"], float(held["seconds"])


def _keep(path: Path, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())


def reconstructed(bench: Bench, run: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features of what a run's autoencoder makes of the real images, and of the others: the best that a prior can draw.

    From the disk if they were computed before for an autoencoder of the same weights.
    """
    weights = (run / "autoencoder/model.safetensors").read_bytes()
    path = bench.work / "samples" / f"reconstructions-{hashlib.sha256(weights).hexdigest()[:12]}.npz"
    if not path.exists():
        subject = open_subject(str(run))
        first, second = (features(subject.decode(subject.encode(images))) for images in bench.real()[:2])
        _keep(path, first=first, second=second)
    with np.load(path, allow_pickle=False) as held:
        return held["first"], held["second"]


def measured(bench: Bench, run: Path, options: dict[str, Any]) -> Row:
    """The row of ``samples.json`` of one run and setting: the same seeds and labels for all.

    Distances are to unseen images and to their reconstructions; precision and its kin are of the reconstructions, for
    what a small autoencoder leaves out of every picture would hide all that priors differ in. What ends in ``_real`` is
    the figure of as many other images, or of their reconstructions, in place of samples.
    """

    def measure() -> Row:
        images, seconds = drawn(bench, run, options)
        ours, (theirs, others) = features(images), bench.real_features
        shown, shown_others = reconstructed(bench, run)
        return {
            "samples": len(images),
            "fid_style": frechet_distance(theirs, ours),
            "fid_style_real_against_real": frechet_distance(theirs, others),
            "fid_style_reconstructed": frechet_distance(shown, ours),
            "fid_style_reconstructed_real": frechet_distance(shown, shown_others),
            "kid_style": kernel_distance(theirs, ours),
            **prdc(shown, ours, NEIGHBOURS)._asdict(),
            **{f"{key}_real": value for key, value in prdc(shown, shown_others, NEIGHBOURS)._asdict().items()},
            "seconds_per_image": seconds,
        }

    return bench.row("samples", {"run": run.name, **options}, measure)


def strip(bench: Bench, run: Path, options: dict[str, Any], rows: int = 1) -> NDArray[np.uint8]:
    """The first samples of each of the eight labels, ``rows`` of them, row by row."""
    images, _ = drawn(bench, run, options)
    by_label = images.reshape(8, -1, *images.shape[1:])
    return by_label[:, :rows].swapaxes(0, 1).reshape(-1, *images.shape[1:])


def table3(bench: Bench, run: Path) -> None:
    """Samples in fewer and fewer steps."""
    strips: list[NDArray[np.uint8]] = []
    for fraction in bench.scale.fractions:
        options = {"steps": bench.scale.steps(fraction)}
        bench.row(
            "table3",
            {"of_256": fraction, **options},
            lambda options=options: part(measured(bench, run, options), *DISTANCES, "kid_style", "seconds_per_image"),
        )
        strips.append(strip(bench, run, options))
    bench.save_sheet("table3", np.concatenate(strips), 8)


def table1(bench: Bench, run: Path) -> None:
    """Samples at several temperatures, one step for each token."""
    strips: list[NDArray[np.uint8]] = []
    for temperature in bench.scale.temperatures:
        options: dict[str, Any] = {"steps": bench.scale.tokens}
        if temperature != 1.0:  # the run's own, for which table 4 has drawn already
            options["temperature"] = temperature
        bench.row(
            "table1",
            {"temperature": temperature},
            lambda options=options: part(measured(bench, run, options), *DISTANCES, *LIKENESS),
        )
        strips.append(strip(bench, run, options))
    bench.save_sheet("table1", np.concatenate(strips), 8)


def part(row: Row, *names: str) -> Row:
    """Some figures of a row."""
    return {name: row[name] for name in names}
