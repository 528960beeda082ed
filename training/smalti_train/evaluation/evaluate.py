"""Figures of a model: its reconstructions and its samples, compared with unseen images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from smalti.errors import UsageError
from smalti_train.data import ImageSet
from smalti_train.data.progress import image_progress
from smalti_train.evaluation.classify import fit, told_apart
from smalti_train.evaluation.features import FeatureNetwork, cached_features
from smalti_train.evaluation.metrics import code_use, edge_psnr, frechet_distance, kernel_distance, nearest, prdc, psnr
from smalti_train.evaluation.subject import Subject

NEIGHBOURS = 5
"""k in precision, recall, density and coverage."""
CHUNK = 64
"""Images drawn or reconstructed between two ticks of progress."""

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """Samples and the labels that they were drawn for."""

    seeds: tuple[int, ...]
    labels: NDArray[np.int32]
    """int32 [N], indices into the data's label names."""
    images: NDArray[np.uint8]


def per_label(data: ImageSet, count: int, skip: int = 0) -> NDArray[np.int64]:
    """Indices of ``count`` images of every label, after the first ``skip`` of each; label by label."""
    picked: list[NDArray[np.int64]] = []
    for label, name in enumerate(data.label_names):
        found = np.flatnonzero(data.labels == label)[skip : skip + count]
        if len(found) < count:
            raise UsageError(
                f"{data.name} ({data.split}) has {len(found) + skip} images of {name}, and {skip + count} are needed: "
                "ask for fewer with --per-label"
            )
        picked.append(found)
    return np.concatenate(picked)


