"""Class-conditional Fashion-MNIST, pixel by pixel (section 4.2): samples, and whether they show what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from claims.common import Row
from claims.samples import drawn
from claims.sundae_sizes import SundaeBench
from smalti_train.data import ImageSet, open_dataset
from smalti_train.runs.config_files import to_json
from smalti_train.trainers.prior import train_prior

SAMPLERS: dict[str, dict[str, Any]] = {
    "half of the pixels, temperature 1 to 0.7": {},
    "the same, guidance 2": {"guidance": 2.0},
    "the same, guidance 3": {"guidance": 3.0},
    "all pixels, temperature 0.9": {"proportion": 1.0, "temperature": 0.9, "final_temperature": 0.9},
}
"""The runtime's defaults, with and without guidance, and what the paper's code did with digits."""
COLUMNS = 10
"""Of the sheet, a row for each label."""


def pixelwise(bench: SundaeBench) -> Path:
    """The run of the prior over grey pixels, trained unless it is there."""
    run, pixels, config = bench.work / "fashion", bench.work / "fashion-pixels", bench.sizes.pixelwise

    def training() -> None:
        pixels.mkdir(parents=True, exist_ok=True)
        (pixels / "config.json").write_bytes(to_json(bench.sizes.pixels))
        train_prior(config, run, pixels)

    bench.train(run, config.loop.steps, training)
    return run


def images(bench: SundaeBench, split: str, count: int | None = None) -> ImageSet:
    """Real pictures."""
    root = bench.sizes.pixelwise.data.root
    return open_dataset("fashion-mnist", size=28, split=split, count=count, root=None if root is None else Path(root))


def _values(pictures: NDArray[np.uint8]) -> Tensor:
    """float32 [N, 1, 28, 28] in -1 .. 1 of uint8 [N, 28, 28, 3]."""
    return torch.from_numpy(np.array(pictures[..., 0])).float()[:, None] / 127.5 - 1


def classifier(bench: SundaeBench) -> nn.Module:
    """Two convolutions and two linear layers that tell the labels of real pictures, trained unless they are there."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)),
    )
    path = bench.work / "classifier.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    count, passes = bench.sizes.lessons
    data = images(bench, "train", count)
    values, labels = _values(np.asarray(data.images)), torch.from_numpy(data.labels.astype(np.int64))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(passes):
        for chosen in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(values[chosen]), labels[chosen]).backward()
            optimizer.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model.eval()


@torch.no_grad()
def _hits(model: nn.Module, pictures: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which pictures (uint8 [N, 28, 28, 3]) the classifier gives the label that they should have: bool [N]."""
    told = torch.cat([model(_values(pictures[i : i + 256])).argmax(1) for i in range(0, len(pictures), 256)])
    return told.numpy() == labels


def fashion(bench: SundaeBench) -> None:
    """Draw every label by each sampler, and let the classifier say what the samples show."""
    run, sizes, test = pixelwise(bench), bench.sizes, images(bench, "test")
    labels = np.repeat(np.arange(10), sizes.per_class)

    def samples(options: dict[str, Any]) -> tuple[NDArray[np.uint8], float]:
        return drawn(bench, run, {"steps": sizes.pixel_steps, **options}, test, sizes.per_class)

    for name, options in SAMPLERS.items():

        def measure(options: dict[str, Any] = options) -> Row:
            model = classifier(bench)
            pictures, seconds = samples(options)
            hits = _hits(model, pictures, labels)
            return {
                "samples": len(pictures),
                "label_agreement": float(hits.mean()),
                "of_real_pictures": float(_hits(model, np.asarray(test.images), test.labels).mean()),
                "by_label": dict(zip(test.label_names, hits.reshape(10, -1).mean(1).tolist(), strict=True)),
                "seconds_per_image": seconds,
            }

        bench.row("fashion", {"sampler": name, "steps": sizes.pixel_steps}, measure)
    agreed = {row["setting"]["sampler"]: row["label_agreement"] for row in bench.rows("fashion")}
    pictures, _ = samples(SAMPLERS[max(agreed, key=lambda name: agreed[name])])
    columns = min(COLUMNS, sizes.per_class)
    shown = pictures.reshape(10, sizes.per_class, *pictures.shape[1:])[:, :columns]
    bench.save_sheet("fashion", shown.reshape(-1, *pictures.shape[1:]).repeat(2, 1).repeat(2, 2), columns)
