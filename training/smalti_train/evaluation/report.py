"""A whole evaluation: figures as plain values, a report in Markdown, and sheets of images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smalti.saving.formats import contact_sheet
from smalti_train.data import ImageSet
from smalti_train.evaluation import evaluate as measure
from smalti_train.evaluation.features import FeatureNetwork
from smalti_train.evaluation.subject import Subject

LABEL_IMAGES = 4000
"""Training images that the label classifier learns from."""
SHEET_COLUMNS = 8


def evaluate(
    subject: Subject,
    network: FeatureNetwork,
    test: ImageSet,
    train: ImageSet | None,
    per_label: int,
    seed: int = 0,
    blur: float = 0,
) -> tuple[dict[str, Any], dict[str, Image.Image]]:
    """Evaluate ``subject`` on ``per_label`` unseen images and as many samples of every label.

    ``test`` holds twice as many unseen images per label: one half is the reference, the other half is measured like the
    samples, to show what real images would get. ``train`` serves to look for copies and to train the label classifier.
    If it is None, or the subject draws nothing, samples are left out. With ``blur`` above 0, precision, recall, density
    and coverage are measured once more with all images blurred by so many pixels, which removes what eyes do not see.
    Returns the figures as plain values and sheets by name. Equal arguments give equal figures on one machine.
    """
    names = test.label_names
    chosen, others = measure.per_label(test, per_label), measure.per_label(test, per_label, per_label)
    images, labels = test.images[chosen], test.labels[chosen]
    reconstruction, tokens, decoded = measure.reconstruction_figures(subject, test, images, labels)
    _say("features of unseen images")
    real, again, made = network(images), network(test.images[others]), network(decoded)
    reconstruction |= measure.distances(real, made, again)
    reconstruction["coverage"] = measure.coverage_figures(real, made, again, labels, names)
    figures: dict[str, Any] = {
        "subject": {"name": subject.name, "kind": subject.kind, "settings": subject.settings},
        "data": {"name": test.name, "split": test.split, "size": test.size, "labels": list(names)},
        "features": network.name,
        "reconstruction": reconstruction,
    }
    sheets = {"reconstructions": _pairs(images, decoded, labels, len(names))}
    drawn = measure.draw(subject, test, per_label, seed) if subject.draw is not None and train is not None else None
    if blur:
        _say("features of blurred images")
        parts = {"reconstruction": decoded} | ({"samples": drawn.images} if drawn is not None else {})
        dim, dim_again = (network(measure.blurred(some, blur)) for some in (images, test.images[others]))
        figures["blurred"] = {"pixels": blur} | {
            name: measure.coverage_figures(dim, network(measure.blurred(part, blur)), dim_again, labels, names)
            for name, part in parts.items()
        }
    if drawn is None or train is None:
        return figures, sheets
    if subject.bits is not None:
        _say("likelihood")
        figures["likelihood"] = measure.likelihood_figures(subject, tokens, labels)
    _say("features of samples")
    features = network(drawn.images)
    known = measure.training_features(network, train)
    _say("distances, coverage, classifiers, neighbours")
    neighbours, closest = measure.neighbour_figures(features, real, known)
    figures["samples"] = {
        "images": len(drawn.seeds),
        "seeds": [drawn.seeds[0], drawn.seeds[-1]],
        **measure.distances(real, features, again),
        "coverage": measure.coverage_figures(real, features, again, labels, names),
        "labels": measure.label_figures(
            known[:LABEL_IMAGES], train.labels[:LABEL_IMAGES], real, features, drawn.labels, names
        ),
        "neighbours": neighbours,
    }
    first = [np.flatnonzero(drawn.labels == label) for label in range(len(names))]
    by_column = np.stack([found[:SHEET_COLUMNS] for found in first], axis=1).reshape(-1)
    sheets["samples"] = contact_sheet(drawn.images[by_column], len(names))
    some = np.concatenate([found[:2] for found in first])
    rows = [np.concatenate([drawn.images[i : i + 1], train.images[np.array(closest[i])]]) for i in some]
    sheets["neighbours"] = contact_sheet(np.concatenate(rows), 8)
    return figures, sheets


def text(figures: dict[str, Any]) -> str:
    """The figures of :func:`evaluate` as Markdown."""
    names = figures["data"]["labels"]
    made = figures["features"]
    parts = [
        f"# {figures['subject']['name']} ({figures['subject']['kind']})",
        f"Data: {figures['data']['name']}, {figures['data']['split']} split, {figures['data']['size']} pixels. "
        f"Distances and classifiers use {made} features; FID-style and KID-style figures with them are not FID or KID "
        "as published. In brackets: the same figure for unseen real images in place of the model's.",
    ]
    part = figures["reconstruction"]
    parts.append(f"## Reconstruction of {part['images']} unseen images")
    parts.append(
        _table(["", *names, "mean"], [_row("PSNR, dB", part["psnr_db"]), _row("edge PSNR, dB", part["edge_psnr_db"])])
    )
    parts.append(_bullets([f"codebook usage: {part['codebook_usage_percent']:.1f} %", *_distance_lines(part, made)]))
    parts.append(_coverage_table(part["coverage"], names))
    if "samples" in figures:
        part = figures["samples"]
        parts.append(f"## {part['images']} samples at {_settings(figures['subject']['settings'])}")
        lines: list[str] = []
        if "likelihood" in figures:
            bits = f"{figures['likelihood']['bits_per_token']:.3f} bits per token"
            lines = [f"negative log-likelihood (a bound where the prior is absorbing): {bits}"]
        parts.append(_bullets([*lines, *_distance_lines(part, made)]))
        agreement = _row("label agreement, %", {n: part["labels"]["agreement_percent"][n] for n in names})
        parts.append(_coverage_table(part["coverage"], names, agreement))
        labels, near = part["labels"], part["neighbours"]
        parts.append(
            _bullets(
                [
                    f"label agreement: {labels['agreement_percent']['mean']:.1f} % (the classifier is right on "
                    f"{labels['accuracy_on_real_percent']:.1f} % of unseen real images)",
                    f"distance to the nearest of {near['training_images']} training images: median "
                    f"{near['median_distance']:.2f}, least {near['least_distance']:.2f} "
                    f"({near['median_distance_of_unseen_real']:.2f}, {near['least_distance_of_unseen_real']:.2f})",
                ]
            )
        )
    if "blurred" in figures:
        part = figures["blurred"]
        for name in [name for name in ("reconstruction", "samples") if name in part]:
            parts.append(f"## {name.capitalize()}, all images blurred by {part['pixels']} pixels")
            parts.append(_coverage_table(part[name], names))
    return "\n\n".join(parts) + "\n"


def write(folder: Path, figures: dict[str, Any], sheets: dict[str, Image.Image]) -> list[Path]:
    """Write ``figures.json``, ``report.md`` and the sheets into ``folder``. Raises OutputError when that fails."""
    import json

    from smalti.saving.formats import save_png
    from smalti.system.files import check_folder, write_whole

    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "figures.json", json.dumps(figures, indent=2).encode() + b"\n")
    write_whole(folder / "report.md", text(figures).encode())
    for name, sheet in sheets.items():
        save_png(sheet, folder / f"{name}.png")
    return [folder / "figures.json", folder / "report.md", *(folder / f"{name}.png" for name in sheets)]


def _pairs(
    images: NDArray[np.uint8], decoded: NDArray[np.uint8], labels: NDArray[np.int32], classes: int
) -> Image.Image:
    """Unseen images above their reconstructions, one column per label."""
    rows: list[NDArray[np.uint8]] = []
    for index in range(3):
        some = np.array([np.flatnonzero(labels == label)[index] for label in range(classes)])
        rows += [images[some], decoded[some]]
    return contact_sheet(np.concatenate(rows), classes)


def _distance_lines(part: dict[str, Any], made: str) -> list[str]:
    def line(title: str, key: str, digits: int, unit: str = "") -> str:
        return f"{title}: {part[key]:.{digits}f}{unit} ({part[key + '_real_against_real']:.{digits}f}{unit})"

    return [
        line(f"FID-style ({made})", "fid_style", 3),
        line(f"KID-style ({made})", "kid_style", 5),
        line("told from real ones by a linear classifier", "told_from_real_percent", 1, " %"),
    ]


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items() if not isinstance(value, dict))


def _row(title: str, values: dict[str, float]) -> list[str]:
    return [title, *(f"{value:.1f}" for value in values.values())]


def _coverage_table(coverage: dict[str, Any], names: list[str], *more: list[str]) -> str:
    """A table of precision, recall, density and coverage, a column per label, with ``more`` rows below."""
    rows = [
        [kind, *(f"{coverage[name][kind]:.2f} ({coverage[name][kind + '_real_against_real']:.2f})" for name in names)]
        for kind in ("precision", "recall", "density", "coverage")
    ]
    return _table([f"k = {coverage['k']}, N = {coverage['per_label']}", *names], [*rows, *more])


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _say(what: str) -> None:
    print(f"evaluate: {what}", file=sys.stderr, flush=True)