def reconstruct(subject: Subject, images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Tokens (int32 [N, h, w]) and reconstructions (uint8 like ``images``) of images."""
    tokens: list[NDArray[np.int32]] = []
    decoded: list[NDArray[np.uint8]] = []
    with image_progress("reconstructions", len(images)) as tick:
        for first in range(0, len(images), CHUNK):
            part = subject.encode(images[first : first + CHUNK])
            tokens.append(part)
            decoded.append(subject.decode(part))
            for _ in range(len(part)):
                tick()
    return np.concatenate(tokens), np.concatenate(decoded)


def draw(subject: Subject, data: ImageSet, count: int, seed: int) -> Drawn:
    """Draw ``count`` samples of every label, label by label, from seeds ``seed``, ``seed + 1``, ..."""
    assert subject.draw is not None
    labels = np.repeat(np.arange(len(data.label_names), dtype=np.int32), count)
    seeds = tuple(range(seed, seed + len(labels)))
    images: list[NDArray[np.uint8]] = []
    with image_progress("samples", len(seeds)) as tick:
        for first in range(0, len(seeds), CHUNK):
            part = slice(first, first + CHUNK)
            names: list[str | None] = [data.label_names[label] if subject.classes else None for label in labels[part]]
            images.append(subject.decode(subject.draw(seeds[part], names)))
            for _ in names:
                tick()
    return Drawn(seeds, labels, np.concatenate(images))


def blurred(images: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """Blur images (uint8 [N, H, W, 3]) by a Gaussian of ``radius`` pixels."""
    kernel = ImageFilter.GaussianBlur(radius)
    return np.stack([np.asarray(Image.fromarray(np.asarray(image)).filter(kernel)) for image in images])


def by_label(values: NDArray[np.floating[Any]], labels: NDArray[np.int32], names: tuple[str, ...]) -> dict[str, float]:
    """Mean of ``values`` (float [N]) for each label, and ``mean`` over the labels."""
    means = {name: float(values[labels == label].mean()) for label, name in enumerate(names)}
    return {**means, "mean": float(np.mean(list(means.values())))}


def reconstruction_figures(
    subject: Subject, data: ImageSet, images: NDArray[np.uint8], labels: NDArray[np.int32]
) -> tuple[dict[str, Any], NDArray[np.int32], NDArray[np.uint8]]:
    """Figures of the autoencoder on unseen ``images``; also their tokens and reconstructions."""
    tokens, decoded = reconstruct(subject, images)
    used = code_use(np.bincount(tokens.reshape(-1), minlength=subject.codes))
    return (
        {
            "images": len(images),
            "psnr_db": by_label(psnr(decoded, images), labels, data.label_names),
            "edge_psnr_db": by_label(edge_psnr(decoded, images), labels, data.label_names),
            "codebook_usage_percent": used.percent,
        },
        tokens,
        decoded,
    )


def likelihood_figures(subject: Subject, tokens: NDArray[np.int32], labels: NDArray[np.int32]) -> dict[str, Any]:
    """Negative log-likelihood of unseen images' tokens under the prior, or a bound on it."""
    assert subject.bits is not None
    known = labels if subject.classes else np.zeros_like(labels)
    grids = tokens.reshape(len(tokens), -1)
    bits = subject.bits(grids, known)
    return {"images": len(tokens), "bits_per_token": bits, "bits_per_image": bits * grids.shape[1]}


def distances(real: Features, other: Features, again: Features) -> dict[str, float]:
    """Distances of ``other`` from ``real``, and beside them those of ``again`` (other real images)."""
    return {
        "fid_style": frechet_distance(real, other),
        "fid_style_real_against_real": frechet_distance(real, again),
        "kid_style": kernel_distance(real, other),
        "kid_style_real_against_real": kernel_distance(real, again),
        "told_from_real_percent": 100 * told_apart(real, other),
        "told_from_real_percent_real_against_real": 100 * told_apart(real, again),
    }


def coverage_figures(
    real: Features, other: Features, again: Features, labels: NDArray[np.int32], names: tuple[str, ...]
) -> dict[str, Any]:
    """Precision, recall, density and coverage per label; all sets have the same ``labels`` (int32 [N])."""
    figures: dict[str, Any] = {}
    for label, name in enumerate(names):
        chosen = labels == label
        generated = prdc(real[chosen], other[chosen], NEIGHBOURS)._asdict()
        reference = prdc(real[chosen], again[chosen], NEIGHBOURS)._asdict()
        figures[name] = {**generated, **{f"{key}_real_against_real": value for key, value in reference.items()}}
    return {"k": NEIGHBOURS, "per_label": int((labels == 0).sum()), **figures}


def label_figures(
    train: Features,
    train_labels: NDArray[np.int32],
    real: Features,
    drawn: Features,
    labels: NDArray[np.int32],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """Share of samples in which a classifier trained on real images finds the label that they were drawn for."""
    classifier = fit(train, train_labels, len(names))
    seen = classifier.predict(drawn) == labels
    return {
        "trained_on": len(train),
        "agreement_percent": {name: 100 * value for name, value in by_label(seen * 1.0, labels, names).items()},
        "accuracy_on_real_percent": 100 * classifier.accuracy(real, labels),
    }


def neighbour_figures(drawn: Features, real: Features, train: Features) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Distances of samples and of unseen real images to their nearest training images; and the samples' nearest ones.

    Samples of a model that copies are much nearer to training images than unseen real images are.
    """
    closest = nearest(drawn, train, 3)
    reach = np.linalg.norm(drawn - train[closest[:, 0]], axis=1)
    usual = np.linalg.norm(real - train[nearest(real, train, 1)[:, 0]], axis=1)
    return {
        "training_images": len(train),
        "median_distance": float(np.median(reach)),
        "least_distance": float(reach.min()),
        "median_distance_of_unseen_real": float(np.median(usual)),
        "least_distance_of_unseen_real": float(usual.min()),
    }, closest


def training_features(network: FeatureNetwork, train: ImageSet) -> Features:
    """Features of a training split, cached on disk."""
    key = Path(str(train.images.filename)).parent.name
    return cached_features(network, key, train.images, f"features of {len(train)} training images")
