"""What the evaluation's features mind: ``python bench/quality/feature_sensitivity.py [--per-label 100]``.

Real unseen images, barely altered, stand where samples stand in an evaluation: how many of the other real images they
still cover, and how often a linear classifier tells them from those. Drawings of flat colours are a hard case: noise
of a single level of 255, which nobody sees, is enough to be told apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from smalti_train.evaluation.classify import told_apart
from smalti_train.evaluation.evaluate import NEIGHBOURS, blurred, per_label
from smalti_train.evaluation.features import open_features
from smalti_train.evaluation.metrics import prdc
from smalti_train.evaluation.subject import data_of

Pixels = NDArray[np.uint8]


def noisy(deviation: float) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """Gaussian noise, in levels of 255."""
    return lambda image, rng: np.clip(np.round(image + rng.normal(0, deviation, image.shape)), 0, 255).astype(np.uint8)


def soft(radius: float) -> Callable[[Pixels, np.random.Generator], Pixels]:
    """Gaussian blur, in pixels."""
    return lambda image, rng: blurred(image[np.newaxis], radius)[0]


ALTERATIONS = {
    "none": lambda image, rng: image,
    "noise 1/255": noisy(1),
    "noise 3/255": noisy(3),
    "blur 0.5 pixels": soft(0.5),
    "blur 1 pixel": soft(1),
    "blur 2 pixels": soft(2),
}


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-label", type=int, default=100)
    count = parser.parse_args().per_label
    test = data_of("avatars", 256, 2 * count * 8, None)
    network = open_features()
    chosen = per_label(test, count)
    real, labels, others = network(test.images[chosen]), test.labels[chosen], test.images[per_label(test, count, count)]
    print("|".join(["", "alteration", *test.label_names, "told apart, %", ""]))
    print("|".join(["", *["---"] * (2 + len(test.label_names)), ""]))
    for name, alter in ALTERATIONS.items():
        rng = np.random.default_rng(0)
        features = network(np.stack([alter(image, rng) for image in others]))
        covered = [
            prdc(real[labels == i], features[labels == i], NEIGHBOURS).coverage for i in range(len(test.label_names))
        ]
        told = 100 * told_apart(real, features)
        print("|".join(["", name, *(f"{value:.2f}" for value in covered), f"{told:.1f}", ""]), flush=True)


if __name__ == "__main__":
    main()
